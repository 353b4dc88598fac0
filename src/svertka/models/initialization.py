"""Initialisations by name: the weights a network starts from.

`initialize(network, name, generator, activation)` fills every parameter and buffer; the global random state
is not touched, and the same generator gives the same bits. Biases start at zero, except in `torch` and
`resnet`. Named after a family are the schemes of its reference implementation in torchvision.

`lsuv` and `krahenbuhl` need data: `initialize` makes their random start, `initialize_with_data` finishes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svertka.errors import DataError, OptionError, nearest
from svertka.models.activations import gain
from svertka.models.layers import Residual, StochasticDepth
from svertka.models.network import Network, last_layer
from svertka.shapes import Float

Layer = nn.Conv2d | nn.Linear
Rule = Callable[[Tensor, torch.Generator, float], object]
"""Fills a weight (outputs, inputs, …), given the gain that the network's activation asks for."""

RELU = math.sqrt(2)


def _normal(std: float) -> Rule:
    return lambda weight, g, _: nn.init.normal_(weight, 0, std, generator=g)


def _truncated(std: float) -> Rule:
    return lambda weight, g, _: nn.init.trunc_normal_(weight, 0, std, -2, 2, generator=g)


def _kaiming(mode: str, fixed_gain: float | None = None) -> Rule:
    """std = gain / √fan, fan_in or fan_out (He et al. 2015, eq. 10 and 14)."""

    def rule(weight: Tensor, g: torch.Generator, gain: float) -> None:
        nn.init.normal_(weight, 0, (fixed_gain or gain) / math.sqrt(_fan(weight, mode)), generator=g)

    return rule


def _uniform(mode: str, fixed_gain: float) -> Rule:
    """Uniform in ±gain · √(3 / fan): the same variance as the normal with std gain / √fan."""

    def rule(weight: Tensor, g: torch.Generator, _: float) -> None:
        bound = fixed_gain * math.sqrt(3 / _fan(weight, mode))
        nn.init.uniform_(weight, -bound, bound, generator=g)

    return rule


def _orthogonal(weight: Tensor, g: torch.Generator, gain: float) -> None:
    """Orthonormal rows or columns of (outputs, inputs · kernel) (Saxe et al. 2014)."""
    nn.init.orthogonal_(weight, gain, generator=g)


def _random_walk(weight: Tensor, g: torch.Generator, gain: float) -> None:
    """Kaiming's with the correction for finite width that keeps log ‖gradient‖ in place on average.

    Sussillo & Abbott 2014: √2 · exp(1.2 / (max(N, 6) − 2.4)) for ReLU, exp(1 / 2N) for linear units; other
    activations take the latter times their gain.
    """
    fan = _fan(weight, "fan_in")
    relu = math.isclose(gain, RELU, rel_tol=1e-3)
    correction = math.exp(1.2 / (max(fan, 6) - 2.4)) if relu else math.exp(1 / (2 * fan))
    nn.init.normal_(weight, 0, gain * correction / math.sqrt(fan), generator=g)


def _identity(weight: Tensor, g: torch.Generator, _: float) -> None:
    """The first outputs copy the inputs (centre of the kernel); outputs beyond the inputs start random."""
    _TORCH(weight, g, 1.0)
    copies = min(weight.shape[:2])
    centre = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] if weight.ndim == 4 else weight
    weight[:copies] = 0
    centre[:copies, :copies] = torch.eye(copies)


def _zeros(weight: Tensor, g: torch.Generator, _: float) -> None:
    nn.init.zeros_(weight)


_TORCH = _uniform("fan_in", 1 / math.sqrt(3))  # uniform in ±1/√fan_in, which torch.nn starts from
_FAN_IN, _FAN_OUT = _kaiming("fan_in", RELU), _kaiming("fan_out", RELU)


