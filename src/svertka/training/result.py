"""The end of a run: the temperature fitted on validation, the metrics measured once on the test part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svertka.data.batches import Stream
from svertka.evaluation.calibration import fit_temperature, probabilities
from svertka.evaluation.metrics import Metrics
from svertka.evaluation.predict import answer
from svertka.runs import checkpoint
from svertka.runs.run import WEIGHTS, Run
from svertka.training.session import Session


def measure(run: Run, made: Session, total_seconds: float) -> None:
    """Write `metrics.json`: with it the run is finished."""
    tensors, facts = checkpoint.load_tensors(run.file(WEIGHTS))
    checkpoint.fill(made.network, tensors, run.file(WEIGHTS))
    validation, labels = _answers(made, made.validation)
    temperature = fit_temperature(validation, labels)
    measured: dict[str, Any] = {"epoch": facts["epoch"], "temperature": temperature, "test": None}
    measured["validation"] = Metrics.of(
        probabilities(validation, temperature), labels, made.dataset.classes
    ).to_dict()
    if made.test is not None:
        test, labels = _answers(made, made.test)
        measured["test"] = Metrics.of(
            probabilities(test, temperature), labels, made.dataset.classes
        ).to_dict()
    training = sum(row["seconds"] for row in run.history)
    seconds = {"data": made.data_seconds, "features": 0.0, "train": training, "total": total_seconds}
    run.write("metrics.json", {**measured, "seconds": seconds})


def summary(run: Run) -> dict[str, Any]:
    """What `train` answers, read from a finished run."""
    metrics, data = run.metrics, run.data
    return {
        "run": str(run.path),
        "model": run.recipe.model.name,
        "classes": data["classes"],
        "images": {part: len(indices) for part, indices in data["parts"].items()},
        "test": metrics["test"],
        "temperature": metrics["temperature"],
        "epochs": len(run.history),
        "best_epoch": metrics["epoch"],
        "origin": data["origin"],
        "seconds": metrics["seconds"],
    }


def _answers(made: Session, batches: Stream) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return answer(made.network, batches, "Measuring"), made.dataset.labels[batches.indices]
