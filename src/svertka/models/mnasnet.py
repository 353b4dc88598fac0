"""MNASNet: Tan, Chen, Pang, Vasudevan, et al. 2018, "Platform-aware neural architecture search for mobile".

The search chose kernel, expansion, depth and width of each group for accuracy at a given latency on a
phone. This is MnasNet-B1, the variant without squeeze-and-excitation (figure 7 of the paper's first
version), scaled in width; the blocks are those of MobileNetV2, the activation is ReLU. A stage holds all
blocks of one resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from svertka.models.inverted import Group, divisible, inverted_stages
from svertka.models.layers import Blocks, Options, pooled_head
from svertka.models.network import Network

B1 = (
    # expansion, kernel, stride, maps, repeats
    Group(1, 3, 1, 16, 1),  # "SepConv"
    Group(3, 3, 2, 24, 3),
    Group(3, 5, 2, 40, 3),
    Group(6, 5, 2, 80, 3),
    Group(6, 3, 1, 96, 2),
    Group(6, 5, 2, 192, 4),
    Group(6, 3, 1, 320, 1),
)


@dataclass(frozen=True)
class MNASNetPlan:
    """The width factor on the maps of stem and groups; the last convolution keeps its 1280."""

    width: float = 1.0
    stem: int = 32
    groups: tuple[Group, ...] = B1
    last: int = 1280
    momentum: float = 1 - 0.9997  # of the running statistics, as in the reference implementation


def mnasnet(plan: MNASNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes)."""
    blocks = Blocks(options.activation, options.norm, momentum=plan.momentum)
    first = divisible(plan.stem * plan.width)
    groups = [replace(group, maps=divisible(group.maps * plan.width)) for group in plan.groups]
    stem = blocks.conv(options.in_channels, first, 3, stride=2)
    stages = inverted_stages(blocks, first, groups, plan.last)
    return Network(stem, stages, pooled_head(plan.last, options))
