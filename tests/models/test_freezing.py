"""Cuts at every depth: the two halves are the network, the trunk never moves, the tail trains it."""

import copy

import pytest
import torch
from torch import nn

from svertka.errors import ModelError
from svertka.models.catalog import ROWS, build
from svertka.models.freezing import Cut, Trunk, cut, depths
from svertka.models.network import AuxiliaryStage, Network, Outputs, last_layer

# one network a family; a small input keeps them quick
FAMILIES = sorted(
    {row.family.name: row for row in reversed(ROWS.values())}.values(), key=lambda row: row.name
)
CUTTABLE = [row.name for row in FAMILIES if row.family.name not in ("Linear", "MLP")]


def network_of(name, **chosen):
    size = max(ROWS[name].smallest, 32)
    return build(name, classes=5, size=size, **chosen), torch.randn(
        2, ROWS[name].channels, size, size, generator=torch.Generator().manual_seed(1)
    )


def with_auxiliary():
    """Two stages, each with an auxiliary classifier, as GoogLeNet's."""

    def stage():
        body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        return AuxiliaryStage(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
    return Network(nn.Conv2d(3, 4, 3), [stage(), stage()], head)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def train_step(tail, inputs, labels):
    optimizer = torch.optim.SGD([p for p in tail.parameters() if p.requires_grad], lr=1e-4, weight_decay=1.0)
    outputs = tail.train()(inputs)
    logits = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    nn.functional.cross_entropy(logits, labels).backward()
    optimizer.step()


@pytest.mark.parametrize("name", CUTTABLE)
def test_the_halves_compose_to_the_network_bitwise_at_every_depth(name):
    network, images = network_of(name)
    with torch.no_grad():
        expected = network.eval()(images)
        for choice in depths(network):
            trunk, tail = cut(network, choice.depth)
            assert torch.equal(tail.eval()(trunk(images)), expected), choice
            assert type(tail) is Network
            num_stages = len(network.stages)
            frozen = num_stages if choice.depth == "all" else max(0, choice.depth - 1)
            assert len(trunk.stages) == frozen


@pytest.mark.parametrize("name", ["resnet18", "lenet5"])
@pytest.mark.parametrize("depth", [1, 2, "all"])
def test_training_the_tail_trains_the_network_and_leaves_the_trunk_alone(name, depth):
    network, images = network_of(name)
    trunk, tail = cut(network.train(), depth)
    before, trunk_before = state(network), state(trunk)
    trunk.train()  # asked for, and not done
    train_step(tail, trunk(images), torch.tensor([0, 1]))
    assert not any(module.training for module in trunk.modules())
    for key, value in state(trunk).items():
        assert torch.equal(value, trunk_before[key]), f"{key} of the trunk moved"
    moved = {key for key, value in state(network).items() if not torch.equal(value, before[key])}
    assert last_layer(network)[2] is last_layer(tail)[2]
    assert len(moved) == len(tail.state_dict())  # everything in the tail moves, its buffers too
    with torch.no_grad():
        assert torch.equal(tail.eval()(trunk(images)), network.eval()(images))


def test_only_the_tail_takes_gradients_and_a_later_cut_frees_again():
    network, images = network_of("resnet18")
    trunk, _ = cut(network, "all")
    assert not any(p.requires_grad for p in trunk.parameters())
    trunk, tail = cut(network, 2)
    assert not any(p.requires_grad for p in trunk.parameters())
    assert all(p.requires_grad for p in tail.parameters())
    assert all(module.training for module in tail.modules())
    outputs = trunk(images)
    assert not outputs.requires_grad
    trunk, tail = cut(network, 0)
    assert tail is network
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())
    assert torch.equal(trunk(images), images)


def test_depths_have_names():
    network, _ = network_of("resnet18")
    assert depths(network) == [
        Cut(0, "nothing"),
        Cut(1, "stem"),
        Cut(2, "stage 1 of 4"),
        Cut(3, "stage 2 of 4"),
        Cut(4, "stage 3 of 4"),
        Cut(5, "stage 4 of 4"),
        Cut("all", "all but the last layer"),
    ]


def test_all_gives_pooled_vectors_and_leaves_dropout_to_the_tail():
    network, images = network_of("resnet18", dropout=0.3)
    trunk, tail = cut(network, "all")
    assert trunk(images).shape == (2, 512)
    assert [type(step) for step in tail.head] == [nn.Dropout, nn.Linear]
    torch.manual_seed(0)
    vectors = trunk(images)
    assert not torch.equal(tail.train()(vectors), tail(vectors))  # it acts


def test_all_cuts_before_a_layer_inside_a_nest_of_sequences():
    convolution = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU())
    head = nn.Sequential(nn.Dropout(0.5), convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(nn.Conv2d(3, 4, 3), [nn.ReLU()], head)
    images = torch.randn(2, 3, 8, 8)
    trunk, tail = cut(network.eval(), "all")
    assert [type(step) for step in tail.head][:2] == [nn.Dropout, nn.Conv2d]
    assert torch.equal(tail(trunk(images)), network(images))


def test_all_refuses_a_last_layer_inside_an_opaque_module():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x.mean((2, 3)))

    network = Network(nn.Conv2d(3, 4, 3), [nn.ReLU()], nn.Sequential(Opaque()))
    with pytest.raises(ModelError, match=r"no plain sequence.*depth up to 2"):
        cut(network, "all")


def test_auxiliary_classifiers_of_frozen_stages_do_not_train():
    network, images = with_auxiliary(), torch.randn(2, 3, 8, 8)
    trunk, tail = cut(network, 2)
    outputs = tail.train()(trunk.train()(images))
    assert isinstance(outputs, Outputs)
    assert len(outputs.auxiliary) == 1  # of the second stage only
    assert not any(p.requires_grad for p in network.stages[0].classifier.parameters())
    assert all(p.requires_grad for p in network.stages[1].classifier.parameters())
    trunk, tail = cut(network, "all")
    assert isinstance(tail.train()(trunk(images)), torch.Tensor)


def test_the_trunk_checks_the_images_and_the_tail_takes_maps_of_any_size():
    network, _ = network_of("lenet5")
    trunk, tail = cut(network, 2)
    with pytest.raises(ModelError, match="exactly 32 pixels"):
        trunk(torch.zeros(1, 1, 20, 20))
    assert tail.sides == (1, None)


@pytest.mark.parametrize("depth", [6, -1, "stem", True, 1.5])
def test_no_such_depth(depth):
    with pytest.raises(ModelError, match=r"no depth .*has 4 stages.*1 \(the stem\) to 5"):
        cut(network_of("resnet18")[0], depth)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_without_stages_there_is_no_cut(name):
    network, images = network_of(name)
    assert depths(network) == [Cut(0, "nothing")]
    trunk, tail = cut(network, 0)
    assert isinstance(trunk, Trunk)
    assert tail is network
    assert tail(trunk(images)).shape == (2, 5)
    for depth in (1, "all"):
        with pytest.raises(ModelError, match="no stages, so there is nowhere to cut"):
            cut(copy.deepcopy(network), depth)
