"""Inception: GoogLeNet (v1, Szegedy et al. 2014, "Going deeper with convolutions") and Inception v3.

A module looks at the same maps with several kernels side by side; 1×1 convolutions keep the large ones cheap.
v3 (Szegedy et al. 2015, "Rethinking the inception architecture") takes large kernels apart: 5×5 into two 3×3
(section 3.1), n×n into 1×n and n×1 (3.2). Auxiliary classifiers answer in training only, in the order of
depth; v1 weights their losses by 0.3 (section 5). Both are torchvision's nets. Departures of GoogLeNet from
its paper: batch norm for local response norm, 3×3 kernels for 5×5, auxiliary grids averaged to 4×4, dropout
0.2 (0.4). Of v3: the stem of the authors' code (3×3 to 32, 32, 64, pool, 1×1 to 80, 3×3 to 192, pool; Table 1
has six 3×3), 5×5 for the single 3×3 of figure 5, dropout 0.5 (0.2).

torchvision's weights for both expect images in [−1, 1] (mean and deviation ½): its `transform_input` undoes
the usual normalisation. Those of GoogLeNet hold auxiliary classifiers that were not trained;
in its state dict they come after the last module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from svertka.models.layers import Blocks, Options, Parallel, Size, dropout, pooled_head
from svertka.models.network import AuxiliaryStage, Network
from svertka.shapes import Float

EPSILON = 1e-3
"""Added to the variance in all batch norms of both nets."""


class Module(NamedTuple):
    """A line of Table 1 of v1: maps of each convolution of a module."""

    ones: int
    reduce_threes: int
    threes: int
    reduce_fives: int
    fives: int
    projected: int  # by 1×1 after the max pool


@dataclass(frozen=True)
class Section:
    """Modules in a row, with an auxiliary classifier or a max pool by 2 of this side (0: none) after them."""

    modules: tuple[Module, ...]
    pool: int = 0
    auxiliary: bool = False


@dataclass(frozen=True)
class GoogLeNetPlan:
    """Table 1 of v1, from inception (3a) to (5b)."""

    sections: tuple[Section, ...] = (
        Section((Module(64, 96, 128, 16, 32, 32), Module(128, 128, 192, 32, 96, 64)), pool=3),  # 3a 3b
        Section((Module(192, 96, 208, 16, 48, 64),), auxiliary=True),  # 4a
        Section(
            (
                Module(160, 112, 224, 24, 64, 64),  # 4b
                Module(128, 128, 256, 24, 64, 64),  # 4c
                Module(112, 144, 288, 32, 64, 64),  # 4d
            ),
            auxiliary=True,
        ),
        Section((Module(256, 160, 320, 32, 128, 128),), pool=2),  # 4e
        Section((Module(256, 160, 320, 32, 128, 128), Module(384, 192, 384, 48, 128, 128))),  # 5a 5b
    )
    auxiliary_dropout: float = 0.7  # none where the option `dropout` is zero


def googlenet(plan: GoogLeNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes); two auxiliary logits in training."""
    blocks = Blocks(options.activation, options.norm, EPSILON)
    stem = nn.Sequential(
        blocks.conv(options.in_channels, 64, 7, stride=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        blocks.conv(64, 64, 1),
        blocks.conv(64, 192, 3),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
    )
    stages: list[nn.Module] = []
    channels = 192
    for section in plan.sections:
        stage = nn.Sequential()
        for module in section.modules:
            stage.append(_module(blocks, channels, module))
            channels = module.ones + module.threes + module.fives + module.projected
        if section.pool:
            stage.append(nn.MaxPool2d(section.pool, stride=2, ceil_mode=True))
        if section.auxiliary:
            drop = plan.auxiliary_dropout if options.dropout else 0.0
            stages.append(AuxiliaryStage(stage, _auxiliary_v1(blocks, channels, drop, options.classes)))
        else:
            stages.append(stage)
    return Network(stem, stages, pooled_head(channels, options))


def _module(blocks: Blocks, inputs: int, maps: Module) -> Parallel:
    """Figure 2b of v1."""
    return Parallel(
        blocks.conv(inputs, maps.ones, 1),
        _chain(blocks, inputs, (maps.reduce_threes, 1), (maps.threes, 3)),
        _chain(blocks, inputs, (maps.reduce_fives, 1), (maps.fives, 3)),
        nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), blocks.conv(inputs, maps.projected, 1)),
    )


