"""Every architecture that torchvision has too: the same values, gradients and running statistics."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from svertka.models.catalog import ROWS, build
from svertka.models.layers import StochasticDepth
from svertka.models.network import Outputs

SHARED = [name for name in torchvision.models.list_models(torchvision.models) if name in ROWS]


def reference(name: str) -> nn.Module:
    """torchvision's network without values; nothing is dropped."""
    weights = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, **weights)
    for module in network.modules():
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
    return network


def ours(name: str) -> nn.Module:
    """Our network in float64 with random values in all parameters and buffers; nothing is dropped."""
    network = build(name, dropout=0.0).double()
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.uniform_(0.5, 1.5, generator=generator)
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return network


def in_order(network: nn.Module, entries) -> list[torch.Tensor]:
    """Named entries, those of auxiliary classifiers at the end."""
    named = list(entries(network))
    auxiliary = [pair for pair in named if pair[0].lower().startswith("aux") or ".classifier." in pair[0]]
    if not isinstance(network, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        auxiliary = [pair for pair in auxiliary if pair[0].startswith("stages")]
    names = {name for name, _ in auxiliary}
    return [value for name, value in named if name not in names] + [value for _, value in auxiliary]


def parameters(network: nn.Module) -> list[torch.Tensor]:
    return in_order(network, lambda n: n.named_parameters())


def state(network: nn.Module) -> list[torch.Tensor]:
    return in_order(network, lambda n: n.state_dict(keep_vars=True).items())


def carry(source: nn.Module, target: nn.Module) -> nn.Module:
    """A network with the structure of `target` and the values of `source`."""
    target = target.to_empty(device="cpu").double()
    values, places = state(source), state(target)
    assert [value.shape for value in values] == [place.shape for place in places]
    with torch.no_grad():
        for value, place in zip(values, places, strict=True):
            place.copy_(value)
    return target


def logits(output) -> list[torch.Tensor]:
    """The outputs as a list, the main one first, then those of auxiliary classifiers from low to high."""
    if isinstance(output, Outputs):
        return [output.logits, *output.auxiliary]
    if isinstance(output, torch.Tensor):
        return [output]
    return [output.logits, *[getattr(output, field) for field in sorted(output._fields) if "aux" in field]]


def agree(left: list[torch.Tensor], right: list[torch.Tensor], floor: float = 0.0) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        largest = max(b.detach().abs().max().item(), floor)
        assert (a - b).detach().abs().max().item() <= 1e-9 * largest


def test_there_are_shared_names():
    assert {"resnet18", "resnext50_32x4d", "wide_resnet101_2"} <= set(SHARED)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if ROWS[n].parameters > 30e6 or ROWS[n].macs > 5e9 else [])
        for n in SHARED
    ],
)
def test_equals_torchvision(name):
    mine = ours(name)
    theirs = carry(mine, reference(name))
    counts = [sum(p.numel() for p in network.parameters()) for network in (mine, theirs)]
    assert counts[0] == counts[1]
    # torchvision's Inception v3 cannot train on less than 299 px: its auxiliary classifier has no pixel left
    side = 299 if name == "inception_v3" else max(ROWS[name].smallest, 40)
    images = torch.randn(
        4, 3, side, side + 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    for training in (False, True):
        results = [logits(network.train(training)(images)) for network in (mine, theirs)]
        agree(*results)
        gradients = []
        for network, outputs in zip((mine, theirs), results, strict=True):
            weights = torch.linspace(-1, 1, outputs[0].numel(), dtype=torch.float64).view_as(outputs[0])
            total = sum((output * weights).sum() for output in outputs)
            # in eval mode auxiliary classifiers have no gradient
            gradients.append(torch.autograd.grad(total, parameters(network), allow_unused=not training))
        gradients = [[g for g in half if g is not None] for half in gradients]
        # biases before batch norm have no gradient but rounding: measured against the largest of the net
        agree(*gradients, floor=1e-6 * max(float(gradient.abs().max()) for gradient in gradients[1]))
    agree(*[[value.detach().double() for value in state(network)] for network in (mine, theirs)])


def test_a_wrong_order_is_noticed():
    mine = ours("resnet18")
    theirs = carry(mine, reference("resnet18"))
    swapped = copy.deepcopy(theirs)
    with torch.no_grad():
        swapped.layer1[0].bn1.weight.copy_(theirs.layer1[0].bn2.weight)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with pytest.raises(AssertionError):
        agree([mine.eval()(images)], [swapped.eval()(images)])
