"""A network taken apart: shape, parameters, multiply–accumulates, memory and receptive field of each layer.

`anatomy(network, size=224)` runs the network once without values (on torch's `meta` device, in eval mode)
and writes a row for each layer in the order of the run, also for the sums, products and concatenations
between layers. What is the identity in eval mode (dropout, stochastic depth) has no row. The receptive fields
are those of `field.py`.

A convolution or linear layer costs outputs × inputs of one output multiply–accumulates (MACs), biases
uncounted; all else counts nothing, as in torchvision's published figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from svertka.errors import ModelError
from svertka.models.field import MOVES, SIDES, Call, Trace, follow, image


@dataclass(frozen=True)
class Layer:
    """One layer, or one operation between layers; pairs are (vertical, horizontal), lengths are input pixels.

    `receptive_field` is the box of pixels that can change one value in the middle of the output. It is
    counted beyond the borders of the image, as in the literature, as long as the layer looks through a
    window; behind a global pool, or a gate that depends on the whole image (squeeze-and-excite), it is the
    part of the image that is seen. `window` is the field without such gates; None where all positions were
    mixed, and then `stride` is None too. `offset` is the centre of the first value's window (pixel centres
    are whole numbers), `seen` the pixels (top, bottom, left, right, inclusive) that do reach the middle value
    at this input size.
    """

    name: str  # dotted path of the module; for operations, of the module that calls them
    kind: str
    output: tuple[int, ...]  # shape without the batch
    parameters: int
    macs: int
    activation_bytes: int  # of the output of one image, float32
    receptive_field: tuple[int, int]
    window: tuple[int, int] | None
    stride: tuple[float, float] | None
    offset: tuple[float, float]
    seen: tuple[int, int, int, int]
    depth: int  # convolutions and linear layers on the longest way here, without gates

    @property
    def gated(self) -> bool:
        """The window is smaller than the field: a global gate or norm reached this layer."""
        return self.window is not None and self.window != self.receptive_field

    @property
    def part(self) -> str:
        """The part of the network it lies in: `stem`, `stages.0`, …, `head`."""
        pieces = self.name.split(".")
        return ".".join(pieces[:2] if pieces[0] == "stages" else pieces[:1])


@dataclass(frozen=True)
class Anatomy:
    """All layers of a network for images of (channels, height, width), in the order of the run."""

    input: tuple[int, int, int]
    layers: tuple[Layer, ...]
    idle_parameters: int  # not used in eval mode, such as those of auxiliary classifiers

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply–accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Of all outputs together for one image, float32: what training has to keep, roughly."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def depth(self) -> int:
        """Convolutions and linear layers on the longest way from input to output, without those in gates."""
        return self.layers[-1].depth

    @property
    def last(self) -> Layer:
        """The last layer that looks through a window (maps before the global pool), or the last of all."""
        return next((layer for layer in reversed(self.layers) if layer.window), self.layers[-1])

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Of the maps before the global pool."""
        return self.last.receptive_field


