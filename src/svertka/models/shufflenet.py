"""ShuffleNetV2: Ma, Zhang, Zheng & Sun 2018, "Practical guidelines for efficient CNN architecture design".

    stride 1   x = (a, b):  a;                              b → 1×1 → 3×3 depthwise → 1×1
    stride 2                x → 3×3 depthwise by 2 → 1×1;   x → 1×1 → 3×3 depthwise by 2 → 1×1

Both halves are then joined and their maps interleaved ("shuffled"), so that the next block sees some of
each. Equal widths, no groups in 1×1, few branches, no sums: the four guidelines (G1 to G4) for memory
traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svertka.models.layers import Blocks, Options, pooled_head
from svertka.models.network import Network
from svertka.shapes import Float


@dataclass(frozen=True)
class ShuffleNetPlan:
    """Table 5 of the paper: maps of stages 2 to 4 and of the last convolution; all have the same depths."""

    maps: tuple[int, int, int]
    last: int = 1024
    depths: tuple[int, int, int] = (4, 8, 4)
    stem: int = 24


class ShuffleUnit(nn.Module):
    """Two halves joined and interleaved (figure 3c and d of the paper).

    With `first` both halves come from all of x; without it the first half of x stays as it is.
    """

    def __init__(self, first: nn.Module | None, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        if self.first is None:
            kept, rest = x.chunk(2, 1)
            halves = [kept, self.second(rest)]
        else:
            halves = [self.first(x), self.second(x)]
        return torch.stack(halves, 2).flatten(1, 2)  # (n, d/2, 2, i, j): a₀ b₀ a₁ b₁ …


def shufflenet(plan: ShuffleNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes)."""
    blocks = Blocks(options.activation, options.norm)
    stem = blocks.conv(options.in_channels, plan.stem, 3, stride=2)
    stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages, inputs = [], plan.stem
    for maps, depth in zip(plan.maps, plan.depths, strict=True):
        keeping = [_keeping(blocks, maps // 2) for _ in range(depth - 1)]
        stages.append(nn.Sequential(_reducing(blocks, inputs, maps // 2), *keeping))
        inputs = maps
    stages[-1].append(blocks.conv(inputs, plan.last, 1))
    return Network(stem, stages, pooled_head(plan.last, options))


def _reducing(blocks: Blocks, inputs: int, half: int) -> ShuffleUnit:
    first = nn.Sequential(
        blocks.conv(inputs, inputs, 3, stride=2, groups=inputs, act=False),
        blocks.conv(inputs, half, 1),
    )
    return ShuffleUnit(first, _bottleneck(blocks, inputs, half, stride=2))


def _keeping(blocks: Blocks, half: int) -> ShuffleUnit:
    return ShuffleUnit(None, _bottleneck(blocks, half, half, stride=1))


def _bottleneck(blocks: Blocks, inputs: int, half: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        blocks.conv(inputs, half, 1),
        blocks.conv(half, half, 3, stride=stride, groups=half, act=False),
        blocks.conv(half, half, 1),
    )
