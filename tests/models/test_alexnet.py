"""AlexNet against the grids of its paper, and the places of its dropout."""

import pytest
import torch
from torch import nn

from svertka.models.catalog import ROWS, build, skeleton


def test_grids_are_those_of_the_paper():
    network = skeleton(ROWS["alexnet"])
    image = torch.empty(1, 3, 224, 224, device="meta")
    assert network.stem[0](image).shape == (1, 64, 55, 55)
    x = network.stem(image)
    shapes = [tuple(x.shape[1:])] + [tuple((x := stage(x)).shape[1:]) for stage in network.stages]
    assert shapes == [(64, 27, 27), (192, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6)]


def test_the_average_before_fc6_changes_nothing_at_its_own_size():
    features = torch.randn(2, 256, 6, 6)
    pool = skeleton(ROWS["alexnet"]).head[0]
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    assert torch.equal(pool(features), features)


def test_dropout_stands_before_fc6_and_fc7():
    head = build("alexnet", classes=2, dropout=0.25).head
    kinds = [type(layer).__name__ for layer in head]
    assert kinds[2:] == ["Dropout", "Sequential", "Dropout", "Sequential", "Linear"]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    assert not [layer for layer in build("alexnet", dropout=0.0).modules() if isinstance(layer, nn.Dropout)]


def test_parameters_are_near_the_papers_sixty_million():
    assert ROWS["alexnet"].parameters / 1e6 == pytest.approx(60, rel=0.02)  # one tower: 61.1 million
