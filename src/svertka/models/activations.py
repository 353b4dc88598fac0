"""Activations by name: what stands after a convolution or linear layer.

`activation(name, channels)` gives the module; torch.nn has most of them. Maxout (Goodfellow et al. 2013)
takes the largest of `pieces` maps, so the layer before it must be `widening(name)` times as wide.
`gain(name)` is the factor by which Kaiming's condition enlarges weights so that layer after layer keeps
E[y²] (He et al. 2015, eq. 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svertka.errors import OptionError, nearest
from svertka.shapes import Float

PIECES = 2
"""Maps of which maxout keeps the largest."""


class Maxout(nn.Module):
    """y = max over `pieces` neighbouring channels: (n, pieces·c, …) to (n, c, …). Goodfellow et al. 2013."""

    def __init__(self, pieces: int = PIECES) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Float[Tensor, "n d *s"]) -> Float[Tensor, "n c *s"]:
        return torch.unflatten(x, 1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class LearnedSwish(nn.Module):
    """y = x · sigmoid(β x) with one learned β, which starts at 1 (Ramachandran et al. 2017, section 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.beta)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "identity": lambda channels: nn.Identity(),
    "sigmoid": lambda channels: nn.Sigmoid(),
    "tanh": lambda channels: nn.Tanh(),
    "relu": lambda channels: nn.ReLU(),
    "relu6": lambda channels: nn.ReLU6(),
    "leaky_relu": lambda channels: nn.LeakyReLU(0.01),
    "prelu": nn.PReLU,  # one slope a channel, 0.25 at the start, as in He et al. 2015
    "elu": lambda channels: nn.ELU(),
    "selu": lambda channels: nn.SELU(),
    "maxout": lambda channels: Maxout(),
    "swish": lambda channels: nn.SiLU(),  # β = 1
    "silu": lambda channels: nn.SiLU(),  # the other name of swish with β = 1
    "swish_learned": lambda channels: LearnedSwish(),
    "gelu": lambda channels: nn.GELU(),
    "hardswish": lambda channels: nn.Hardswish(),
}
"""Name to a function that takes the channels it will see (after maxout: the channels it gives)."""


def activation(name: str, channels: int) -> nn.Module:
    """The activation `name` for maps or vectors of so many channels.

    Not in place: hooks, attributions and statistics may look at the values before it.

    Raises:
        OptionError: no such activation.
    """
    if name not in ACTIVATIONS:
        raise OptionError(f"there is no activation {name!r}: {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name](channels)


def widening(name: str) -> int:
    """How many times as many channels the layer before this activation must give."""
    return PIECES if name == "maxout" else 1


def gain(name: str) -> float:
    """1 / √E[f(z)²] for z ~ N(0, 1): √2 for ReLU, 1 for identity, SELU and maxout of two.

    Source: He et al. 2015, eq. 10, for ReLU; the same condition, integrated numerically, for the rest.
    """
    if name == "maxout":
        return 1.0  # E[max(a, b)²] = 1 for two independent standard normals
    function = activation(name, 1).double()
    z = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        energy = torch.trapezoid(function(z[:, None])[:, 0] ** 2 * density, z)
    return 1 / math.sqrt(float(energy))
