"""How many epochs fit the time there is: a few real steps are measured, on a copy of the network."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch

from svertka import progress
from svertka.data.batches import Stream
from svertka.models.network import Network
from svertka.recipe import Recipe
from svertka.training.losses import loss
from svertka.training.optimizers import build_optimizer

MOST_EPOCHS = 60  # beyond this an automatic length gains little
PROBE_SECONDS = 1.0
SHARE_FOR_TRAINING = 0.9  # of what is left; the rest is for the final evaluation and for noise


@dataclass(frozen=True)
class Pace:
    """Seconds of one epoch, as measured: its training steps and its validation."""

    training: float
    validation: float

    @property
    def epoch(self) -> float:
        return self.training + self.validation


def measure(network: Network, recipe: Recipe, train: Stream, validation: Stream) -> Pace:
    """Run steps for about a second on a copy; the network and all random state stay as they are."""
    trial = copy.deepcopy(network).train()
    optimizer = build_optimizer(trial, recipe.optimizer)
    times: list[float] = []
    began = time.monotonic()
    with torch.random.fork_rng():
        for batch in train.epoch(0):
            started = time.monotonic()
            value, _ = loss(trial(batch.images), batch.labels)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(time.monotonic() - started)
            if len(times) >= 3 and time.monotonic() - began > PROBE_SECONDS:
                break
    step = sorted(times)[len(times) // 2]
    trial.eval()
    started, num_seen = time.monotonic(), 0
    with torch.inference_mode():
        for batch in validation.epoch(0):
            trial(batch.images)
            num_seen += len(batch)
            if time.monotonic() - started > PROBE_SECONDS / 4:
                break
    per_image = (time.monotonic() - started) / num_seen
    return Pace(step * len(train), per_image * len(validation.indices))


def epochs_that_fit(recipe: Recipe, pace: Pace, seconds_left: float) -> int:
    """The length of the run: what the recipe says, or what fits the seconds left (at least one epoch)."""
    if recipe.schedule.epochs != "auto":
        epochs = recipe.schedule.epochs
    else:
        epochs = max(1, min(MOST_EPOCHS, int(seconds_left * SHARE_FOR_TRAINING / max(pace.epoch, 1e-6))))
    minutes = epochs * pace.epoch / 60
    progress.say(f"{epochs} epochs of about {pace.epoch:.1f} s: {_duration(minutes)} of training")
    return epochs


def _duration(minutes: float) -> str:
    return (
        f"{minutes * 60:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )
