"""Residual networks: He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition"; and heirs.

    basic        3×3 → 3×3                                      ResNet-18, -34; for CIFAR: section 4.2
    bottleneck   1×1 down → 3×3 → 1×1 up to 4 times the width   ResNet-50, -101, -152
    ResNeXt      bottleneck, its 3×3 in groups                  Xie et al. 2016
    Wide ResNet  bottleneck, its 3×3 twice as wide              Zagoruyko & Komodakis 2016

A plain twin is the same net without shortcuts (section 4.1). The stride of a bottleneck stands in its 3×3
(the paper: in its first 1×1), as in torchvision. With `init="fixup"` blocks are those of Zhang et al. 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from svertka.models.layers import Blocks, Options, Residual, Scale, Shift, pooled_head
from svertka.models.network import Network
from svertka.shapes import Float

Shortcut = Literal["projection", "zeros", "none"]
"""Where shapes differ: 1×1 convolution (option B of the paper) or zeros (A); `none`: the plain twin."""


@dataclass(frozen=True)
class ResNetPlan:
    """Table 1 of the paper: the block, and how many in each stage. Stage i has `width · 2^i` maps."""

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    groups: int = 1
    width_per_group: int = 64  # of the 3×3 of a bottleneck in the first stage
    stem: Literal["photo", "small"] = "photo"  # 7×7 by 2 and max pooling by 2, or 3×3
    shortcut: Literal["projection", "zeros", "none"] = (
        "projection"  # where shapes differ: options B, A; none: plain
    )


class ZeroShortcut(nn.Module):
    """Option A of the paper, without parameters: every second pixel, new channels zero."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        x = x[:, :, :: self.stride, :: self.stride]
        half = self.new_channels // 2
        return nn.functional.pad(x, (0, 0, 0, 0, half, self.new_channels - half))


def resnet(plan: ResNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes)."""
    blocks = Blocks(options.activation, options.norm, scalars=options.init == "fixup")
    stem = blocks.conv(options.in_channels, plan.width, 3)
    if plan.stem == "photo":
        stem = blocks.conv(options.in_channels, plan.width, 7, stride=2)
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages, channels = [], plan.width
    for index, depth in enumerate(plan.depths):
        stage = nn.Sequential()
        for position in range(depth):
            stride = 2 if index > 0 and position == 0 else 1
            unit, channels = _unit(plan, blocks, channels, plan.width * 2**index, stride)
            stage.append(unit)
        stages.append(stage)
    head = pooled_head(channels, options)
    if blocks.scalars:
        head.insert(len(head) - 1, Shift())
    return Network(stem, stages, head)


def _unit(plan: ResNetPlan, blocks: Blocks, inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """One residual block (or its plain twin) and the channels that it gives."""
    plain = plan.shortcut == "none"
    if plan.block == "basic":
        outputs = width
        branch = nn.Sequential(
            blocks.conv(inputs, width, 3, stride=stride),
            blocks.conv(width, outputs, 3, act=plain),
        )
    else:
        outputs = 4 * width
        inner = width * plan.width_per_group // 64 * plan.groups
        branch = nn.Sequential(
            blocks.conv(inputs, inner, 1),
            blocks.conv(inner, inner, 3, stride=stride, groups=plan.groups),
            blocks.conv(inner, outputs, 1, act=plain),
        )
    if plain:
        return branch, outputs
    if blocks.scalars:
        branch.extend([Scale(), Shift()])
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        if plan.shortcut == "zeros":
            shortcut = ZeroShortcut(outputs - inputs, stride)
        else:
            shortcut = blocks.conv(inputs, outputs, 1, stride=stride, act=False)
    return Residual(branch, shortcut, blocks.act(outputs)), outputs
