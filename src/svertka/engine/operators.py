"""Operators: THE table from torch functions to ONNX nodes (operator set 18).

Each entry has the name and the parameters of the torch function that it replaces, after the graph that it
adds nodes to, and returns the name of its result in that graph. What it cannot say exactly it refuses.
Sizes are those of the trace, only the number of images stays open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svertka.engine.trace import Value
from svertka.engine.windows import (
    Inexact,
    Ints,
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    conv2d,
    max_pool2d,
    pad,
)

if TYPE_CHECKING:
    from svertka.engine.onnx import Graph

Operand = Value | float


# ---- layers with weights


def linear(g: Graph, input: Value, weight: Value, bias: Value | None = None) -> str:
    inputs = [input, weight] if bias is None else [input, weight, bias]
    if len(input.shape) == 2:
        return g.node("Gemm", *inputs, transB=1)
    product = g.node("MatMul", input, g.node("Transpose", weight, perm=[1, 0]))
    return product if bias is None else g.node("Add", product, bias)


def batch_norm(
    g: Graph, input: Value, running_mean: Value | None, running_var: Value | None,
    weight: Value | None = None, bias: Value | None = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> str:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise Inexact("it normalises by the statistics of the batch; engines treat images one by one")
    scale, shift = _scale_and_shift(g, input.shape[1], weight, bias)
    return g.node("BatchNormalization", input, scale, shift, running_mean, running_var, epsilon=eps)


def instance_norm(
    g: Graph, input: Value, running_mean: Value | None = None, running_var: Value | None = None,
    weight: Value | None = None, bias: Value | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> str:  # fmt: skip
    if not use_input_stats:
        return batch_norm(g, input, running_mean, running_var, weight, bias, False, momentum, eps)
    scale, shift = _scale_and_shift(g, input.shape[1], weight, bias)
    return g.node("InstanceNormalization", input, scale, shift, epsilon=eps)


def group_norm(
    g: Graph, input: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None,
    eps: float = 1e-5,
) -> str:  # fmt: skip
    grouped = g.node("Reshape", input, g.integers([0, num_groups, -1]))
    scale, shift = _scale_and_shift(g, num_groups, None, None)
    normal = g.node("InstanceNormalization", grouped, scale, shift, epsilon=eps)
    result = g.node("Reshape", normal, g.integers([0, *input.shape[1:]]))
    column = g.integers([-1] + [1] * (len(input.shape) - 2))
    if weight is not None:
        result = g.node("Mul", result, g.node("Reshape", weight, column))
    if bias is not None:
        result = g.node("Add", result, g.node("Reshape", bias, column))
    return result


def layer_norm(
    g: Graph, input: Value, normalized_shape: Sequence[int], weight: Value | None = None,
    bias: Value | None = None, eps: float = 1e-5,
) -> str:  # fmt: skip
    scale: Value | str = weight or g.floats(np.ones(tuple(normalized_shape)))
    inputs = [input, scale] if bias is None else [input, scale, bias]
    return g.node("LayerNormalization", *inputs, axis=-len(normalized_shape), epsilon=eps)


def local_response_norm(
    g: Graph, input: Value, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> str:
    if size % 2 == 0:
        raise Inexact("torch and ONNX centre an even number of channels differently")
    return g.node("LRN", input, size=size, alpha=alpha, beta=beta, bias=k)


# ---- activations


def hardtanh(
    g: Graph, input: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> str:
    return g.node("Clip", input, g.floats(min_val), g.floats(max_val))


def relu6(g: Graph, input: Value, inplace: bool = False) -> str:
    return hardtanh(g, input, 0.0, 6.0)


def clamp(g: Graph, input: Value, min: float | None = None, max: float | None = None) -> str:
    return hardtanh(g, input, -math.inf if min is None else min, math.inf if max is None else max)


def leaky_relu(g: Graph, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> str:
    return g.node("LeakyRelu", input, alpha=negative_slope)


def prelu(g: Graph, input: Value, weight: Value) -> str:
    return g.node("PRelu", input, g.node("Reshape", weight, g.integers([-1] + [1] * (len(input.shape) - 2))))


def elu(g: Graph, input: Value, alpha: float = 1.0, inplace: bool = False) -> str:
    return g.node("Elu", input, alpha=alpha)


def silu(g: Graph, input: Value, inplace: bool = False) -> str:
    return g.node("Mul", input, g.node("Sigmoid", input))


def gelu(g: Graph, input: Value, approximate: str = "none") -> str:
    """x · Φ(x), with Φ by the error function or, approximately, by tanh (Hendrycks & Gimpel 2016)."""
    if approximate == "none":
        inner = g.node("Erf", g.node("Div", input, g.floats(math.sqrt(2))))
    else:
        cube = g.node("Mul", g.node("Pow", input, g.floats(3.0)), g.floats(0.044715))
        inner = g.node("Tanh", g.node("Mul", g.node("Add", input, cube), g.floats(math.sqrt(2 / math.pi))))
    return g.node("Mul", g.node("Mul", input, g.node("Add", inner, g.floats(1.0))), g.floats(0.5))


def hardsigmoid(g: Graph, input: Value, inplace: bool = False) -> str:
    return g.node("HardSigmoid", input, alpha=1 / 6, beta=0.5)


def softmax(g: Graph, input: Value, dim: int, _stacklevel: int = 3, dtype: None = None) -> str:
    return g.node("Softmax", input, axis=dim)


def dropout(g: Graph, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> str:
    if training and p:
        raise Inexact("it draws random numbers; call .eval() first")
    return g.name(input)


# ---- reductions


def mean(g: Graph, input: Value, dim: Ints | None = None, keepdim: bool = False, dtype: None = None) -> str:
    return g.node("ReduceMean", input, *_axes(g, input, dim), keepdims=int(keepdim))


def sum_(g: Graph, input: Value, dim: Ints | None = None, keepdim: bool = False, dtype: None = None) -> str:
    return g.node("ReduceSum", input, *_axes(g, input, dim), keepdims=int(keepdim))


def amax(g: Graph, input: Value, dim: Ints | None = None, keepdim: bool = False) -> str:
    return g.node("ReduceMax", input, *_axes(g, input, dim), keepdims=int(keepdim))


# ---- arithmetic


def add(g: Graph, input: Operand, other: Operand, alpha: float = 1) -> str:
    return g.node("Add", g.operand(input), g.operand(other if alpha == 1 else _scaled(g, other, alpha)))


def sub(g: Graph, input: Operand, other: Operand, alpha: float = 1) -> str:
    return g.node("Sub", g.operand(input), g.operand(other if alpha == 1 else _scaled(g, other, alpha)))


def rsub(g: Graph, input: Operand, other: Operand) -> str:
    return sub(g, other, input)


def mul(g: Graph, input: Operand, other: Operand) -> str:
    return g.node("Mul", g.operand(input), g.operand(other))


def div(g: Graph, input: Operand, other: Operand, rounding_mode: str | None = None) -> str:
    if rounding_mode is not None:
        raise Inexact(f"rounding_mode={rounding_mode!r} is not supported")
    return g.node("Div", g.operand(input), g.operand(other))


def pow_(g: Graph, input: Operand, exponent: Operand) -> str:
    return g.node("Pow", g.operand(input), g.operand(exponent))


# ---- shapes and channels


def reshape(g: Graph, input: Value, *shape: Any, **options: Any) -> str:
    """Also flatten, view, unflatten, squeeze, unsqueeze: the shape that came out of it says all."""
    return g.reshape(g.name(input), input)


def permute(g: Graph, input: Value, *dims: Any) -> str:
    order = [d % len(input.shape) for d in (dims[0] if isinstance(dims[0], tuple) else dims)]
    return g.node("Transpose", input, perm=order)


def transpose(g: Graph, input: Value, dim0: int, dim1: int) -> str:
    order = list(range(len(input.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return g.node("Transpose", input, perm=order)


def cat(g: Graph, tensors: Sequence[Value], dim: int = 0) -> str:
    return g.node("Concat", *tensors, axis=dim % len(tensors[0].shape))


def stack(g: Graph, tensors: Sequence[Value], dim: int = 0) -> str:
    axis = dim % (len(tensors[0].shape) + 1)
    return g.node("Concat", *(g.node("Unsqueeze", t, g.integers([axis])) for t in tensors), axis=axis)


def split(g: Graph, input: Value, split_size_or_sections: Ints, dim: int = 0) -> list[str]:
    """Also chunk: the shapes that came out of it say all."""
    axis = dim % len(input.shape)
    return g.split(input, axis)


def getitem(g: Graph, input: Value, index: Any) -> str:
    """Slices, integers, `...` and None."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        used = sum(item is not None and item is not Ellipsis for item in index)
        index = (*index[:at], *[slice(None)] * (len(input.shape) - used), *index[at + 1 :])
    starts: list[int] = []
    ends: list[int] = []
    axes: list[int] = []
    steps: list[int] = []
    for axis, item in enumerate(item for item in index if item is not None):
        if isinstance(item, int):
            item = slice(item, item + 1 or None)
        if not isinstance(item, slice):
            raise Inexact(f"it indexes with {type(item).__name__}; slices and integers are supported")
        if item == slice(None):
            continue
        if axis == 0 and input.batched:
            raise Inexact("it picks images out of the batch")
        start, stop, step = item.indices(input.shape[axis])
        for values, value in zip((starts, ends, axes, steps), (start, stop, axis, step), strict=True):
            values.append(value)
    result = g.name(input)
    if axes:
        result = g.node("Slice", result, *(g.integers(values) for values in (starts, ends, axes, steps)))
    return g.reshape(result, input) if any(not isinstance(item, slice) for item in index) else result


