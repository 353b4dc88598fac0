"""Someone else's network, taken apart into stem, stages and head without reading its code.

`take_apart(model, features, images)` runs the model in eval mode, in training mode and on smaller images, and
follows its modules: where one hands its output, untouched, to the next, and nothing else happens in between,
running them one after another is running the model. What is no such chain inside (a residual block), or not
in every run, stays whole.

    features   where maps of a new resolution are ready: (module, channels), as timm's `feature_info` says
    answer     `Parts`: names of modules for the stem, each stage and the head, in the order they run
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from svertka.errors import ModelError

Features = Sequence[tuple[str, int | None]]


@dataclass(frozen=True)
class Parts:
    """Names of modules in the order they run."""

    stem: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        yield from self.stem
        for stage in self.stages:
            yield from stage
        yield from self.head


@dataclass
class Call:
    """A call of a module, and the calls made in it.

    A tensor is the same if it is the same object and was not written to in between (its version).
    """

    name: str
    given: Tensor | None  # None: not exactly one tensor
    version: int
    output: Tensor | None = None
    new_version: int = 0
    inner: list[Call] = field(default_factory=list)


def take_apart(model: nn.Module, features: Features, images: Tensor, name: str) -> Parts:
    """The parts of a model; `images` (n, c, h, w) may be on torch's `meta` device, with the model.

    Raises:
        ModelError: the model, told as `name`, is no such chain, multiplies activations with activations
            (attention), has maps in another layout than (n, c, h, w), or not two places named as features.
    """
    runs = [_run(model.eval(), images, name), _run(model.train(), images, name)]
    # a model that takes no smaller images has nothing that could differ there
    with suppress(RuntimeError, ValueError, AssertionError):
        runs.append(_run(model.eval(), images[:, :, ::2, ::2], name))
    broken = next((where for run in runs if (where := _broken(run))), None)
    if broken:
        raise _refused(name, f"it computes between its modules ({broken}), so they are no chain")
    if len({_names(run) for run in runs}) > 1:
        raise _refused(name, "its modules are not always the same")
    steps = list(_steps(runs))
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        raise _refused(name, "it runs one of its modules twice")
    parts = _grouped(steps, features, name)
    used = sum(p.numel() for step in parts for p in model.get_submodule(step).parameters())
    whole = sum(parameter.numel() for parameter in model.parameters())
    if used != whole:
        raise _refused(name, f"{whole - used} of its parameters lie outside of the modules that it runs")
    return parts


def _refused(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} cannot be taken apart into stem, stages and head: {reason}. Take a network of convolutions "
        "(ResNet, RegNet, ConvNeXt, EfficientNet, …), or a model of `svertka models`."
    )


def _run(model: nn.Module, images: Tensor, name: str) -> Call:
    """Run the model once, and write down who called whom with what."""
    whole = Call("", images, images._version)
    running = [whole]

    def enter(module: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            single = given[0] if len(given) == 1 and isinstance(given[0], Tensor) else None
            running.append(Call(module, single, _version(single)))

        return hook

    def leave(_module: nn.Module, _given: Any, output: Any) -> None:
        call = running.pop()
        call.output = output if isinstance(output, Tensor) else None
        call.new_version = _version(call.output)
        running[-1].inner.append(call)

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_pre_hook(enter(path)).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        with torch.no_grad(), _NoAttention(name):
            logits = model(images)
    if not isinstance(logits, Tensor):
        raise _refused(name, "it answers more than logits")
    whole.output, whole.new_version = logits, logits._version
    return whole


def _version(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor._version


def _names(call: Call) -> tuple[str, ...]:
    return tuple(part.name for part in call.inner)


def _broken(call: Call) -> str:
    """Where the chain inside a call is broken; "" if it is one."""
    value, version = call.given, call.version
    for part in call.inner:
        if value is None or part.given is not value or part.version != version:
            return f"before {part.name}"
        value, version = part.output, part.new_version
    return "" if value is not None and value is call.output and version == call.new_version else "at the end"


def _steps(runs: Sequence[Call]) -> Iterator[Call]:
    """The same call in all runs as a chain as fine as possible, with the tensors of the first run."""
    if not runs[0].inner or any(map(_broken, runs)) or len({_names(run) for run in runs}) > 1:
        yield runs[0]
        return
    for parts in zip(*[run.inner for run in runs], strict=True):
        yield from _steps(parts)


class _NoAttention(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses batched products of matrices: what every form of attention between positions is made of."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = func._schema.name.removeprefix("aten::")
        if operation in ("bmm", "baddbmm") or "attention" in operation:
            raise _refused(self.name, "it multiplies activations with activations (attention)")
        return func(*args, **(kwargs or {}))


def _grouped(steps: list[Call], features: Features, name: str) -> Parts:
    """Stages end where features are ready, and the last one at the pool; see `_span` for the stem."""
    pool = next((i for i, step in enumerate(steps) if i and _flat(step) and not _flat(steps[i - 1])), None)
    if pool is None:
        raise _refused(name, "it has no place where maps become vectors")
    spans = [span for feature, channels in features if (span := _span(steps[:pool], feature, channels, name))]
    if len(spans) < 2:
        raise _refused(name, "its feature_info names fewer than two places between its modules")
    (begin, end), *others = spans[:-1]
    composite = 0 < begin < end and steps[begin].name not in dict(features)
    cuts = [*sorted({begin if composite else end, end, *(end for _, end in others)} - {0, pool}), pool]
    names = [step.name for step in steps]
    stages = tuple(tuple(names[a:b]) for a, b in pairwise(cuts))
    return Parts(tuple(names[: cuts[0]]), stages, tuple(names[pool:]))


def _span(steps: list[Call], feature: str, channels: int | None, name: str) -> tuple[int, int] | None:
    """The steps that make a feature, [begin, end); empty where it lies inside of a step; None: nowhere."""
    inside = [i for i, step in enumerate(steps) if f"{step.name}.".startswith(f"{feature}.")]
    if not inside:
        holder = next((i for i, step in enumerate(steps) if feature.startswith(f"{step.name}.")), None)
        return None if holder is None else (holder, holder)
    output = steps[inside[-1]].output
    shape = () if output is None else tuple(output.shape[1:])
    if len(shape) != 3 or shape[0] != (channels or shape[0]):
        raise _refused(name, f"{feature} gives {' × '.join(map(str, shape))}, not {channels} maps")
    return inside[0], inside[-1] + 1


def _flat(step: Call) -> bool:
    return step.output is None or step.output.ndim != 4 or step.output.shape[2:] == (1, 1)
