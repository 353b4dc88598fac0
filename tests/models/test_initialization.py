"""Initialisations against torch.nn.init, the papers' variances, and what they promise of activations."""

import math

import pytest
import torch
from torch import nn

from svertka.errors import DataError, OptionError
from svertka.models.catalog import build
from svertka.models.initialization import INITS, Scheme, initialize, initialize_layer, initialize_with_data
from svertka.models.initialization import scheme as scheme_named
from svertka.models.layers import Residual
from svertka.models.network import Network
from svertka.randomness import torch_generator

RELU = math.sqrt(2)


def conv(init: str, inputs: int = 64, outputs: int = 96, kernel: int = 3, **more) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, **more)
    initialize_layer(layer, scheme_named(init), torch_generator(0, "init"), RELU)
    return layer


STANDARD_DEVIATIONS = {  # of a 3×3 convolution from 64 to 96 channels: fan_in 576, fan_out 864
    "torch": 1 / math.sqrt(3 * 576),
    "normal_001": 0.01,
    "xavier_normal": math.sqrt(2 / (576 + 864)),
    "xavier_uniform": math.sqrt(2 / (576 + 864)),
    "lecun": math.sqrt(1 / 576),
    "kaiming": math.sqrt(2 / 576),
    "kaiming_fan_out": math.sqrt(2 / 864),
    "orthogonal": RELU / math.sqrt(576),
    "random_walk": RELU * math.exp(1.2 / (576 - 2.4)) / math.sqrt(576),
    "krahenbuhl": 1.0,
    "lsuv": 1 / math.sqrt(576),
    "fixup": math.sqrt(2 / 864),
    "resnet": math.sqrt(2 / 864),
    "vgg": math.sqrt(2 / 864),
    "densenet": math.sqrt(2 / 576),
    "squeezenet": math.sqrt(2 / 576),
    "googlenet": 0.01,
    "inception": 0.1,
    "mnasnet": math.sqrt(2 / 864),
    "efficientnet": math.sqrt(2 / 864),
}


def test_every_scheme_is_measured():
    assert set(INITS) == {*STANDARD_DEVIATIONS, "identity"}


@pytest.mark.parametrize("name", STANDARD_DEVIATIONS)
def test_measured_variance(name):
    layer = conv(name)
    weight = layer.weight.detach()
    assert float(weight.std()) == pytest.approx(STANDARD_DEVIATIONS[name], rel=0.015)
    assert float(weight.mean()) == pytest.approx(0, abs=0.02 * STANDARD_DEVIATIONS[name])
    if INITS[name].zero_biases:
        assert not layer.bias.any()
    else:
        assert 0 < float(layer.bias.detach().abs().max()) <= 1 / 24


