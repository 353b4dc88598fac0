"""LeNet-5: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".

    input 32 × 32 → C1 6@28 → S2 6@14 → C3 16@10 → S4 16@5 → C5 120 → F6 84 → classes

As in the paper: five weighted layers, kernels of 5 × 5, numbers of maps and units, 28 × 28 digits padded to
32 × 32. Departures, all usual today: C3 sees all six maps of S2 (the paper: a table of subsets), pooling
takes the maximum (a trained average), units are ReLU (1.7159 tanh(2x/3); `activation="tanh"` comes near),
and logits go to a softmax (distances to fixed codes).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svertka.models.layers import Blocks, Options, dropout
from svertka.models.network import Network


@dataclass(frozen=True)
class LeNetPlan:
    """Maps of C1 and C3, units of C5 and F6."""

    maps: tuple[int, int] = (6, 16)
    units: tuple[int, int] = (120, 84)


def lenet(plan: LeNetPlan, options: Options) -> Network:
    """Images (n, c, size, size) to logits (n, classes). Images under 32 px get a border of 2 zeros."""
    blocks = Blocks(options.activation, options.norm)
    (c1, c3), (c5, f6) = plan.maps, plan.units
    border = 2 if options.size < 32 else 0
    side = ((options.size + 2 * border - 4) // 2 - 4) // 2  # of the maps of S4
    stem = nn.Sequential(blocks.conv(options.in_channels, c1, 5, padding=border), nn.MaxPool2d(2))
    stage = nn.Sequential(blocks.conv(c1, c3, 5, padding=0), nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.Flatten(),
        blocks.linear(c3 * side * side, c5),
        *dropout(options.dropout),
        blocks.linear(c5, f6),
        *dropout(options.dropout),
        nn.Linear(f6, options.classes),
    )
    return Network(stem, [stage], head)
