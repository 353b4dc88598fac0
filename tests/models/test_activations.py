"""Activations against torch.nn.functional, the papers' formulas and finite differences."""

import math

import pytest
import torch
from torch.nn import functional as F

from svertka.errors import OptionError
from svertka.models.activations import ACTIVATIONS, LearnedSwish, activation, gain, widening

FORMULAS = {
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "relu": lambda x: torch.where(x > 0, x, 0 * x),
    "relu6": lambda x: x.clamp(0, 6),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "prelu": lambda x: torch.where(x > 0, x, 0.25 * x),
    "elu": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (torch.exp(x) - 1)),
    "maxout": lambda x: torch.maximum(x[:, 0::2], x[:, 1::2]),
    "swish": lambda x: x * torch.sigmoid(x),
    "silu": F.silu,
    "swish_learned": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
}


def test_every_activation_has_a_formula():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3, 4)])
def test_values_and_derivatives(name, shape):
    channels = 6 // widening(name)
    x = 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module = activation(name, channels).double()
    assert module(x).shape == (2, channels, *shape[2:])
    torch.testing.assert_close(module(x), FORMULAS[name](x), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(module, x.requires_grad_())


def test_swish_learns_its_slope():
    swish = LearnedSwish().double()
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    with torch.no_grad():
        swish.beta.fill_(2.5)
    torch.testing.assert_close(swish(x), x * torch.sigmoid(2.5 * x))
    swish(x).sum().backward()
    s = torch.sigmoid(2.5 * x)
    torch.testing.assert_close(swish.beta.grad, (x * x * s * (1 - s)).sum())


def test_prelu_has_one_slope_a_channel():
    assert activation("prelu", 7).weight.shape == (7,)


def test_unknown_names_are_refused():
    with pytest.raises(OptionError, match=r"no activation 'rleu': did you mean 'relu'\?"):
        activation("rleu", 1)


def test_gain_keeps_the_mean_square():
    assert gain("relu") == pytest.approx(math.sqrt(2), rel=1e-6)
    assert gain("leaky_relu") == pytest.approx(math.sqrt(2 / (1 + 0.01**2)), rel=1e-6)
    assert gain("selu") == pytest.approx(1, rel=1e-5)  # Klambauer et al. 2017: the fixed point
    assert gain("identity") == pytest.approx(1, rel=1e-6)
    z = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0))
    for name in ACTIVATIONS:
        energy = float((activation(name, 4 // widening(name))(z) ** 2).detach().mean())
        assert gain(name) ** 2 * energy == pytest.approx(1, rel=0.02), name
