"""How long a training is: real steps are measured on a copy of the network, and as many planned as fit."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch

from svertka import progress
from svertka.data.batches import Stream
from svertka.models.network import Network
from svertka.recipe import Recipe
from svertka.training.trainer import Job, State, train_step

MOST_EPOCHS = 60  # an automatic length gains little beyond this
PROBE_SHARE = 0.02  # of the time there is, for measuring
PROBE_SECONDS = (1.0, 10.0)  # at least, at most
UNMEASURED = 3  # first steps: batches made ahead, caches and memory still cold
SHARE_FOR_TRAINING = 0.95  # of what is left; the rest is for loading, calibration and writing


@dataclass(frozen=True)
class Pace:
    """Seconds, as measured: of a step with its loading, and of a validation image."""

    step: float
    image: float

    def epoch(self, train: Stream, validation: Stream) -> float:
        """Seconds of one epoch: its training steps and its validation."""
        return self.step * len(train) + self.image * len(validation.indices)


def measure(network: Network, recipe: Recipe, train: Stream, validation: Stream, seconds: float) -> Pace:
    """Train a copy for a small share of the `seconds` there are; network and random state stay."""
    least, most = PROBE_SECONDS
    limit = min(max(PROBE_SHARE * seconds, least), most)
    trial = copy.deepcopy(network).train()
    job = Job(recipe, 0, len(train), train, validation)
    state = State.fresh(trial, job)
    times: list[float] = []
    with torch.random.fork_rng():
        began = last = time.monotonic()
        for batch in train.epoch(0):
            train_step(state, batch, job)
            now = time.monotonic()
            times.append(now - last)
            last = now
            if len(times) > UNMEASURED and now - began > limit:
                break
    steady = times[UNMEASURED:] or times[-1:]
    trial.eval()
    started, num_seen = time.monotonic(), 0
    with torch.inference_mode():
        for batch in validation.epoch(0):
            trial(batch.images)
            num_seen += len(batch)
            if time.monotonic() - started > limit / 4:
                break
    return Pace(sum(steady) / len(steady), (time.monotonic() - started) / num_seen)


def steps_that_fit(
    recipe: Recipe, pace: Pace, seconds_left: float, train: Stream, validation: Stream, tested: int
) -> int:
    """The length of a training: what the recipe says, or what fits the seconds left (at least one).

    Validation after each epoch and at the end, and `tested` images of the test part, are counted in. Where
    the recipe names no minutes either, the length ends at `MOST_EPOCHS`.
    """
    epoch = pace.epoch(train, validation)
    if recipe.schedule.epochs != "auto":
        steps = recipe.schedule.epochs * len(train)
    else:
        at_the_end = pace.image * (2 * len(validation.indices) + tested)
        training = max(0.0, seconds_left * SHARE_FOR_TRAINING - at_the_end)
        steps = max(1, int(training / epoch * len(train)))
        if recipe.budget.minutes == "auto":
            steps = min(steps, MOST_EPOCHS * len(train))
    epochs = steps / len(train)
    named = f"{epochs:.0f}" if steps % len(train) == 0 else f"{epochs:.1f}"
    progress.say(f"{named} epochs of about {epoch:.1f} s: {_duration(epochs * epoch / 60)} of training")
    return steps


def _duration(minutes: float) -> str:
    if minutes < 2:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
