"""SqueezeNet: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters".

A fire module squeezes its input to s maps by 1×1, then expands them to 4s maps by 1×1 beside 4s maps by 3×3
(section 3.2). Table 1 of the paper, and version 1.1 of the authors' code, which pools earlier and costs less:

    1.0   conv 7×7 by 2, 96 → pool → s = 16 16 32 → pool → 32 48 48 64 → pool → 64          → 1×1 to classes
    1.1   conv 3×3 by 2, 64 → pool → s = 16 16    → pool → 32 32       → pool → 48 48 64 64 → 1×1 to classes

No linear layer: a 1×1 convolution gives a map for each class, and the logit is its average; a new task
replaces that convolution. The ReLU after it stays one whatever `activation` says: it is no hidden unit, and
makes logits that are at least zero. Pools are 3×3 by 2 and round up. This is the paper's net without bypass
(section 6).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svertka.models.layers import Blocks, Options, Parallel, dropout
from svertka.models.network import Network


@dataclass(frozen=True)
class SqueezeNetPlan:
    """The first convolution, and the squeezed maps s of the fire modules of each stage."""

    maps: int
    kernel: int
    stages: tuple[tuple[int, ...], ...]
    expansion: int = 4  # maps of each of the two expanding convolutions, in units of s


def squeezenet(plan: SqueezeNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes); a pool closes the stem and every stage but the last."""
    blocks = Blocks(options.activation, options.norm)
    stem = nn.Sequential(
        blocks.conv(options.in_channels, plan.maps, plan.kernel, stride=2, padding=0), _pool()
    )
    stages, channels = [], plan.maps
    for squeezed_maps in plan.stages:
        stage = nn.Sequential()
        for squeezed in squeezed_maps:
            stage.append(_fire(blocks, channels, squeezed, plan.expansion * squeezed))
            channels = 2 * plan.expansion * squeezed
        stages.append(stage)
    for stage in stages[:-1]:
        stage.append(_pool())
    head = nn.Sequential(
        *dropout(options.dropout),
        nn.Conv2d(channels, options.classes, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Network(stem, stages, head)


def _fire(blocks: Blocks, inputs: int, squeezed: int, expanded: int) -> nn.Sequential:
    """(n, inputs, h, w) to (n, 2 · expanded, h, w) through a bottle neck of `squeezed` maps."""
    return nn.Sequential(
        blocks.conv(inputs, squeezed, 1),
        Parallel(blocks.conv(squeezed, expanded, 1), blocks.conv(squeezed, expanded, 3)),
    )


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
