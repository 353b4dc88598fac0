"""VGG: Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition".

Table 1 of the paper, by columns; all kernels are 3×3, each stage ends with a max pool of 2×2 by 2:

    maps       64  128  256  512  512   then fc 4096, fc 4096, classes
    A  VGG-11   1    1    2    2    2
    B  VGG-13   2    2    2    2    2
    D  VGG-16   2    2    3    3    3
    E  VGG-19   2    2    4    4    4

Two 3×3 layers see 5×5 pixels and three see 7×7, with fewer weights than one large kernel (section 2.3). The
stem is the first stage. Departures: the `_bn` nets normalise after each convolution (Ioffe & Szegedy 2015),
whose bias stays; before the first linear layer the grid is averaged to 7 × 7, which at 224 px changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svertka.models.layers import Blocks, Options, dropout
from svertka.models.network import Network


@dataclass(frozen=True)
class VGGPlan:
    """A column of Table 1: how many 3×3 layers each stage has, and how many maps."""

    layers: tuple[int, int, int, int, int]
    maps: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    grid: int = 7  # side of the maps that the first linear layer sees
    units: tuple[int, int] = (4096, 4096)


def vgg(plan: VGGPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes)."""
    blocks = Blocks(options.activation, options.norm)
    stages, inputs = [], options.in_channels
    for layers, maps in zip(plan.layers, plan.maps, strict=True):
        stage = nn.Sequential()
        for _ in range(layers):
            stage.append(blocks.conv(inputs, maps, 3, bias=True))
            inputs = maps
        stages.append(stage.append(nn.MaxPool2d(2)))  # halves h and w
    fc6, fc7 = plan.units
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(plan.grid),
        nn.Flatten(),  # (n, maps · grid · grid)
        blocks.linear(inputs * plan.grid**2, fc6),
        *dropout(options.dropout),
        blocks.linear(fc6, fc7),
        *dropout(options.dropout),
        nn.Linear(fc7, options.classes),
    )
    return Network(stages[0], stages[1:], head)
