"""Choose the fastest engine by measuring all of them on this machine, and remember the choice.

An engine is chosen only if it agrees: on a batch of normal noise the largest difference to eager must be at
most `tolerance` times the largest output. Choices lie in `cache_folder()/engines`, keyed by the machine, the
versions, the shape and the fingerprint of the module (weights and structure), with the ONNX graph, so that
another process neither measures nor exports. A damaged entry is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svertka.data.cache import open_entry
from svertka.engine import kinds
from svertka.engine.fold import folded_layers
from svertka.engine.kinds import Engine, device_of, engine, refuse_training
from svertka.engine.onnx import build
from svertka.engine.trace import Trace, trace
from svertka.errors import ModelError
from svertka.files import write_atomically, write_json

FORMAT = 1
TOLERANCE = 1e-4
"""Of the largest output in the batch: about a hundred times what rounding in another order changes."""
SECONDS = 1.2
"""Of measuring, after one run of each engine that warms it up and checks it."""
RUN_SECONDS = 0.1
"""What one timed batch should take; long enough for the clock, short enough for several rounds."""


def fastest(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    batch_size: int,
    tolerance: float = TOLERANCE,
    remember: bool = True,
) -> Engine:
    """The fastest engine that agrees with the module, for so many inputs of `shape` (c, h, w) at a time.

    Takes a second or two; next to nothing when the choice is remembered. On CUDA and MPS, and for a module
    that does nothing or cannot be traced, it is `eager`, without measuring.

    Raises:
        ModelError: the module is in training mode.
        StoreError: the choice cannot be written (full disk).
    """
    refuse_training(module)
    eager = engine(module, "eager", shape)
    if device_of(module).type != "cpu":
        return eager
    try:
        traced = trace(module, shape)
    except ModelError as error:
        return replace(eager, refused=dict.fromkeys(kinds.NAMES[1:], str(error)))
    if not traced.calls:
        return eager
    made: list[Engine] = []

    def measure(folder: Path | None) -> None:
        made.append(_measure(module, traced, batch_size, tolerance, folder))

    if not remember:
        measure(None)
        return made[0]
    key = _key(fingerprint(module, traced), shape, batch_size, tolerance)
    folder, in_use, _ = open_entry(
        "engines", key, valid=lambda found: _read(found) is not None, build=measure
    )
    try:
        return made[0] if made else _remembered(module, traced, folder)
    finally:
        in_use.close()


def fingerprint(module: nn.Module, traced: Trace) -> str:
    """32 hex digits for what a module computes: its calls, and all weights that they use."""
    digest = hashlib.sha256(repr(traced).encode())
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in sorted(
        {value.name for call in traced.calls for value in call.values() if value.name in state}
    ):
        digest.update(state[name].detach().cpu().contiguous().numpy().data.cast("B"))
    return digest.hexdigest()[:32]


def disagreement(outputs: Tensor, reference: Tensor) -> float:
    """Largest difference, as a share of the largest reference; infinite for another shape or no number."""
    if outputs.shape != reference.shape or not bool(torch.isfinite(outputs).all()):
        return float("inf")
    largest = float(reference.abs().max())
    difference = float((outputs - reference).abs().max())
    return difference / largest if largest else difference


def _measure(
    module: nn.Module, traced: Trace, batch_size: int, tolerance: float, folder: Path | None
) -> Engine:
    """Measure all engines; write the choice into `folder`, if there is one."""
    shape = traced.input.shape[1:]
    eager = engine(module, "eager", shape)
    images = _noise(1, shape)
    eager(images)
    images = _noise(max(1, min(batch_size, int(RUN_SECONDS / _seconds(eager, images)))), shape)
    reference = eager(images)
    layers = folded_layers(module, traced)
    graph, names = b"", list[str]()

    def onnxruntime() -> Engine:
        nonlocal graph, names
        model, names = build(module, traced, layers)
        graph = model.SerializeToString()
        return kinds.onnxruntime(module, shape, layers, graph, names)

    makers: dict[str, Callable[[], Engine]] = {
        "channels_last": lambda: engine(module, "channels_last", shape),
        "onnxruntime": onnxruntime,
    }
    engines, refused = {"eager": eager}, dict[str, str]()
    for name, make in makers.items():
        try:
            candidate = make()
        except ModelError as error:
            refused[name] = str(error)
            continue
        share = disagreement(candidate(images), reference)
        if share <= tolerance:
            engines[name] = candidate
        else:
            refused[name] = (
                f"differs from eager by {share:.1e} of the largest output; {tolerance:.1e} is allowed."
            )
    best = _race(engines, images)
    speeds = {name: len(images) / seconds for name, seconds in best.items()}
    chosen = max(speeds, key=speeds.__getitem__)
    if folder is not None:
        _write(folder, chosen, speeds, refused, names, graph)
    return replace(engines[chosen], images_per_second=speeds, refused=refused)


def _race(engines: dict[str, Engine], images: Tensor) -> dict[str, float]:
    """Seconds of each engine's best run; they take turns, so that a busy moment hits all alike."""
    best = dict.fromkeys(engines, float("inf"))
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name, candidate in engines.items():
            best[name] = min(best[name], _seconds(candidate, images))
    return best


def _noise(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def _seconds(candidate: Engine, images: Tensor) -> float:
    began = time.perf_counter()
    candidate(images)
    return time.perf_counter() - began


def _key(module: str, shape: tuple[int, ...], batch_size: int, tolerance: float) -> str:
    machine = [platform.node(), platform.machine(), torch.backends.cpu.get_cpu_capability(), os.cpu_count()]
    versions = [version(name) for name in ("svertka", "torch", "onnxruntime")]
    facts = [FORMAT, module, shape, batch_size, tolerance, machine, torch.get_num_threads(), versions]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _write(
    folder: Path,
    chosen: str,
    speeds: dict[str, float],
    refused: dict[str, str],
    names: list[str],
    graph: bytes,
) -> None:
    facts = {"name": chosen, "images_per_second": speeds, "refused": refused}
    if chosen == "onnxruntime":
        write_atomically(folder / "graph.onnx", lambda part: part.write_bytes(graph))
        facts |= {"weights": names, "sha256": hashlib.sha256(graph).hexdigest()}
    facts["check"] = _check(facts)
    write_json(folder / "choice.json", facts)


def _read(folder: Path) -> dict[str, Any] | None:
    """The facts of an entry, with its graph; None if anything in it is not as it was written."""
    try:
        facts: dict[str, Any] = json.loads((folder / "choice.json").read_text(encoding="utf-8"))
        if facts.pop("check") != _check(facts):
            return None
        if "sha256" in facts:
            facts["graph"] = (folder / "graph.onnx").read_bytes()
            if hashlib.sha256(facts["graph"]).hexdigest() != facts["sha256"]:
                return None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return facts


def _check(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _remembered(module: nn.Module, traced: Trace, folder: Path) -> Engine:
    facts, shape = _read(folder), traced.input.shape[1:]
    assert facts is not None  # it was found valid a moment ago, and is marked as in use
    if facts["name"] == "onnxruntime":
        layers = folded_layers(module, traced)
        made = kinds.onnxruntime(module, shape, layers, facts["graph"], facts["weights"])
    else:
        made = engine(module, facts["name"], shape)
    return replace(
        made, images_per_second=facts["images_per_second"], refused=facts["refused"], remembered=True
    )
