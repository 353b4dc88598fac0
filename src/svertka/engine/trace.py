"""Trace: which torch functions a module calls for one shape of input, on what, in which layer.

The module runs once on three black images while a function mode writes down every call. Branches and loops
in `forward` are resolved by running them, so the list is what the module does for that shape, whatever its
code looks like; code that asks for values is refused. Values are numbered as they appear; a function that
works in place makes a new one. (On torch's `meta` device nothing would be computed, but the first convolution
there imports three seconds' worth of torch.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from svertka.errors import ModelError, SvertkaError

BATCH = 3
"""Images in the batch that is traced."""

_SHAPE_STAYS = {
    "batch_norm", "dropout", "elu", "gelu", "group_norm", "hardsigmoid", "hardswish", "hardtanh",
    "instance_norm", "layer_norm", "leaky_relu", "local_response_norm", "mish", "prelu", "relu", "relu6",
    "selu", "sigmoid", "silu", "softplus", "tanh",
}  # fmt: skip
"""Functions whose result is as large as their input; they need not run."""
_VALUES = {
    "item",
    "bool",
    "float",
    "int",
    "index",
    "tolist",
    "numpy",
    "nonzero",
    "unique",
    "equal",
    "allclose",
}
"""Functions by which code could depend on the values of a tensor."""


@dataclass(frozen=True)
class Value:
    """A tensor of the trace: a parameter or buffer by its name, or a numbered result; `batched` if it depends
    on the input, so that its first dimension counts images."""

    name: str
    shape: tuple[int, ...]
    batched: bool


@dataclass(frozen=True)
class Call:
    """One function call: `arguments` and `options` as given, with a Value in the place of each tensor."""

    function: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: tuple[Value, ...]
    layer: str  # dotted name of the innermost module that runs

    def values(self) -> Iterator[Value]:
        """All tensors that go in."""
        return _leaves((self.arguments, tuple(self.options.values())), Value)


@dataclass(frozen=True)
class Trace:
    """All calls in order, from `input` to `output`."""

    input: Value
    calls: tuple[Call, ...]
    output: Value


def trace(module: nn.Module, shape: tuple[int, ...]) -> Trace:
    """What a module in eval mode calls for a batch of inputs of `shape` (without the batch dimension).

    Raises:
        ModelError: the module is in training mode or not float32, cannot run on this shape, or does something
            that a list of function calls cannot say; names the layer.
    """
    if any(part.training for part in module.modules()):
        raise ModelError("a module is traced as it answers, in eval mode; call .eval() on it first.")
    kinds = {tensor.dtype for tensor in module.parameters()} - {torch.float32}
    if kinds:
        raise ModelError(
            f"engines compute in float32, and this module has parameters of {', '.join(map(str, kinds))}; "
            "call .float() on it first."
        )
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shadows = {name: tensor.detach() for name, tensor in state.items()}
    images = torch.zeros(BATCH, *shape)
    recorder = _Recorder(images, shadows)
    try:
        with torch.no_grad(), _layer_names(module, recorder.layers), recorder:
            output = torch.func.functional_call(module, shadows, (images,))
    except SvertkaError:
        raise
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"layer {recorder.layers[-1] or '(outermost)'} cannot be traced for inputs of {shape}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"a traced module gives one tensor; this one gives {type(output).__name__}.")
    return Trace(recorder.values[id(images)], tuple(recorder.calls), recorder.value(output))


class _Recorder(TorchFunctionMode):
    """Writes calls down and lets them run, on shapes alone."""

    def __init__(self, images: Tensor, shadows: dict[str, Tensor]) -> None:
        super().__init__()
        self.layers = [""]
        self.calls: list[Call] = []
        self.values = {
            id(tensor): Value(name, tuple(tensor.shape), False) for name, tensor in shadows.items()
        }
        self.values[id(images)] = Value("images", tuple(images.shape), True)
        self._alive: list[Tensor] = []  # an id is a name only while its tensor lives

    def value(self, tensor: Tensor) -> Value:
        if id(tensor) not in self.values:
            raise ModelError(self._stray())
        return self.values[id(tensor)]

    def _stray(self) -> str:
        return (
            f"layer {self.layers[-1] or '(outermost)'} uses a tensor that is neither computed from the input "
            "nor a parameter or buffer; register it as a buffer."
        )

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        name, arguments, options = _name(function), self._described(args), self._described(given)
        if name in _SHAPE_STAYS and not given.get("inplace") and not function.__name__.endswith("_"):
            first = args[0] if args else given["input"]
            result = first.detach()
        elif name in _VALUES or (
            name == "getitem" and any(part.dtype == torch.bool for part in _leaves(args[1], Tensor))
        ):
            layer = self.layers[-1] or "(outermost)"
            raise ModelError(f"layer {layer} cannot be traced: what it does depends on values ({name}()).")
        else:
            result = function(*args, **given)
        tensors = list(_leaves(result, Tensor))
        if not tensors:
            return result  # a shape, a number of dimensions: the code that asked goes on with it
        values = list(_leaves((arguments, tuple(options.values())), Value))
        if not values:
            raise ModelError(self._stray())
        batched = any(value.batched for value in values)
        results = []
        for tensor in tensors:
            value = Value(f"{len(self._alive)}", tuple(tensor.shape), batched)
            self.values[id(tensor)] = value
            self._alive.append(tensor)
            results.append(value)
        self.calls.append(Call(name, arguments, options, tuple(results), self.layers[-1]))
        return result

    def _described(self, given: Any) -> Any:
        """The same nest of tuples, lists and dicts, with Values for tensors."""
        if isinstance(given, Tensor):
            return self.value(given)
        if isinstance(given, dict):
            return {key: self._described(item) for key, item in given.items()}
        if isinstance(given, tuple | list):
            return tuple(self._described(item) for item in given)
        return given


def _name(function: Callable[..., Any]) -> str:
    """`relu` for torch.relu, torch.relu_, Tensor.relu and functional.relu; `add` for `+` and `+=` too."""
    name = getattr(function, "__name__", repr(function))
    if name == "__get__":
        return resolve_name(function) or name  # a property such as Tensor.T
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        return {"radd": "add", "iadd": "add", "rmul": "mul", "imul": "mul", "truediv": "div"}.get(name, name)
    return name.rstrip("_")


def _leaves(nest: Any, kind: type) -> Iterator[Any]:
    if isinstance(nest, kind):
        yield nest
    elif isinstance(nest, tuple | list):
        for item in nest:
            yield from _leaves(item, kind)


@contextmanager
def _layer_names(module: nn.Module, layers: list[str]) -> Iterator[None]:
    """Keep the dotted name of the module that runs on top of `layers`."""
    with ExitStack() as hooks:
        for name, part in module.named_modules():

            def enter(part: nn.Module, inputs: Any, name: str = name) -> None:
                layers.append(name)

            def leave(part: nn.Module, inputs: Any, outputs: Any) -> None:
                layers.pop()

            hooks.callback(part.register_forward_pre_hook(enter).remove)
            hooks.callback(part.register_forward_hook(leave).remove)
        yield
