"""DenseNet: Huang, Liu, van der Maaten & Weinberger 2016, "Densely connected convolutional networks".

Every layer of a dense block sees the maps of all layers before it and adds k maps of its own (the growth
rate): x_l = H(x_0, …, x_{l−1}), joined along the channels (eq. 2); l layers turn c maps into c + l·k. These
are the DenseNet-BC of Table 1: H is norm, ReLU, 1×1 to 4k maps, norm, ReLU, 3×3 to k maps (B: bottleneck),
and a transition keeps half of the maps by a 1×1 convolution (C: compression), then halves the grid by
averaging.

                   k    layers of blocks 1 to 4      the stem: 7×7 by 2 to 2k maps, max pool by 2
    DenseNet-121  32     6  12  24  16
    DenseNet-169  32     6  12  32  32
    DenseNet-201  32     6  12  48  32
    DenseNet-161  48     6  12  36  24               (Table 1 of the paper's earlier versions)

A stage is a block and its transition. Dropout stands after each 3×3 (section 4.2: 0.2 on small sets).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svertka.models.layers import Blocks, Options, Parallel, dropout, pooled_head
from svertka.models.network import Network


@dataclass(frozen=True)
class DenseNetPlan:
    """Growth rate k, layers of each dense block; 2k maps come from the stem."""

    growth: int
    layers: tuple[int, ...]
    bottleneck: int = 4  # maps between 1×1 and 3×3, in units of k


def densenet(plan: DenseNetPlan, options: Options) -> Network:
    """Images (n, c, h, w) to logits (n, classes)."""
    blocks = Blocks(options.activation, options.norm)
    channels = 2 * plan.growth
    stem = blocks.conv(options.in_channels, channels, 7, stride=2)
    stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    stages = []
    for index, layers in enumerate(plan.layers):
        stage = nn.Sequential()
        for _ in range(layers):
            stage.append(Parallel(nn.Identity(), _layer(plan, blocks, channels, options.dropout)))
            channels += plan.growth
        if index + 1 < len(plan.layers):
            stage.extend([_unit(blocks, channels, channels // 2, 1), nn.AvgPool2d(2)])
            channels //= 2
        else:
            stage.extend(_before(blocks, channels))  # the last unit's normalisation and activation
        stages.append(stage)
    return Network(stem, stages, pooled_head(channels, Options(options.classes)))


def _layer(plan: DenseNetPlan, blocks: Blocks, inputs: int, drop: float) -> nn.Sequential:
    """H: all maps so far (n, inputs, h, w) to k new ones (n, k, h, w)."""
    between = plan.bottleneck * plan.growth
    return nn.Sequential(
        _unit(blocks, inputs, between, 1), _unit(blocks, between, plan.growth, 3), *dropout(drop)
    )


def _unit(blocks: Blocks, inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Normalisation, activation, then convolution: the order of He et al. 2016, arXiv:1603.05027."""
    bias = blocks.norm == "none"
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(*_before(blocks, inputs), convolution)


def _before(blocks: Blocks, channels: int) -> list[nn.Module]:
    norm = blocks.normalize(channels)
    return [layer for layer in (norm, blocks.act(channels)) if layer is not None]
