"""Which input pixels can change a value: receptive fields, exact on any graph of layers.

A network runs on torch's `meta` device with a batch of four. Beside each of its tensors go two boards of the
same shape, whose four rows hold −top, bottom, −left and right of a box of input pixels: `seen`, the pixels of
this input that reach a value, and `window`, the same for an image without borders and a network without
global gates. Each operation acts on the boards with max in place of its sums: a convolution takes the largest
over its window, a sum or product the largest of its operands, a view or concatenation moves them as it moves
the values. Outside the image nothing is seen (−inf), while windows go on in steps of the stride. What mixes
all positions has no window.

Source for chains of layers: Araujo, Norris, Sim 2019, "Computing Receptive Fields of CNNs", Distill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from svertka.errors import ModelError

SIDES = 4
"""Size of the batch: −top, bottom, −left, right."""


@dataclass(frozen=True)
class Trace:
    """What is known of one tensor; boards have its shape, or 1 where they do not vary.

    `window` is None behind operations that mix all positions. `stride` is the distance of neighbouring
    positions in input pixels, (vertical, horizontal). `depth` counts the convolutions and linear layers on
    the longest way here, without those inside gates. `channel` is the dimension of the feature maps.
    """

    seen: Tensor
    window: Tensor | None
    stride: tuple[float, float] = (1.0, 1.0)
    depth: int = 0
    channel: int = 1

    def map(self, act: Callable[[Tensor], Tensor]) -> Trace:
        """The same for both boards."""
        return replace(self, seen=act(self.seen), window=None if self.window is None else act(self.window))


@dataclass(frozen=True)
class Call:
    """One operation: its arguments by name, and with their traces those that depend on the image."""

    name: str
    operation: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    given: dict[str, Any]
    results: list[Tensor]
    traced: list[tuple[Tensor, Trace]]
    moves: bool  # rearranges values and changes none
    pointwise: bool
    where: str  # the module it was called in

    @property
    def shape(self) -> torch.Size:
        """Of the first result."""
        return self.results[0].shape

    @property
    def source(self) -> tuple[Tensor, Trace]:
        """The one operand that depends on the image."""
        if len(self.traced) != 1:
            raise self.unknown(" of several operands that depend on the image")
        return self.traced[0]

    def unknown(self, which: str = "") -> ModelError:
        """The error for an operation whose field is not known."""
        place = f" in {self.where}" if self.where else ""
        return ModelError(
            "expected convolutions, pools, linear layers, normalisations, activations, sums, products, "
            f"concatenations and views; got the operation {self.name!r}{which}{place}, whose receptive field "
            "is not known. The network can be trained, but not be taken apart."
        )


def image(channels: int, height: int, width: int) -> tuple[Tensor, Trace]:
    """The input of the run (on `meta`), and its trace: each pixel sees itself."""
    rows = torch.arange(float(height)).view(1, 1, height, 1).expand(1, 1, height, width)
    columns = torch.arange(float(width)).view(1, 1, 1, width).expand(1, 1, height, width)
    board = torch.cat([-rows, rows, -columns, columns])
    return torch.empty(SIDES, channels, height, width, device="meta"), Trace(board, board)


def follow(call: Call) -> Iterator[tuple[Tensor, Trace]]:
    """The results of an operation that are of use, each with its trace.

    Raises:
        ModelError: an operation whose field is not known.
    """
    if call.moves:
        yield from _move(call)
    elif call.name in RULES:
        yield call.results[0], RULES[call.name](call)
    elif call.pointwise or call.name in POINTWISE:
        yield call.results[0], _join(call)
    else:
        raise call.unknown()


def _narrow(board: Tensor) -> Tensor:
    """Dimension 1 taken down to 1 where all channels agree, which keeps boards small."""
    alike = board.ndim == 4 and board.shape[1] > 1 and bool((board == board[:, :1]).all())
    return board[:, :1] if alike else board


def _move(call: Call) -> Iterator[tuple[Tensor, Trace]]:
    source, trace = call.source

    def moved(board: Tensor) -> list[Tensor]:
        board = board.expand(source.shape).contiguous()
        args, options = tree_map_only(
            Tensor, lambda tensor: board if tensor is source else tensor, (call.args, call.options)
        )
        outcome = call.operation(*args, **options)
        return [outcome] if isinstance(outcome, Tensor) else list(outcome)

    if call.name in ("permute", "transpose") and source.ndim == 4:
        order = call.operation(torch.empty(0, 1, 2, 3), *call.args[1:], **call.options).shape
        trace = replace(trace, channel=list(order).index(trace.channel))
    seen = moved(trace.seen)
    windows: Sequence[Tensor | None] = [None] * len(seen) if trace.window is None else moved(trace.window)
    for result, board, window in zip(call.results, seen, windows, strict=True):
        yield result, replace(trace, seen=board, window=window).map(_narrow)


def _join(call: Call) -> Trace:
    """Sums, products and all else that acts value by value. A gate (no window) leaves the window as it is."""
    traces = [trace for _, trace in call.traced]
    main = [trace for trace in traces if trace.window is not None] or traces
    seen, window = traces[0].seen, main[0].window
    for trace in traces[1:]:
        seen = torch.maximum(seen, trace.seen)
    for trace in main[1:]:
        window = torch.maximum(window, trace.window)  # type: ignore[arg-type]
    return _merged(main, seen, window)


def _merged(traces: list[Trace], seen: Tensor, window: Tensor | None) -> Trace:
    stride = max(trace.stride[0] for trace in traces), max(trace.stride[1] for trace in traces)
    return Trace(seen, window, stride, max(trace.depth for trace in traces), traces[0].channel)


def _concatenate(call: Call) -> Trace:
    dim = call.given["dim"]

    def joined(boards: list[Tensor]) -> Tensor:
        whole = [board.expand(tensor.shape) for board, (tensor, _) in zip(boards, call.traced, strict=True)]
        return torch.stack(whole, dim) if call.name == "stack" else torch.cat(whole, dim)

    if len(call.traced) != len(call.given["tensors"]):
        raise call.unknown(" with a part that does not depend on the image")
    traces = [trace for _, trace in call.traced]
    main = [trace for trace in traces if trace.window is not None] or traces
    seen = joined([trace.seen for trace in traces])
    if main[0].window is None:
        return _merged(main, seen, None)
    empty = torch.full((1,) * seen.ndim, -math.inf)
    window = joined([empty if trace.window is None else trace.window for trace in traces])
    return _merged(main, seen, window).map(_narrow)


def _convolution(call: Call) -> Trace:
    weight, groups = call.given["weight"], call.given["groups"]
    if call.given["transposed"]:
        raise call.unknown(" (transposed)")

    def channels(board: Tensor) -> Tensor:
        if board.shape[1] == 1:
            return board
        reached = board.reshape(SIDES, groups, -1, *board.shape[2:]).amax(2)
        return reached.repeat_interleave(weight.shape[0] // groups, 1) if groups > 1 else reached

    trace = _slide(call, weight.shape[2:], before=channels)
    return replace(trace.map(_narrow), depth=trace.depth + 1)


def _pool(call: Call) -> Trace:
    return _slide(call, call.given["kernel_size"])


def _slide(call: Call, kernel: Any, before: Callable[[Tensor], Tensor] = lambda board: board) -> Trace:
    """A window of `kernel` slides over the maps; `given` has its stride, padding and dilation."""
    source, trace = call.source
    if source.ndim != 4 or trace.channel != 1:
        raise call.unknown(f" on a tensor of {source.ndim} dimensions")
    kernel = _pair(kernel)
    step = _pair(call.given["stride"] or kernel)
    first = _pair(call.given["padding"])
    dilation = _pair(call.given.get("dilation", 1))
    pads = []  # as F.pad wants them: left, right, top, bottom
    for axis in (1, 0):
        reach = (call.shape[2 + axis] - 1) * step[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        pads += [first[axis], max(0, reach - source.shape[2 + axis] - first[axis])]

    def slid(board: Tensor, stride: tuple[float, float] | None) -> Tensor:
        board = before(board)
        board = _padded(board.expand(*board.shape[:2], *source.shape[2:]), pads, stride)
        return F.max_pool2d(board, kernel, step, 0, dilation)

    window = None if trace.window is None else slid(trace.window, trace.stride)
    stride = trace.stride[0] * step[0], trace.stride[1] * step[1]
    return replace(trace, seen=slid(trace.seen, None), window=window, stride=stride)


def _padded(board: Tensor, pads: list[int], stride: tuple[float, float] | None) -> Tensor:
    """More positions around a board: nothing is seen there, or (`stride` given) boxes go on in its steps."""
    if stride is None:
        return F.pad(board, pads, value=-math.inf)
    left, right, top, bottom = pads
    board = F.pad(board, pads, mode="replicate")
    down = _beyond(board.shape[2], top, bottom).view(1, 1, -1, 1) * stride[0]
    along = _beyond(board.shape[3], left, right).view(1, 1, 1, -1) * stride[1]
    down, along = down.expand(1, 1, *board.shape[2:]), along.expand(1, 1, *board.shape[2:])
    return board + torch.cat([-down, down, -along, along])


def _beyond(length: int, before: int, after: int) -> Tensor:
    """How far each position lies outside: −2 −1 0 0 … 0 1 for 2 before and 1 after; crops are no distance."""
    position = torch.arange(float(length)) - max(before, 0)
    last = length - 1 - max(before, 0) - max(after, 0)
    return position.clamp(max=0) + (position - last).clamp(min=0)


def _pad(call: Call) -> Trace:
    """Zeros around the maps, or as further maps."""
    source, trace = call.source
    sides = [*call.given["pad"], 0, 0, 0, 0, 0, 0]
    if source.ndim != 4 or trace.channel != 1 or any(sides[6:]):
        raise call.unknown(f" on a tensor of {source.ndim} dimensions")

    def padded(board: Tensor, stride: tuple[float, float] | None) -> Tensor:
        board = _padded(board.expand(source.shape), sides[:4], stride)
        return F.pad(board, [0, 0, 0, 0, *sides[4:6]], value=-math.inf)

    window = None if trace.window is None else padded(trace.window, trace.stride)
    return replace(trace, seen=padded(trace.seen, None), window=window)


def _adaptive_pool(call: Call) -> Trace:
    source, trace = call.source
    sides = call.shape[-2:]
    trace = trace.map(
        lambda board: F.adaptive_max_pool2d(board.expand(*board.shape[:2], *source.shape[2:]), sides)
    )
    down, along = (trace.stride[axis] * source.shape[2 + axis] / sides[axis] for axis in (0, 1))
    return replace(trace, window=None if tuple(sides) == (1, 1) else trace.window, stride=(down, along))


def _reduce(call: Call) -> Trace:
    """Means, sums and maxima over whole dimensions."""
    source, trace = call.source
    dims = _dims(call, source)
    trace = trace.map(lambda board: board.amax(dims, keepdim=call.given["keepdim"]))
    mixes = not _positions(source, trace).isdisjoint(dims)
    return replace(trace, window=None if mixes else trace.window)


def _dims(call: Call, source: Tensor) -> tuple[int, ...]:
    given = call.given.get("dim")
    dims = {dim % source.ndim for dim in ([given] if isinstance(given, int) else given or range(source.ndim))}
    if 0 in dims:
        raise call.unknown(" over the images of a batch")
    return tuple(sorted(dims))


def _positions(tensor: Tensor, trace: Trace) -> set[int]:
    """The dimensions that run over positions; vectors have none."""
    if tensor.ndim == 4:
        return {1, 2, 3} - {trace.channel}
    return {tensor.ndim - 2, tensor.ndim - 1} if tensor.ndim == 5 else {2}


def _linear(call: Call) -> Trace:
    """A matrix product: of whole images it leaves no window, of the channels at each place it does."""
    _, trace = call.source
    trace = trace.map(lambda board: board.amax(1, keepdim=True))
    vectors = call.shape[0] == SIDES
    return replace(trace, window=None if vectors else trace.window, depth=trace.depth + 1)


def _batch_norm(call: Call) -> Trace:
    """In eval mode value by value; where it still takes means (instance norm), all positions are seen."""
    source, trace = call.source
    if not call.given["training"]:
        return trace
    if source.shape[0] != 1:
        raise call.unknown(" over the images of a batch")
    return replace(trace, seen=trace.seen.amax(tuple(range(2, source.ndim)), keepdim=True))


def _group_norm(call: Call) -> Trace:
    source, trace = call.source
    groups = call.given["group"]

    def channels(board: Tensor) -> Tensor:
        grouped = board.expand(source.shape).reshape(source.shape[0], groups, -1, *source.shape[2:])
        return grouped.amax(2, keepdim=True).expand(grouped.shape).flatten(1, 2)

    trace = trace.map(channels)
    return replace(trace, seen=trace.seen.amax(tuple(range(2, source.ndim)), keepdim=True))


def _layer_norm(call: Call) -> Trace:
    """Also softmax: each value depends on all along some dimensions."""
    source, trace = call.source
    count = len(call.given.get("normalized_shape", ()))
    dims = tuple(range(source.ndim - count, source.ndim)) if count else _dims(call, source)
    seen = trace.seen.amax(dims, keepdim=True)
    window = trace.window
    if window is not None and trace.channel in dims:
        window = window.amax(trace.channel, keepdim=True)
    return replace(trace, seen=seen, window=window)


def _unchanged(call: Call) -> Trace:
    source, trace = call.source
    if call.shape != source.shape:
        raise call.unknown()
    return trace


def _pair(value: Any) -> tuple[int, int]:
    whole = [value] if isinstance(value, int) else list(value)
    return (whole[0], whole[0]) if len(whole) == 1 else (whole[0], whole[1])


RULES: dict[str, Callable[[Call], Trace]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "mean": _reduce,
    "sum": _reduce,
    "amax": _reduce,
    "addmm": _linear,
    "mm": _linear,
    "native_batch_norm": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "_softmax": _layer_norm,
    "cat": _concatenate,
    "stack": _concatenate,
    "constant_pad_nd": _pad,
    "as_strided_": _unchanged,
    "lift_fresh": _unchanged,
}
"""Name of an operation of torch's ATen to how it acts on boards."""

POINTWISE = frozenset({"hardswish", "hardswish_", "_prelu_kernel", "_to_copy"})
"""Operations value by value that torch does not mark as such."""

MOVES = frozenset({"_unsafe_view", "_reshape_copy", "repeat", "flip", "roll", "reflection_pad2d",
                   "replication_pad2d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"})  # fmt: skip
"""Operations that only rearrange values, beside the views."""
