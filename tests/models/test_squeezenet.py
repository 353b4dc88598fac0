"""SqueezeNet against table 1 of its paper, and its classifier, which is a convolution."""

import pytest
import torch
from torch import nn

from svertka.models.catalog import ROWS, build, skeleton
from svertka.models.head import replace_head
from svertka.models.layers import Parallel
from svertka.models.network import last_layer

TABLE_1 = {  # parameters before pruning
    "conv1": 14_208, "fire2": 11_920, "fire3": 12_432, "fire4": 45_344, "fire5": 49_440,
    "fire6": 104_880, "fire7": 111_024, "fire8": 188_992, "fire9": 197_184, "conv10": 513_000,
}  # fmt: skip


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_each_module_are_the_papers():
    network = skeleton(ROWS["squeezenet1_0"])
    fires = [module for stage in network.stages for module in stage if isinstance(module, nn.Sequential)]
    assert all(isinstance(fire[1], Parallel) for fire in fires)
    assert [count(network.stem), *map(count, fires), count(network.head)] == list(TABLE_1.values())
    assert ROWS["squeezenet1_0"].parameters == sum(TABLE_1.values()) == 1_248_424


def test_1_1_costs_2_4_times_less():
    assert ROWS["squeezenet1_0"].macs / ROWS["squeezenet1_1"].macs == pytest.approx(2.4, rel=0.03)


def test_a_new_task_replaces_the_classifier_convolution():
    network = build("squeezenet1_1", classes=7)
    old = last_layer(network)[2]
    assert isinstance(old, nn.Conv2d)
    others = {name: value.clone() for name, value in network.state_dict().items() if "head" not in name}
    replace_head(network, 4)
    new = last_layer(network)[2]
    assert isinstance(new, nn.Conv2d)
    assert new.weight.shape == (4, 512, 1, 1)
    assert network(torch.randn(2, 3, 33, 33)).shape == (2, 4)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in others.items())


def test_logits_are_averages_of_rectified_maps_whatever_the_activation():
    network = build("squeezenet1_1", classes=5, activation="tanh", init="xavier_normal").eval()
    images = torch.randn(2, 3, 65, 65)
    features = network.features(images)
    assert (features.abs() <= 1).all()
    maps = last_layer(network)[2](features)
    assert (maps < 0).any()
    torch.testing.assert_close(network(images), maps.clamp(min=0).mean((2, 3)))


def test_dropout_stands_before_the_classifier():
    assert isinstance(build("squeezenet1_1", dropout=0.25).head[0], nn.Dropout)
    assert not [m for m in build("squeezenet1_1", dropout=0.0).modules() if isinstance(m, nn.Dropout)]
