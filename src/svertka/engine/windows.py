"""Operators that slide a window over maps: convolution and pooling, and padding.

ONNX rounds sizes down where torch's ceil mode rounds them up, so windows are said by the padding that gives
the sizes of the trace: zeros and minus infinities at the end that torch has implicitly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svertka.engine.trace import Value

if TYPE_CHECKING:
    from svertka.engine.onnx import Graph

Ints = int | Sequence[int]


class Inexact(Exception):
    """ONNX has no exact equivalent; the message is the end of "… because"."""


def conv2d(
    g: Graph, input: Value, weight: Value, bias: Value | None = None, stride: Ints = 1,
    padding: Ints | str = 0, dilation: Ints = 1, groups: int = 1,
) -> str:  # fmt: skip
    kernel, steps, apart = weight.shape[2:], _pair(stride), _pair(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(apart, kernel, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = _pair(0 if padding == "valid" else padding) * 2
    inputs = [input, weight] if bias is None else [input, weight, bias]
    return g.node(
        "Conv", *inputs, kernel_shape=kernel, strides=steps, pads=pads, dilations=apart, group=groups
    )


def max_pool2d(
    g: Graph, input: Value, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0,
    dilation: Ints = 1, ceil_mode: bool = False, return_indices: bool = False,
) -> str:  # fmt: skip
    kernel, steps, apart = _pair(kernel_size), _pair(stride or kernel_size), _pair(dilation)
    pads = _pads(g, input, kernel, steps, _pair(padding), apart)
    return g.node("MaxPool", input, kernel_shape=kernel, strides=steps, pads=pads, dilations=apart)


def avg_pool2d(
    g: Graph, input: Value, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> str:  # fmt: skip
    kernel, steps, start = _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)
    pads = _pads(g, input, kernel, steps, start, [1, 1])
    include = count_include_pad and any(start)
    if divisor_override is not None:
        raise Inexact("ONNX divides by the size of the window")
    if include and any(after > before for before, after in zip(start, pads[2:], strict=True)):
        raise Inexact("a last window that reaches over the padding is divided differently")
    return g.node(
        "AveragePool", input, kernel_shape=kernel, strides=steps, pads=pads, count_include_pad=int(include)
    )


def adaptive_avg_pool2d(g: Graph, input: Value, output_size: Ints) -> str:
    sizes, wanted = input.shape[2:], g.shape[2:]
    if wanted == (1, 1):
        return g.node("GlobalAveragePool", input)
    if wanted == sizes:
        return g.name(input)
    if all(size % out == 0 for size, out in zip(sizes, wanted, strict=True)):
        kernel = [size // out for size, out in zip(sizes, wanted, strict=True)]
        return g.node("AveragePool", input, kernel_shape=kernel, strides=kernel)
    rows, columns = (_averages(size, out) for size, out in zip(sizes, wanted, strict=True))
    return g.node("MatMul", g.floats(rows), g.node("MatMul", input, g.floats(columns.T)))


def adaptive_max_pool2d(g: Graph, input: Value, output_size: Ints, return_indices: bool = False) -> str:
    sizes, wanted = input.shape[2:], g.shape[2:]
    if any(size % out for size, out in zip(sizes, wanted, strict=True)):
        raise Inexact(f"windows of maps of {sizes} for an output of {wanted} differ in size")
    kernel = [size // out for size, out in zip(sizes, wanted, strict=True)]
    return g.node("MaxPool", input, kernel_shape=kernel, strides=kernel)


def pad(
    g: Graph, input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> str:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise Inexact(f"ONNX has no padding mode {mode!r}")
    missing = len(input.shape) - len(pad) // 2
    starts = [0] * missing + [pad[i] for i in range(len(pad) - 2, -1, -2)]
    ends = [0] * missing + [pad[i] for i in range(len(pad) - 1, 0, -2)]
    return g.node("Pad", input, g.integers(starts + ends), g.floats(value or 0.0), mode=modes[mode])


def _pair(value: Any) -> list[int]:
    values = [value, value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _pads(
    g: Graph, input: Value, kernel: list[int], steps: list[int], start: list[int], apart: list[int]
) -> list[int]:
    """Padding before and after that gives exactly the windows of torch, in ceil mode too."""
    after = [
        max(0, (out - 1) * step + (k - 1) * d + 1 - size - p)
        for size, out, k, step, p, d in zip(
            input.shape[2:], g.shape[2:], kernel, steps, start, apart, strict=True
        )
    ]
    return [*start, *after]


def _averages(size: int, out: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(out, size): row i averages the pixels ⌊i·size/out⌋ … ⌈(i + 1)·size/out⌉ − 1."""
    matrix = np.zeros((out, size))
    for i in range(out):
        start, stop = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
