"""The ground that convolutional networks stand on: a linear classifier, and a multi-layer perceptron.

Both flatten the image and know nothing of its grid: a 224 × 224 × 3 image has 150,528 inputs, so one hidden
layer of a thousand units already costs 150 million weights. They have no stages; what needs feature maps
refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from svertka.models.layers import Blocks, Options, dropout
from svertka.models.network import Network


@dataclass(frozen=True)
class PerceptronPlan:
    """Units of each hidden layer, first to last; none makes the linear (softmax) classifier."""

    hidden: tuple[int, ...] = ()


def perceptron(plan: PerceptronPlan, options: Options) -> Network:
    """Images (n, c, size, size) to logits (n, classes) through linear layers only."""
    blocks = Blocks(options.activation, options.norm)
    widths = (options.in_channels * options.size**2, *plan.hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [blocks.linear(inputs, outputs, norm=True), *dropout(options.dropout)]
    return Network(nn.Identity(), [], nn.Sequential(*layers, nn.Linear(widths[-1], options.classes)))
