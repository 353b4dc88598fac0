"""Inverted residual blocks: what MobileNetV2, MNASNet and EfficientNet are made of.

    x → 1×1 to t times the maps → k×k depthwise, stride s → [gate] → 1×1 without activation → + x

Narrow ends, wide middle, and the sum joins the narrow ends (Sandler et al. 2018, section 3.3; without the
first 1×1 where t = 1). The sum is there where the shapes of both ends agree. The gate is
squeeze-and-excitation (Hu et al. 2017). A `Group` is one line of the papers' tables: n such blocks, the
stride in the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from svertka.models.layers import Blocks, Residual
from svertka.shapes import Float


@dataclass(frozen=True)
class Group:
    """One line of the table: `repeats` blocks of `maps` outputs, the first with the stride."""

    expansion: int
    kernel: int
    stride: int
    maps: int
    repeats: int


def divisible(width: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and not more than a tenth below `width`.

    The rounding of the reference implementations of all three families.
    """
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * width else nearest + divisor


def inverted_stages(
    blocks: Blocks,
    inputs: int,
    groups: Sequence[Group],
    outputs: int,
    *,
    gate: bool = False,
    tensorflow: bool = False,
    drop: float = 0.0,
) -> list[nn.Sequential]:
    """The groups, then a 1×1 convolution to `outputs` maps; a stage holds all blocks of one resolution.

    `gate`: squeeze-and-excitation. `tensorflow`: convolutions with a stride pad as TensorFlow does. Block i
    of b is dropped in training with the probability `drop` · i / b (Huang et al. 2016, with i from 0).
    """
    total, index = sum(group.repeats for group in groups), 0
    stages: list[nn.Sequential] = []
    for group in groups:
        if group.stride > 1 or not stages:
            stages.append(nn.Sequential())
        for position in range(group.repeats):
            block = replace(group, stride=group.stride if position == 0 else 1)
            branch = _branch(blocks, inputs, block, gate, tensorflow)
            joined = block.stride == 1 and inputs == block.maps
            stages[-1].append(Residual(branch, drop=drop * index / total) if joined else branch)
            inputs, index = block.maps, index + 1
    stages[-1].append(blocks.conv(inputs, outputs, 1))
    return stages


def strided(
    blocks: Blocks,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    *,
    groups: int = 1,
    tensorflow: bool = False,
) -> nn.Sequential:
    """Convolution, normalisation, activation, to ⌈side / stride⌉; `tensorflow` says how to pad."""
    if stride == 1 or not tensorflow:
        return blocks.conv(inputs, outputs, kernel, stride=stride, groups=groups)
    unit = blocks.conv(inputs, outputs, kernel, stride=stride, groups=groups, padding=0)
    return unit.insert(0, SamePad(kernel, stride))


def _branch(blocks: Blocks, inputs: int, block: Group, gate: bool, tensorflow: bool) -> nn.Sequential:
    inner = inputs * block.expansion
    branch = nn.Sequential()
    if block.expansion > 1:
        branch.append(blocks.conv(inputs, inner, 1))
    branch.append(
        strided(blocks, inner, inner, block.kernel, block.stride, groups=inner, tensorflow=tensorflow)
    )
    if gate:
        branch.append(SqueezeExcitation(inner, max(1, inputs // 4), blocks.activation))
    return branch.append(blocks.conv(inner, block.maps, 1, act=False))


class SqueezeExcitation(nn.Module):
    """y = x · sigmoid(W₂ act(W₁ mean(x))), the mean over the positions (Hu et al. 2017, eq. 2 to 4)."""

    def __init__(self, maps: int, squeezed: int, activation: str) -> None:
        super().__init__()
        plain = Blocks(activation, norm="none")
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            plain.conv(maps, squeezed, 1),
            plain.conv(squeezed, maps, 1, act=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.gate(x) * x  # type: ignore[no-any-return]


class SamePad(nn.Module):
    """TensorFlow's padding "SAME": zeros so that side n becomes ⌈n / stride⌉, the odd zero behind.

    Of even sides a 3×3 by 2 gets one zero behind and none before, where PyTorch's `padding=1` has one before.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        height, width = (self.kernel - self.stride + (-x.shape[axis]) % self.stride for axis in (2, 3))
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"