@dataclass(frozen=True)
class Scheme:
    """The rules for convolutions, for linear layers, and for the last layer of the head (None: as its kind).

    `per_group`: each group of a convolution is a matrix of its own to the rule.
    """

    convolution: Rule
    linear: Rule
    last: Rule | None = None
    zero_biases: bool = True  # else uniform in ±1/√fan_in, as in torch.nn
    per_group: bool = False


def _everywhere(rule: Rule, last: Rule | None = None, *, per_group: bool = False) -> Scheme:
    return Scheme(rule, rule, last, per_group=per_group)


_LECUN = _kaiming("fan_in", 1.0)  # std = 1/√fan_in (LeCun et al. 1998, Efficient BackProp, eq. 16)

INITS: dict[str, Scheme] = {
    "torch": Scheme(_TORCH, _TORCH, zero_biases=False),
    "normal_001": _everywhere(_normal(0.01)),
    "xavier_normal": _everywhere(lambda w, g, _: nn.init.xavier_normal_(w, generator=g)),  # Glorot & Bengio
    "xavier_uniform": _everywhere(
        lambda w, g, _: nn.init.xavier_uniform_(w, generator=g)
    ),  # 2010, eq. 12, 16
    "lecun": _everywhere(_LECUN),
    "kaiming": _everywhere(_kaiming("fan_in"), last=_LECUN),
    "kaiming_fan_out": _everywhere(_kaiming("fan_out"), last=_LECUN),
    "orthogonal": _everywhere(_orthogonal, lambda w, g, _: _orthogonal(w, g, 1.0), per_group=True),
    "random_walk": _everywhere(_random_walk, last=_LECUN),
    "identity": _everywhere(_identity, _TORCH, per_group=True),
    "fixup": Scheme(_FAN_OUT, _FAN_OUT, last=_zeros),
    "lsuv": _everywhere(lambda w, g, _: _orthogonal(w, g, 1.0), per_group=True),  # Mishkin & Matas 2016
    "krahenbuhl": _everywhere(_normal(1.0)),  # Krähenbühl et al. 2016; data gives the scale
    # reference implementations
    "resnet": Scheme(_FAN_OUT, _TORCH, zero_biases=False),
    "vgg": Scheme(_FAN_OUT, _normal(0.01)),  # MobileNetV2 too
    "densenet": Scheme(_FAN_IN, _TORCH),
    "squeezenet": Scheme(_uniform("fan_in", RELU), _TORCH, last=_normal(0.01)),
    "googlenet": _everywhere(_truncated(0.01)),
    "inception": _everywhere(_truncated(0.1)),
    "mnasnet": Scheme(_FAN_OUT, _uniform("fan_out", 1.0)),
    "efficientnet": Scheme(_FAN_OUT, _uniform("fan_out", 1 / math.sqrt(3))),
}
"""Name to scheme."""

WITH_DATA = ("lsuv", "krahenbuhl")
"""Schemes that `initialize_with_data` has to finish."""


def scheme(name: str) -> Scheme:
    """The scheme of this name.

    Raises:
        OptionError: no such initialisation.
    """
    if name not in INITS:
        raise OptionError(f"there is no init {name!r}: {nearest(name, INITS)}")
    return INITS[name]


@torch.no_grad()
def initialize(network: Network, name: str, generator: torch.Generator, activation: str = "relu") -> None:
    """Fill all parameters and buffers of a network, layer after layer in the order of registration.

    Raises:
        OptionError: no such initialisation, or Fixup for a network without residual branches.
    """
    chosen, factor, last = scheme(name), gain(activation), last_layer(network)[2]
    for module in network.modules():
        if isinstance(module, Layer):
            initialize_layer(module, chosen, generator, factor, last=module is last)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]  # norms, slopes and scalars start from constants
        elif module._parameters or module._buffers:
            raise TypeError(f"{type(module).__name__} has parameters, so it needs a method reset_parameters.")
    if name == "fixup":
        _fixup(network)