def _auxiliary_v1(blocks: Blocks, channels: int, drop: float, classes: int) -> nn.Sequential:
    """Section 5 of v1: 4×4 grid, 1×1 to 128 maps, 1024 units, dropout, logits."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        blocks.conv(channels, 128, 1),
        nn.Flatten(),  # (n, 128 · 4 · 4)
        blocks.linear(128 * 4 * 4, 1024),
        *dropout(drop),
        nn.Linear(1024, classes),
    )


@dataclass(frozen=True)
class InceptionPlan:
    """Table 1 of v3: 3 modules on the 35×35 grid (figure 5), 4 on 17×17 (figure 6), 2 on 8×8 (figure 7)."""

    projected: tuple[int, ...] = (32, 64, 64)  # maps of the pooling branches at 35×35
    sevens: tuple[int, ...] = (128, 160, 160, 192)  # maps inside the 1×7 and 7×1 branches at 17×17
    wide: int = 2  # modules at 8×8


def inception(plan: InceptionPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes); one auxiliary logits in training. A stage is a grid."""
    blocks = Blocks(options.activation, options.norm, EPSILON)
    stem = nn.Sequential(
        blocks.conv(options.in_channels, 32, 3, stride=2, padding=0),
        blocks.conv(32, 32, 3, padding=0),
        blocks.conv(32, 64, 3),
        nn.MaxPool2d(3, stride=2),
        blocks.conv(64, 80, 1),
        blocks.conv(80, 192, 3, padding=0),
        nn.MaxPool2d(3, stride=2),
    )
    grid35, channels = nn.Sequential(), 192
    for projected in plan.projected:
        grid35.append(_at_35(blocks, channels, projected))
        channels = 64 + 64 + 96 + projected
    grid17, channels = nn.Sequential(_to_17(blocks, channels)), 384 + 96 + channels
    for sevens in plan.sevens:
        grid17.append(_at_17(blocks, channels, sevens))
        channels = 4 * 192
    auxiliary = _auxiliary_v3(blocks, channels, options.classes)
    grid8, channels = nn.Sequential(_to_8(blocks, channels)), 320 + 192 + channels
    for _ in range(plan.wide):
        grid8.append(_at_8(blocks, channels))
        channels = 320 + 2 * 384 + 2 * 384 + 192
    return Network(stem, [grid35, AuxiliaryStage(grid17, auxiliary), grid8], pooled_head(channels, options))


def _at_35(blocks: Blocks, inputs: int, projected: int) -> Parallel:
    """Figure 5: two 3×3 do what 5×5 did in v1."""
    return Parallel(
        blocks.conv(inputs, 64, 1),
        _chain(blocks, inputs, (48, 1), (64, 5)),
        _chain(blocks, inputs, (64, 1), (96, 3), (96, 3)),
        _averaged(blocks, inputs, projected),
    )


def _at_17(blocks: Blocks, inputs: int, maps: int) -> Parallel:
    """Figure 6 with n = 7: 7×7 as 1×7 then 7×1, once and twice."""
    row, column = (1, 7), (7, 1)
    return Parallel(
        blocks.conv(inputs, 192, 1),
        _chain(blocks, inputs, (maps, 1), (maps, row), (192, column)),
        _chain(blocks, inputs, (maps, 1), (maps, column), (maps, row), (maps, column), (192, row)),
        _averaged(blocks, inputs, 192),
    )


def _at_8(blocks: Blocks, inputs: int) -> Parallel:
    """Figure 7: 1×3 beside 3×1, not after each other, for many maps on the coarsest grid."""
    return Parallel(
        blocks.conv(inputs, 320, 1),
        _chain(blocks, inputs, (384, 1)).append(_row_and_column(blocks, 384)),
        _chain(blocks, inputs, (448, 1), (384, 3)).append(_row_and_column(blocks, 384)),
        _averaged(blocks, inputs, 192),
    )


def _to_17(blocks: Blocks, inputs: int) -> Parallel:
    """Figure 10: convolutions and a pool halve the grid side by side, and the maps add up."""
    return Parallel(
        blocks.conv(inputs, 384, 3, stride=2, padding=0),
        _chain(blocks, inputs, (64, 1), (96, 3)).append(blocks.conv(96, 96, 3, stride=2, padding=0)),
        nn.MaxPool2d(3, stride=2),
    )


def _to_8(blocks: Blocks, inputs: int) -> Parallel:
    """As `_to_17`; the second branch goes through 1×7 and 7×1 first."""
    sevens = _chain(blocks, inputs, (192, 1), (192, (1, 7)), (192, (7, 1)))
    return Parallel(
        _chain(blocks, inputs, (192, 1)).append(blocks.conv(192, 320, 3, stride=2, padding=0)),
        sevens.append(blocks.conv(192, 192, 3, stride=2, padding=0)),
        nn.MaxPool2d(3, stride=2),
    )


def _chain(blocks: Blocks, inputs: int, *layers: tuple[int, Size]) -> nn.Sequential:
    """Convolutions after each other that keep the grid, each given as (maps, kernel)."""
    chain = nn.Sequential()
    for maps, kernel in layers:
        chain.append(blocks.conv(inputs, maps, kernel))
        inputs = maps
    return chain


def _averaged(blocks: Blocks, inputs: int, maps: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), blocks.conv(inputs, maps, 1))


def _row_and_column(blocks: Blocks, maps: int) -> Parallel:
    return Parallel(blocks.conv(maps, maps, (1, 3)), blocks.conv(maps, maps, (3, 1)))


class FiveByFive(nn.Module):
    """(n, c, h, w) to at least 5×5 for the auxiliary classifier: averages windows of 5×5 every 3 pixels.

    The classifier's own pool, 17×17 to 5×5 for images of 299 px. Smaller grids, which it cannot take (nor can
    torchvision in training), are averaged to 5×5 adaptively.
    """

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        if min(x.shape[-2:]) < 17:
            return nn.functional.adaptive_avg_pool2d(x, 5)
        return nn.functional.avg_pool2d(x, 5, stride=3)


def _auxiliary_v3(blocks: Blocks, channels: int, classes: int) -> nn.Sequential:
    """Section 4, figure 8: batch normalisation here is what makes the auxiliary classifier help."""
    return nn.Sequential(
        FiveByFive(),
        blocks.conv(channels, 128, 1),
        blocks.conv(128, 768, 5, padding=0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),  # (n, 768)
        nn.Linear(768, classes),
    )