def same(g: Graph, input: Value, *arguments: Any, **options: Any) -> str:
    """Functions that change nothing here: contiguous, clone, detach."""
    return g.name(input)


def elementwise(operator: str) -> Callable[..., str]:
    """A torch function of one tensor that ONNX has under its own name, without options."""

    def emit(g: Graph, input: Value, inplace: bool = False) -> str:
        return g.node(operator, input)

    return emit


TABLE: dict[str, Callable[..., str | list[str]]] = {
    "conv2d": conv2d,
    "linear": linear,
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
    "hardtanh": hardtanh,
    "relu6": relu6,
    "clamp": clamp,
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "elu": elu,
    "silu": silu,
    "gelu": gelu,
    "hardsigmoid": hardsigmoid,
    "softmax": softmax,
    "dropout": dropout,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_max_pool2d": adaptive_max_pool2d,
    "mean": mean,
    "sum": sum_,
    "amax": amax,
    "add": add,
    "sub": sub,
    "rsub": rsub,
    "mul": mul,
    "div": div,
    "pow": pow_,
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"), reshape),
    "permute": permute,
    "transpose": transpose,
    "cat": cat,
    "stack": stack,
    "split": split,
    "chunk": split,
    "getitem": getitem,
    "pad": pad,
    **dict.fromkeys(("contiguous", "clone", "detach"), same),
    **{
        name: elementwise(operator)
        for name, operator in {
            "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "selu": "Selu", "hardswish": "HardSwish",
            "mish": "Mish", "abs": "Abs", "exp": "Exp", "log": "Log", "neg": "Neg", "sqrt": "Sqrt",
        }.items()
    },
}  # fmt: skip
"""Name of a torch function (in place or not, method or not) to what adds its nodes."""


def _scale_and_shift(g: Graph, channels: int, weight: Value | None, bias: Value | None) -> list[Value | str]:
    return [weight or g.floats(np.ones(channels)), bias or g.floats(np.zeros(channels))]


def _axes(g: Graph, input: Value, dim: Any) -> list[str]:
    axes = list(range(len(input.shape))) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [axis % len(input.shape) for axis in axes]
    if input.batched and 0 in axes:
        raise Inexact("it mixes the images of a batch")
    return [g.integers(axes)]


def _scaled(g: Graph, operand: Operand, factor: float) -> Any:
    return operand * factor if isinstance(operand, int | float) else g.node("Mul", operand, g.floats(factor))