@torch.no_grad()
def initialize_layer(
    layer: Layer, chosen: Scheme, generator: torch.Generator, gain: float, *, last: bool = False
) -> None:
    """Fill the weight and bias of one layer; `last` says that it gives the logits."""
    rule = chosen.convolution if isinstance(layer, nn.Conv2d) else chosen.linear
    if last and chosen.last is not None:
        rule = chosen.last
    groups = layer.groups if chosen.per_group and isinstance(layer, nn.Conv2d) else 1
    for weight in layer.weight.chunk(groups):
        rule(weight, generator, gain)
    if layer.bias is not None:
        bound = 0.0 if chosen.zero_biases else 1 / math.sqrt(_fan(layer.weight, "fan_in"))
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


@torch.no_grad()
def initialize_with_data(network: Network, images: Float[Tensor, "n c h w"], method: str) -> None:
    """Scale each layer, in the order they run, so that its outputs on these images have variance 1.

    `lsuv`: one factor a layer (Mishkin & Matas 2016, algorithm 1; outputs are linear in the weights, so one
    division reaches the unit variance exactly). `krahenbuhl`: one factor a channel, and the bias that makes
    the mean zero (Krähenbühl et al. 2016, algorithm 1; its second step, equal rates of change of layers, is
    for chains only and left out). Layers without bias are only scaled; channels that do not vary stay as
    they are.

    Raises:
        OptionError: `method` is not one that uses data.
        DataError: a layer's output does not vary over these images.
    """
    if method not in WITH_DATA:
        raise OptionError(f"{method!r} does not initialise with data: {nearest(method, WITH_DATA)}")
    normalize = _unit_variance if method == "lsuv" else _unit_channels
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    layers = [module for module in network.modules() if isinstance(module, Layer)]
    handles = [layer.register_forward_hook(normalize) for layer in layers]
    try:
        network.train()  # batch norm with the statistics of these images, nothing dropped
        for module, _ in modes:
            if "Drop" in type(module).__name__ or type(module) is StochasticDepth:
                module.eval()
        network(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def _unit_variance(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    std = _standard_deviation(output, dims=None)
    layer.weight.div_(std)  # type: ignore[operator]
    if layer.bias is None:
        return output / std
    layer.bias.div_(std)  # type: ignore[operator]
    return output / std


def _unit_channels(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    dims = (0, *range(2, output.ndim))
    std = _standard_deviation(output, dims)
    std = torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std))
    per_channel = (-1, *[1] * (output.ndim - 2))
    layer.weight.div_(std.view(-1, *[1] * (layer.weight.ndim - 1)))  # type: ignore[operator]
    if layer.bias is None:
        return output / std.view(per_channel)
    mean = output.mean(dims)
    layer.bias.sub_(mean).div_(std)  # type: ignore[operator]
    return (output - mean.view(per_channel)) / std.view(per_channel)


def _standard_deviation(output: Tensor, dims: tuple[int, ...] | None) -> Tensor:
    std = output.std(dims, correction=0)
    if not bool(std.max() > 1e-12):
        raise DataError(
            "a layer answers the same for all images given to initialise with, so its scale cannot be found. "
            "Give several different images, normalised as in training."
        )
    return std


def _fixup(network: Network) -> None:
    """Fixup, Zhang et al. 2019, section 3: L branches of m layers each; rules 1 and 2.

    The last layer of each branch starts at zero, the others are scaled by L^(−1 / (2m − 2)).
    """
    branches = [module.branch for module in network.modules() if isinstance(module, Residual)]
    if not branches:
        raise OptionError("Fixup rescales residual branches; this network has none. Choose another init.")
    for branch in branches:
        *others, last = [module for module in branch.modules() if isinstance(module, Layer)]
        nn.init.zeros_(last.weight)
        for layer in others:
            layer.weight.mul_(len(branches) ** (-1 / (2 * len(others))))


def _fan(weight: Tensor, mode: str) -> int:
    """Inputs (or outputs) one unit is connected to; groups are not looked at for fan_out, as in torch."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    return int(fan_in if mode == "fan_in" else fan_out)
