"""EfficientNet: Tan & Le 2019, "Rethinking model scaling for convolutional neural networks"; and Lite.

Compound scaling (section 3.3): depth, width and resolution grow together, from a small net B0 that was
searched for (Table 1), by factors near 1.2^φ, 1.1^φ and 1.15^φ, which doubles the cost with each step of φ.
Blocks are those of MobileNetV2 with squeeze-and-excitation and swish. A stage holds all blocks of one
resolution.

Lite (Liu 2020, tensorflow/tpu, models/official/efficientnet/lite) is made for phones: no
squeeze-and-excitation, ReLU6 in place of swish; stem and last convolution keep their width, the first and
the last group their depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from svertka.models.inverted import Group, divisible, inverted_stages, strided
from svertka.models.layers import Blocks, Options, pooled_head
from svertka.models.network import Network

B0 = (
    # expansion, kernel, stride, maps, repeats
    Group(1, 3, 1, 16, 1),
    Group(6, 3, 2, 24, 2),
    Group(6, 5, 2, 40, 2),
    Group(6, 3, 2, 80, 3),
    Group(6, 5, 1, 112, 3),
    Group(6, 5, 2, 192, 4),
    Group(6, 3, 1, 320, 1),
)
STEM, LAST = 32, 1280
DROP = 0.2  # of the last block, by stochastic depth (section 5.2)


@dataclass(frozen=True)
class EfficientNetPlan:
    """The factors on width and depth; the third, on the side of the input, is in the catalogue's rows."""

    width: float
    depth: float
    lite: bool = False
    eps: float = 1e-3  # of batch norm, as in the original; torchvision's B0 to B4 have the usual values
    momentum: float = 0.01


def scaled(plan: EfficientNetPlan) -> tuple[int, list[Group], int]:
    """Compound scaling of B0: maps of the stem, the groups, maps of the last convolution.

    Widths are rounded to multiples of 8, depths up.
    """
    ends = (B0[0], B0[-1])
    groups = [
        replace(
            group,
            maps=divisible(group.maps * plan.width),
            repeats=group.repeats if plan.lite and group in ends else math.ceil(group.repeats * plan.depth),
        )
        for group in B0
    ]
    if plan.lite:
        return STEM, groups, LAST
    return divisible(STEM * plan.width), groups, divisible(LAST * plan.width)


def efficientnet(plan: EfficientNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes). Lite pads as TensorFlow, where its weights come from."""
    blocks = Blocks(options.activation, options.norm, eps=plan.eps, momentum=plan.momentum)
    first, groups, last = scaled(plan)
    stem = strided(blocks, options.in_channels, first, 3, 2, tensorflow=plan.lite)
    stages = inverted_stages(blocks, first, groups, last, gate=not plan.lite, tensorflow=plan.lite, drop=DROP)
    return Network(stem, stages, pooled_head(last, options))
