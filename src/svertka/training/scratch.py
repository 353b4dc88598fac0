"""From scratch: the whole network learns from pixels, for as long as was planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from svertka.runs import checkpoint
from svertka.runs.run import WEIGHTS, Run
from svertka.training.budget import measure, steps_that_fit
from svertka.training.result import Trained
from svertka.training.session import Session
from svertka.training.trainer import Job, train


def plan(made: Session, seconds_left: float) -> dict[str, Any]:
    """Measure the pace and decide how many steps fit: `engine steps epochs epoch_seconds`."""
    began = time.monotonic()
    train, validation = made.train, made.validation
    pace = measure(made.network, made.recipe, train, validation, seconds_left)
    left = seconds_left - (time.monotonic() - began)
    steps = steps_that_fit(made.recipe, pace, left, train, validation, len(made.splits.test))
    return {
        "engine": "eager",
        "steps": steps,
        "epochs": -(-steps // len(train)),
        "epoch_seconds": round(pace.epoch(train, validation), 4),
    }


def carry_out(
    run: Run,
    made: Session,
    planned: Mapping[str, Any],
    log: Callable[[dict[str, Any]], None],
    stopped: Callable[[], bool],
) -> Trained:
    """Train to the end of the plan, from where an earlier process stopped; loads the weights that answer."""
    job = Job(made.recipe, made.seed, planned["steps"], made.train, made.validation, log, stopped)
    train(made.network, job, run)
    tensors, facts = checkpoint.load_tensors(run.file(WEIGHTS))
    checkpoint.fill(made.network, tensors, run.file(WEIGHTS))
    return Trained(made.network, facts["epoch"], made.validation, made.test, made.dataset.classes)
