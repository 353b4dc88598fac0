"""GoogLeNet and Inception v3: the tables of their papers, and auxiliary classifiers in training only."""

import pytest
import torch
import torchvision
from torch import nn

from svertka.errors import OptionError
from svertka.models.catalog import ROWS, build, skeleton
from svertka.models.inception import FiveByFive
from svertka.models.layers import Parallel
from svertka.models.network import AuxiliaryStage, Outputs
from svertka.models.rows import options


def modules_of(name: str, side: int) -> list[tuple[int, int]]:
    """Maps and grid after each module of a net."""
    x = torch.empty(1, 3, side, side, device="meta")
    network = skeleton(ROWS[name])
    x, shapes = network.stem(x), []
    for stage in network.stages:
        for module in stage.body if isinstance(stage, AuxiliaryStage) else stage:
            x = module(x)
            if isinstance(module, Parallel):
                shapes.append((x.shape[1], x.shape[2]))
    return shapes


def test_modules_have_the_output_sizes_of_table_1_of_v1():
    assert modules_of("googlenet", 224) == [
        (256, 28), (480, 28), (512, 14), (512, 14), (512, 14), (528, 14), (832, 14), (832, 7), (1024, 7),
    ]  # fmt: skip


def test_modules_have_the_grids_of_table_1_of_v3():
    assert modules_of("inception_v3", 299) == [
        (256, 35), (288, 35), (288, 35), *[(768, 17)] * 5, (1280, 8), (2048, 8), (2048, 8),
    ]  # fmt: skip


def test_rows_and_columns_come_in_torchvisions_order():
    with torch.device("meta"):
        theirs = torchvision.models.inception_v3(weights=None, init_weights=False)
    shapes = [[p.shape for p in network.parameters()] for network in (skeleton(ROWS["inception_v3"]), theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "num_auxiliary"), [("googlenet", 2), ("inception_v3", 1)])
def test_auxiliary_classifiers_answer_in_training_only(name, num_auxiliary):
    network = build(name, classes=3, dropout=0.0)
    images = torch.randn(2, 3, 80, 80)
    with torch.no_grad():
        assert isinstance(network.eval()(images), torch.Tensor)
        outputs = network.train()(images)
        assert isinstance(outputs, Outputs)
        assert [logits.shape for logits in outputs.auxiliary] == [(2, 3)] * num_auxiliary
        x, expected = network.stem(images), []
        for stage in network.stages:
            x = stage(x)
            if isinstance(stage, AuxiliaryStage):
                expected.append(stage.classifier(x))
    for logits, same in zip(outputs.auxiliary, expected, strict=True):
        torch.testing.assert_close(logits, same)


def test_auxiliary_classifiers_hang_on_4a_4d_and_the_last_of_17():
    places = [
        [
            index
            for index, stage in enumerate(skeleton(ROWS[name]).stages)
            if isinstance(stage, AuxiliaryStage)
        ]
        for name in ("googlenet", "inception_v3")
    ]
    assert places == [[1, 2], [1]]
    assert [len(stage.body) for stage in (skeleton(ROWS["googlenet"]).stages[i] for i in (1, 2))] == [1, 3]


def test_the_grid_of_v3s_classifier():
    pool = FiveByFive()
    x = torch.randn(1, 2, 17, 20)
    assert torch.equal(pool(x), nn.functional.avg_pool2d(x, 5, stride=3))
    small = torch.randn(1, 2, 3, 17)
    assert torch.equal(pool(small), nn.functional.adaptive_avg_pool2d(small, 5))


def test_dropout():
    def probabilities(name: str, dropout: float) -> list[float]:
        network = skeleton(ROWS[name], options(ROWS[name], dropout=dropout))
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    assert probabilities("googlenet", 0.4) == [0.7, 0.7, 0.4]
    assert probabilities("inception_v3", 0.4) == [0.4]
    assert probabilities("googlenet", 0.0) == probabilities("inception_v3", 0.0) == []


def test_v3_refuses_instance_norm():
    with pytest.raises(OptionError, match="inception_v3: the auxiliary classifier has maps of one pixel"):
        build("inception_v3", norm="instance")
