"""The rate finder: the loss while the learning rate rises from far too low to far too high.

A copy of the network trains on the first steps of the real training, each at a higher rate, until the loss is
well above its lowest. Nothing of the run changes: not the network, not the order of the data (a function of
the seed), not the random state; and no value is applied. Source: L. Smith 2017, "Cyclical learning rates for
training neural networks", section 3.3; the smoothing is the bias-corrected running mean of Adam.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.optim import lr_scheduler

from svertka import progress
from svertka.data.batches import Batch, Stream
from svertka.errors import TrainingError
from svertka.models.network import Network
from svertka.recipe import Recipe
from svertka.training.trainer import Job, State, train_step

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 120
SMOOTHING = 0.9  # share kept of the running mean of the loss
ENOUGH = 4.0  # times the lowest smoothed loss: beyond it there is nothing to see
LEAST_STEPS = 10  # to say anything
WINDOW = 10  # steps over which a slope is measured
MARGIN = 3.0  # the highest rate of the range is so many times below that of the lowest loss


@dataclass(frozen=True)
class RateCurve:
    """What was seen: at each rate the loss of one batch (nats), and its running mean.

    Attributes:
        steepest: the rate at which the running mean falls fastest, over a factor of the rate.
        turning: the rate of its lowest value; beyond it training gets worse.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float
    turning: float

    @property
    def range(self) -> tuple[float, float]:
        """Rates worth trying as the peak of a schedule."""
        return self.steepest, max(self.steepest, self.turning / MARGIN)


def find_rate(network: Network, recipe: Recipe, train: Stream, seed: int) -> RateCurve:
    """Measure the curve for the optimizer, regularization and batches of a recipe.

    Raises:
        TrainingError: the loss is not finite from the first steps on.
    """
    job = Job(recipe, seed, STEPS, train, train)
    state = State.fresh(copy.deepcopy(network).train(), job)
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = group["initial_lr"] * LOWEST / recipe.optimizer.learning_rate
    growth = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    state.schedule = lr_scheduler.ExponentialLR(state.optimizer, growth)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    with torch.random.fork_rng(), progress.track("Finding the rate", STEPS) as moved:
        for number, batch in enumerate(_endless(train)):
            before = state.loss_sum
            try:
                train_step(state, batch, job)
            except TrainingError:
                break  # no longer finite: the end of the curve
            losses.append((state.loss_sum - before) / len(batch))
            rates.append(LOWEST * growth**number)
            mean = SMOOTHING * mean + (1 - SMOOTHING) * losses[-1]
            smoothed.append(mean / (1 - SMOOTHING ** len(losses)))
            moved(1, loss=smoothed[-1])
            if len(losses) == STEPS or (number > LEAST_STEPS and smoothed[-1] > ENOUGH * min(smoothed)):
                break
    if len(losses) < LEAST_STEPS:
        raise TrainingError(
            f"the loss is not finite after {len(losses)} steps, at a rate near {LOWEST:g}: look at the "
            "data and at the initialisation (--set model.init=…)."
        )
    turning = smoothed.index(min(smoothed))
    return RateCurve(rates, losses, smoothed, rates[_steepest(smoothed, turning)], rates[turning])


def _steepest(smoothed: list[float], turning: int) -> int:
    """Where the running mean falls most over `WINDOW` steps, among those before its lowest value.

    The first means are those of few batches, whose noise looks like a slope, so they do not count.
    """
    starts = range(WINDOW, max(WINDOW, turning - WINDOW) + 1)
    falls = [smoothed[min(start + WINDOW, turning)] - smoothed[start] for start in starts if start < turning]
    return WINDOW + WINDOW // 2 + falls.index(min(falls)) if falls else turning


def _endless(train: Stream) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from train.epoch(epoch)
        epoch += 1