LINEAR = {  # rules of torchvision's models for a linear layer of 512 inputs and 1000 outputs
    "resnet": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "densenet": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "vgg": lambda w: nn.init.normal_(w, 0, 0.01),
    "mnasnet": lambda w: nn.init.kaiming_uniform_(w, mode="fan_out", nonlinearity="sigmoid"),
    "efficientnet": lambda w: nn.init.uniform_(w, -1 / math.sqrt(1000), 1 / math.sqrt(1000)),
    "torch": lambda w: nn.Linear(512, 1000).weight.detach(),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_are_those_of_the_reference(name):
    layer = nn.Linear(512, 1000)
    initialize_layer(layer, scheme_named(name), torch_generator(0, "init"), RELU, last=True)
    reference = LINEAR[name](torch.empty(1000, 512))
    weight = layer.weight.detach()
    assert float(weight.std()) == pytest.approx(float(reference.std()), rel=0.01)
    tail = float(weight.abs().max() / reference.abs().max())
    assert tail == pytest.approx(1, rel=0.01 if name != "vgg" else 0.2)  # the normal has no bound


def test_orthogonal():
    weight = conv("orthogonal").weight.detach().flatten(1).double() / RELU  # (96, 576): orthonormal rows
    torch.testing.assert_close(weight @ weight.T, torch.eye(96, dtype=torch.float64), atol=1e-5, rtol=0)


def test_orthogonal_by_group():
    weight = conv("orthogonal", 64, 64, groups=4).weight.detach().double() / RELU
    for part in weight.flatten(1).chunk(4):
        torch.testing.assert_close(part @ part.T, torch.eye(16, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("groups", [1, 4, 64])
def test_identity_copies_its_input(groups):
    images = torch.randn(2, 64, 7, 7)
    layer = conv("identity", 64, 128, padding=1, groups=groups)
    with torch.no_grad():
        outputs = layer(images).unflatten(1, (groups, -1))
    expected = images.unflatten(1, (groups, -1))
    torch.testing.assert_close(outputs[:, :, : 64 // groups], expected)
    assert float(layer.weight.detach().unflatten(0, (groups, -1))[:, 64 // groups :].abs().min()) > 0


def deep(init: str, activation: str, units: int = 300, depth: int = 40) -> list[float]:
    """Root mean square of the outputs of each layer of a deep perceptron on normal data."""
    layers = [nn.Linear(units, units) for _ in range(depth)]
    rule, function = scheme_named(init), torch.relu if activation == "relu" else torch.tanh
    x, sizes = torch.randn(200, units, generator=torch.Generator().manual_seed(1)), []
    for index, layer in enumerate(layers):
        initialize_layer(layer, rule, torch_generator(index, "init"), RELU if activation == "relu" else 1.0)
        with torch.no_grad():
            x = function(layer(x))
        sizes.append(float(x.square().mean().sqrt()))
    return sizes


def test_signals_through_forty_layers():
    assert 0.2 < deep("kaiming", "relu")[-1] / deep("kaiming", "relu")[0] < 5
    assert deep("xavier_normal", "relu")[-1] < 1e-4  # half of the energy is lost in each layer
    assert deep("normal_001", "tanh")[-1] < 1e-20
    assert deep("lecun", "tanh")[-1] > 0.05


def test_random_walk_keeps_the_logarithm_of_the_norm():
    """Over many narrow nets log ‖x_D‖ − log ‖x_0‖ averages nearer to zero than with Kaiming's (section 2)."""
    drift = {}
    for name in ("kaiming", "random_walk"):
        logs = []
        for seed in range(150):
            x = torch.randn(1, 20, generator=torch.Generator().manual_seed(seed))
            start = x.norm()
            for index in range(30):
                weight = torch.empty(20, 20)
                scheme_named(name).linear(weight, torch_generator(seed, "init", index), RELU)
                x = torch.relu(x @ weight.T)
            logs.append(float(torch.log(x.norm() / start)))
        drift[name] = sum(logs) / len(logs)
    assert drift["kaiming"] < -1.5
    assert abs(drift["random_walk"]) < 0.6


def test_fixup_is_that_of_the_paper():
    network = build("resnet50", init="fixup", norm="none", classes=7, size=33)
    branches = [module.branch for module in network.modules() if isinstance(module, Residual)]
    assert len(branches) == 16
    for branch in branches:
        first, second, third = [module for module in branch.modules() if isinstance(module, nn.Conv2d)]
        assert not third.weight.any()
        for layer in (first, second):
            usual = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            assert float(layer.weight.detach().std()) == pytest.approx(
                usual * 16 ** (-1 / 4), rel=0.05
            )  # m = 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not network.head[-1].weight.any()
    scalars = [p for p in network.parameters() if p.ndim == 0]
    # each branch: a shift before 3 convolutions and 2 activations, a scale and a shift at its end;
    # one before each of 4 projections; two in the stem; one before the last layer
    assert len(scalars) == 16 * 7 + 4 + 2 + 1
    assert sorted({float(p.detach()) for p in scalars}) == [0.0, 1.0]


def test_fixup_trains_where_nothing_else_normalises():
    network = build("resnet110", init="fixup", norm="none", seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(network(images), torch.arange(8))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(10), abs=1e-5)
    assert losses[-1] < losses[0] - 0.1


def outputs_of_layers(network: Network, images: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(lambda _, __, y: found.append(y)) for layer in layers]
    with torch.no_grad():
        network.train()(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("name", "norm"), [("lenet5", "none"), ("resnet20", "batch"), ("plain20", "none")])
def test_lsuv_makes_unit_variance(name, norm):
    network = build(name, init="lsuv", norm=norm, in_channels=3, size=32)
    images = 5 + 3 * torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in network.named_buffers()}
    network.eval()
    initialize_with_data(network, images, "lsuv")
    assert not network.training
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())
    for output in outputs_of_layers(network, images):
        assert float(output.var(correction=0)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_krahenbuhl_makes_every_channel_standard(name):
    network = build(name, init="krahenbuhl", in_channels=3, size=32)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    initialize_with_data(network, images, "krahenbuhl")
    for output in outputs_of_layers(network, images):
        dims = (0, *range(2, output.ndim))
        torch.testing.assert_close(output.mean(dims), torch.zeros(output.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            output.std(dims, correction=0), torch.ones(output.shape[1]), atol=1e-3, rtol=0
        )


def test_refusals():
    with pytest.raises(OptionError, match=r"no init 'kaimng': did you mean 'kaiming'\?"):
        scheme_named("kaimng")
    with pytest.raises(OptionError, match=r"'kaiming' does not initialise with data: choose from lsuv"):
        initialize_with_data(build("lenet5"), torch.randn(2, 1, 32, 32), "kaiming")
    with pytest.raises(DataError, match="answers the same for all images"):
        initialize_with_data(build("lenet5", init="lsuv"), torch.zeros(4, 1, 32, 32), "lsuv")
    with pytest.raises(OptionError, match="residual branches; this network has none"):
        initialize(build("lenet5"), "fixup", torch_generator(0, "init"))


def test_values_of_unknown_origin_are_not_left_as_they_are():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    network = Network(Odd(), [], nn.Sequential(nn.Linear(1, 1)))
    with pytest.raises(TypeError, match="Odd has parameters, so it needs a method reset_parameters"):
        initialize(network, "torch", torch_generator(0, "init"))


def test_last_layers_have_rules_of_their_own():
    chosen = Scheme(lambda w, g, _: w.fill_(1), lambda w, g, _: w.fill_(2), last=lambda w, g, _: w.fill_(3))
    layer = nn.Linear(2, 2)
    for last, value in ((False, 2), (True, 3)):
        initialize_layer(layer, chosen, torch_generator(0, "init"), 1.0, last=last)
        assert (layer.weight == value).all()
