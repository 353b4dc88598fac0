"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov & Chen 2018, "Inverted residuals and linear bottlenecks".

Depthwise convolutions cost k² multiplications a value instead of k²·c, so nearly all of the 300 million
stand in the 1×1 convolutions. The blocks are in `inverted.py`; the activation is min(max(x, 0), 6), made
for low-precision arithmetic. A stage holds all blocks of one resolution; the last one ends with the 1×1 to
1280 maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from svertka.models.inverted import Group, inverted_stages
from svertka.models.layers import Blocks, Options, pooled_head
from svertka.models.network import Network

TABLE_2 = (
    # expansion t, kernel, stride s, maps c, repeats n
    Group(1, 3, 1, 16, 1),
    Group(6, 3, 2, 24, 2),
    Group(6, 3, 2, 32, 3),
    Group(6, 3, 2, 64, 4),
    Group(6, 3, 1, 96, 3),
    Group(6, 3, 2, 160, 3),
    Group(6, 3, 1, 320, 1),
)


@dataclass(frozen=True)
class MobileNetPlan:
    """Table 2 of the paper: maps of the stem, the groups, maps of the last convolution."""

    stem: int = 32
    groups: tuple[Group, ...] = TABLE_2
    last: int = 1280


def mobilenet(plan: MobileNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes)."""
    blocks = Blocks(options.activation, options.norm)
    stem = blocks.conv(options.in_channels, plan.stem, 3, stride=2)
    stages = inverted_stages(blocks, plan.stem, plan.groups, plan.last)
    return Network(stem, stages, pooled_head(plan.last, options))