def anatomy(network: nn.Module, *, size: int | tuple[int, int], channels: int = 3) -> Anatomy:
    """Take a network apart for images of `size` (side, or height and width, in pixels).

    Raises:
        ModelError: the network does not take such images, or has an operation whose field is not known.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width, channels) < 1:
        raise ModelError(
            f"an image has at least one pixel and one channel; got {channels} × {height} × {width}."
        )
    weights = {
        name: tensor.detach().to("meta")
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
    }
    places = {id(weights[name]): parameter.numel() for name, parameter in network.named_parameters()}
    recorder = _Recorder(places)
    images, trace = image(channels, height, width)
    recorder.traces[images] = trace
    try:
        with torch.no_grad(), eval_mode(network), recorder.listening(network), recorder:
            functional_call(network, weights, (images,))
    except RuntimeError as error:
        raise ModelError(
            f"the network does not take {channels} × {height} × {width} images: {error} Give another size."
        ) from error
    idle = sum(parameter.numel() for parameter in network.parameters()) - sum(recorder.counted.values())
    return Anatomy((channels, height, width), tuple(recorder.rows), idle)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode for the enclosed work; afterwards each module is as it was."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass
class _Row:
    """What has been gathered for the row that is being written."""

    operations: int = 0  # that depend on the image
    macs: int = 0
    parameters: int = 0


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every operation of the run and writes the rows."""

    def __init__(self, parameters: dict[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traces = WeakTensorKeyDictionary()
        self.parameters = parameters  # id of the tensor: number of values
        self.counted: dict[int, int] = {}  # those that have been used so far
        self.path: list[tuple[str, bool]] = [("", False)]  # modules we are in, and whether they are layers
        self.row = _Row()
        self.rows: list[Layer] = []
        self.written: Tensor | None = None  # what the last row is about

    @contextmanager
    def listening(self, network: nn.Module) -> Iterator[None]:
        """Know at any time which module is at work."""
        with ExitStack() as hooks:
            for name, module in network.named_modules():
                if name and not isinstance(module, nn.Identity):
                    leaf = next(module.children(), None) is None
                    for handle in self._hooks(name, module, leaf):
                        hooks.callback(handle.remove)
            yield

    def _hooks(self, name: str, module: nn.Module, leaf: bool) -> list[Any]:
        def enter(*_: Any) -> None:
            self.path.append((name, leaf))

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.path.pop()
            if leaf and self.row.operations:
                self._write(name, type(module).__name__, tree_leaves(output)[0])

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._count_parameters(tensors)
        traced = [(tensor, self.traces[tensor]) for tensor in tensors if tensor in self.traces]
        if not traced:
            return result
        name = func._schema.name.removeprefix("aten::")
        given = {argument.name: argument.default_value for argument in func._schema.arguments}
        given |= dict(zip(given, args, strict=False)) | (kwargs or {})
        call = Call(
            name,
            func,
            args,
            kwargs or {},
            given,
            results=[leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)],
            traced=traced,
            moves=func.is_view or name in MOVES,
            pointwise=torch.Tag.pointwise in func.tags,
            where=self.path[-1][0],
        )
        for tensor, trace in follow(call):
            self.traces[tensor] = trace
        self.row.operations += 1
        self.row.macs += _macs(call)
        path, leaf = self.path[-1]
        rearranges = call.moves or name == "clone"
        if not leaf and not rearranges:
            self._write(path, KINDS.get(name, name.strip("_")), call.results[0])
        elif not leaf and call.source[0] is self.written and self.rows[-1].name == path:
            self._rewrite(call.results[0])
        return result

    def _count_parameters(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) in self.parameters and id(tensor) not in self.counted:
                self.counted[id(tensor)] = self.parameters[id(tensor)]
                self.row.parameters += self.parameters[id(tensor)]

    def _write(self, name: str, kind: str, output: Tensor) -> None:
        self.rows.append(_layer(name, kind, self.row, self.traces[output], output))
        self.row, self.written = _Row(), output

    def _rewrite(self, output: Tensor) -> None:
        """The module goes on by dealing out the same values anew (a channel shuffle): still the same row."""
        last = self.rows[-1]
        if output.ndim > 1 and output.numel() == SIDES * math.prod(last.output):
            row = _Row(macs=last.macs, parameters=last.parameters)
            self.rows[-1] = _layer(last.name, last.kind, row, self.traces[output], output)
            self.written = output


KINDS = {
    "add": "Add",
    "add_": "Add",
    "mul": "Multiply",
    "mul_": "Multiply",
    "cat": "Concatenate",
    "stack": "Concatenate",
    "mean": "Mean",
    "relu": "ReLU",
    "relu_": "ReLU",
    "convolution": "Conv2d",
    "addmm": "Linear",
    "native_batch_norm": "BatchNorm2d",
    "native_group_norm": "GroupNorm",
    "native_layer_norm": "LayerNorm",
}
"""What operations called outside of a layer are named in the table."""


def _macs(call: Call) -> int:
    """For one image."""
    outputs = math.prod(call.shape) // SIDES
    match call.name:
        case "convolution":
            return outputs * int(math.prod(call.given["weight"].shape[1:]))
        case "addmm" | "mm":
            return outputs * int(call.source[0].shape[1])
    return 0


def _layer(name: str, kind: str, row: _Row, trace: Trace, output: Tensor) -> Layer:
    shape = tuple(output.shape[1:])
    maps = output.ndim == 4
    seen = _together(trace.seen, output, trace.channel)
    window = _together(trace.window, output, trace.channel) if maps and trace.window is not None else None
    middle = (slice(None), seen.shape[1] // 2, seen.shape[2] // 2)
    top, bottom, left, right = (int(side) for side in _signed(seen[middle]))
    field, looks, stride = (bottom - top + 1, right - left + 1), None, None
    offset = ((top + bottom) / 2, (left + right) / 2)
    if window is not None:
        box, first = _signed(window[middle]), _signed(window[:, 0, 0])
        looks = (int(box[1] - box[0]) + 1, int(box[3] - box[2]) + 1)
        offset = ((first[0] + first[1]) / 2, (first[2] + first[3]) / 2)
        stride = trace.stride
        if box[0] <= top and bottom <= box[1] and box[2] <= left and right <= box[3]:
            field = looks
    return Layer(
        name,
        kind,
        shape,
        parameters=row.parameters,
        macs=row.macs,
        activation_bytes=4 * math.prod(shape),
        receptive_field=field,
        window=looks,
        stride=stride,
        offset=offset,
        seen=(top, bottom, left, right),
        depth=trace.depth,
    )


def _together(board: Tensor, output: Tensor, channel: int) -> Tensor:
    """The hull over all channels: a board (4, h, w); one place (4, 1, 1) for all that is not maps."""
    board = board.expand(output.shape)
    return board.amax(channel) if output.ndim == 4 else board.flatten(1).amax(1)[:, None, None]


def _signed(box: Tensor) -> list[float]:
    top, bottom, left, right = box.tolist()
    return [-top, bottom, -left, right]
