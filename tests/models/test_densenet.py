"""DenseNet: the arithmetic of growth, and features that are handed on untouched."""

import pytest
import torch
from torch import nn

from svertka.models.catalog import ROWS, build, rows, skeleton
from svertka.models.layers import Parallel
from svertka.models.rows import options

NAMES = [row.name for row in rows("densenet*")]
LAST = {"densenet121": 1024, "densenet161": 2208, "densenet169": 1664, "densenet201": 1920}


def dense_layers(stage: nn.Module) -> list[Parallel]:
    return [module for module in stage if isinstance(module, Parallel)]


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_adds_k_maps_and_each_transition_keeps_half(name):
    row = ROWS[name]
    network = skeleton(row)
    k, layers = row.plan.growth, row.plan.layers
    x = network.stem(torch.empty(1, 3, 224, 224, device="meta"))
    assert x.shape == (1, 2 * k, 56, 56)
    side = 56
    for stage, count in zip(network.stages, layers, strict=True):
        before = x.shape[1]
        for position, layer in enumerate(dense_layers(stage), start=1):
            x = layer(x)
            assert x.shape[1] == before + position * k
        assert x.shape == (1, before + count * k, side, side)
        for module in stage[count:]:
            x = module(x)
        if stage is not network.stages[-1]:
            side //= 2
            assert x.shape == (1, (before + count * k) // 2, side, side)
    assert x.shape == (1, LAST[name], 7, 7)


def test_depth_is_in_the_name():
    for name in NAMES:  # two convolutions a layer, the stem, three transitions, the linear layer
        assert ROWS[name].depth == int(name.removeprefix("densenet")) == 2 * sum(ROWS[name].plan.layers) + 5


def test_every_layer_sees_all_maps_before_it_untouched():
    block = dense_layers(build("densenet121", classes=2).stages[0])
    x = first = torch.randn(2, 64, 8, 8)
    for layer in block:
        y = layer(x)
        assert torch.equal(y[:, : x.shape[1]], x)
        x = y
    assert torch.equal(x[:, :64], first)


def test_the_last_features_are_rectified():
    assert (build("densenet121", classes=2).eval().features(torch.randn(1, 3, 32, 32)) >= 0).all()


def test_dropout_stands_after_each_layer():
    row = ROWS["densenet121"]
    network = skeleton(row, options(row, dropout=0.25))
    layers = [layer for stage in network.stages for layer in dense_layers(stage)]
    assert len(layers) == 58
    assert all(isinstance(layer.branches[1][-1], nn.Dropout) for layer in layers)
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.25}


def test_without_norm_convolutions_have_biases():
    row = ROWS["densenet121"]
    for norm in ("none", "group"):
        network = skeleton(row, options(row, norm=norm))
        has_bias = {m.bias is not None for m in network.modules() if isinstance(m, nn.Conv2d)}
        assert has_bias == {norm == "none"}
