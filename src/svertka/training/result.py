"""The end of a run: the temperature fitted on validation, the metrics measured once on the test part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from svertka.data.batches import Stream
from svertka.evaluation.calibration import fit_temperature, probabilities
from svertka.evaluation.metrics import Metrics
from svertka.evaluation.predict import answer
from svertka.runs.run import Run


@dataclass(frozen=True)
class Trained:
    """A network (or tail) with the weights that answer, and what to measure it on."""

    network: nn.Module
    epoch: int
    validation: Stream
    test: Stream | None
    classes: tuple[str, ...]


def measure(run: Run, trained: Trained, seconds: dict[str, float]) -> None:
    """Write `metrics.json`: with it the run is finished."""
    logits, labels = _answers(trained.network, trained.validation)
    temperature = fit_temperature(logits, labels)
    measured: dict[str, Any] = {"epoch": trained.epoch, "temperature": temperature, "test": None}
    measured["validation"] = _metrics(logits, labels, temperature, trained.classes)
    if trained.test is not None:
        measured["test"] = _metrics(*_answers(trained.network, trained.test), temperature, trained.classes)
    run.write("metrics.json", {**measured, "seconds": seconds})


def summary(run: Run) -> dict[str, Any]:
    """What `train` answers, read from a finished run."""
    metrics, data, history = run.metrics, run.data, run.history
    return {
        "run": str(run.path),
        "model": run.recipe.model.name,
        "weights": run.recipe.model.weights,
        "classes": data["classes"],
        "images": {part: len(indices) for part, indices in data["parts"].items()},
        "test": metrics["test"],
        "temperature": metrics["temperature"],
        "epochs": len(history),
        "best_epoch": metrics["epoch"],
        "origin": data["origin"],
        "seconds": metrics["seconds"],
    }


def _answers(network: nn.Module, stream: Stream) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return answer(network, stream, "Measuring"), stream.labels[stream.indices]


def _metrics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, classes: tuple[str, ...]
) -> dict[str, Any]:
    return Metrics.of(probabilities(logits, temperature), labels, classes).to_dict()
