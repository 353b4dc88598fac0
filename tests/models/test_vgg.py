"""VGG against tables 1 and 2 of its paper."""

import pytest
import torch
from torch import nn

from svertka.models.catalog import ROWS, skeleton
from svertka.models.rows import options

TABLE_2 = {"vgg11": 133, "vgg13": 133, "vgg16": 138, "vgg19": 144}  # millions of parameters


@pytest.mark.parametrize(("name", "millions"), TABLE_2.items())
def test_parameters_are_the_papers(name, millions):
    assert round(ROWS[name].parameters / 1e6) == millions


@pytest.mark.parametrize("name", TABLE_2)
def test_each_stage_halves_the_grid_with_3x3_kernels(name):
    network = skeleton(ROWS[name])
    kernels = {module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)}
    assert kernels == {(3, 3)}
    x = torch.empty(1, 3, 224, 224, device="meta")
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in (network.stem, *network.stages)]
    assert shapes == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]


def test_bn_nets_are_the_others_with_batch_norm():
    plain, normed = ROWS["vgg16"], ROWS["vgg16_bn"]
    by_option = skeleton(plain, options(plain, norm="batch")).state_dict()
    by_name = skeleton(normed).state_dict()
    assert {n: v.shape for n, v in by_option.items()} == {n: v.shape for n, v in by_name.items()}
    extra = normed.parameters - plain.parameters
    assert extra == 2 * sum(maps * n for maps, n in zip(plain.plan.maps, plain.plan.layers, strict=True))
    assert all(m.bias is not None for m in skeleton(normed).modules() if isinstance(m, nn.Conv2d))


def test_dropout_stands_after_fc6_and_fc7():
    row = ROWS["vgg11"]
    head = skeleton(row, options(row, dropout=0.25)).head
    assert [type(layer).__name__ for layer in head][2:] == [
        "Sequential", "Dropout", "Sequential", "Dropout", "Linear",
    ]  # fmt: skip
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
