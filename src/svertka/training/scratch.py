"""From scratch: the whole network learns from pixels, for as long as was planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from svertka.runs import checkpoint
from svertka.runs.run import WEIGHTS, Run
from svertka.training.budget import epochs_that_fit, measure
from svertka.training.result import Trained
from svertka.training.session import Session
from svertka.training.trainer import Job, train


def plan(made: Session, seconds_left: float) -> dict[str, Any]:
    """Measure the pace and decide how many epochs fit: `engine epochs epoch_seconds`."""
    began = time.monotonic()
    pace = measure(made.network, made.recipe, made.train, made.validation)
    epochs = epochs_that_fit(made.recipe, pace, seconds_left - (time.monotonic() - began))
    return {"engine": "eager", "epochs": epochs, "epoch_seconds": round(pace.epoch, 4)}


def carry_out(
    run: Run,
    made: Session,
    planned: Mapping[str, Any],
    log: Callable[[dict[str, Any]], None],
    stopped: Callable[[], bool],
) -> Trained:
    """Train to the end of the plan, from where an earlier process stopped; loads the weights that answer."""
    job = Job(made.recipe, made.seed, planned["epochs"], made.train, made.validation, log, stopped)
    train(made.network, job, run)
    tensors, facts = checkpoint.load_tensors(run.file(WEIGHTS))
    checkpoint.fill(made.network, tensors, run.file(WEIGHTS))
    return Trained(made.network, facts["epoch"], made.validation, made.test, made.dataset.classes)
