"""Batch normalisation folded into the convolution or linear layer before it (Ioffe & Szegedy 2015, 3.1).

With running statistics a normalisation is one multiplication and one addition a channel, and a layer that
feeds nothing else can do both: weight · γ/σ, (bias − μ) · γ/σ + β. The algebra is `torch.nn.utils.fusion`;
here is only the search for layers where it applies.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from svertka.engine.trace import Trace, trace

_FUSE: dict[tuple[type, type], Any] = {
    (nn.Conv2d, nn.BatchNorm2d): fuse_conv_bn_weights,
    (nn.Linear, nn.BatchNorm1d): fuse_linear_bn_weights,
}


Folded = dict[str, tuple[Tensor | None, Tensor | None]]
"""Name of a layer to its new weight and bias; of a normalisation that it takes in to (None, None)."""


def fold(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy of a module in eval mode, with each foldable normalisation folded: equal but for rounding.

    `shape` is that of one input, without the batch dimension. The module stays as it was.

    Raises:
        ModelError: the module cannot be traced.
    """
    layers = folded_layers(module, trace(module, shape))
    # the copy is told that new weights are the copies of the old: no weight is copied only to be replaced
    known: dict[int, Any] = {
        id(module.get_submodule(name).weight): nn.Parameter(weight, requires_grad=False)
        for name, (weight, _) in layers.items()
        if weight is not None
    }
    copy = deepcopy(module, known)
    for name, (weight, bias) in layers.items():
        if weight is None:
            copy.set_submodule(name, nn.Identity())
        elif bias is not None:
            copy.get_submodule(name).bias = nn.Parameter(bias, requires_grad=False)
    return copy


def folded_layers(module: nn.Module, traced: Trace) -> Folded:
    """The new weights of all layers that can take a normalisation in."""
    layers: Folded = {}
    for first, second in _pairs(module, traced):
        layer, norm = module.get_submodule(first), module.get_submodule(second)
        fuse = _FUSE[type(layer), type(norm)]
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        with torch.no_grad():
            weight, bias = fuse(layer.weight, layer.bias, *statistics)
        layers[first], layers[second] = (weight.detach(), bias.detach()), (None, None)
    return layers


def _pairs(module: nn.Module, traced: Trace) -> list[tuple[str, str]]:
    """Names of (layer, normalisation) where the one's output goes to the other and nowhere else."""
    uses = Counter(value.name for call in traced.calls for value in call.values())
    uses[traced.output.name] += 1
    runs = Counter(call.layer for call in traced.calls)
    makers = {value.name: call for call in traced.calls for value in call.results}
    found = []
    for call in traced.calls:
        maker = makers.get(call.arguments[0].name) if call.function == "batch_norm" else None
        if maker is None or not maker.layer or not call.layer:
            continue
        alone = uses[maker.results[0].name] == 1 and runs[maker.layer] == runs[call.layer] == 1
        layer, norm = module.get_submodule(maker.layer), module.get_submodule(call.layer)
        if alone and (type(layer), type(norm)) in _FUSE and norm.running_var is not None:
            found.append((maker.layer, call.layer))
    return found
