"""AlexNet: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional networks".

    224 → conv1 11×11 by 4, 64 maps → pool → 27 → conv2 5×5, 192 → pool → 13 → conv3 3×3, 384
        → conv4 3×3, 256 → conv5 3×3, 256 → pool → 6 → fc6 4096 → fc7 4096 → classes

The one-tower net of torchvision, with the numbers of maps of Krizhevsky 2014 ("One weird trick",
arXiv:1404.5997). Departures from the paper of 2012: it has two towers on two GPUs, together
96–256–384–384–256 maps, which meet at conv3 and fc6 only (section 3.5); normalises the answers of
neighbouring maps (3.3); draws weights from N(0, 0.01²), with biases 0 or 1 (`init="normal_001"` comes near);
drops outputs of fc6 and fc7, here their inputs. Kept: ReLU, pools of 3×3 by 2 that overlap, dropout ½. Before
fc6 the grid is averaged to 6 × 6, so that images of any size fit; at 224 px that changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svertka.models.layers import Blocks, Options, dropout
from svertka.models.network import Network


@dataclass(frozen=True)
class AlexNetPlan:
    """Maps of conv1 to conv5, the side of the grid that fc6 sees, units of fc6 and fc7."""

    maps: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    grid: int = 6
    units: tuple[int, int] = (4096, 4096)


def alexnet(plan: AlexNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes); each stage is one of conv2 to conv5."""
    blocks = Blocks(options.activation, options.norm)
    (c1, c2, c3, c4, c5), (fc6, fc7) = plan.maps, plan.units
    stem = nn.Sequential(blocks.conv(options.in_channels, c1, 11, stride=4, padding=2), _pool())
    stages = [
        nn.Sequential(blocks.conv(c1, c2, 5), _pool()),
        blocks.conv(c2, c3, 3),
        blocks.conv(c3, c4, 3),
        nn.Sequential(blocks.conv(c4, c5, 3), _pool()),
    ]
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(plan.grid),
        nn.Flatten(),  # (n, c5 · grid · grid)
        *dropout(options.dropout),
        blocks.linear(c5 * plan.grid**2, fc6),
        *dropout(options.dropout),
        blocks.linear(fc6, fc7),
        nn.Linear(fc7, options.classes),
    )
    return Network(stem, stages, head)


def _pool() -> nn.Module:
    """Windows of 3 every 2 pixels: they overlap (section 3.4)."""
    return nn.MaxPool2d(3, stride=2)
