"""Looks ahead: what `train` would do, drawn, without training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svertka import progress
from svertka.api.train import prepared, requested
from svertka.data.dataset import Dataset
from svertka.errors import OptionError
from svertka.recipe import Recipe
from svertka.runs.environment import prepare_cpu, threads_for
from svertka.training import scratch
from svertka.training.pictures import draw_rates, draw_schedule
from svertka.training.rate_finder import find_rate as measure_rates
from svertka.training.schedules import build_schedule
from svertka.transfer import ladder


def refuse_beside(num_looks: int, **training: Any) -> None:
    """Refuse options that do nothing when nothing is trained, and more looks than one.

    Raises:
        OptionError: naming them.
    """
    idle = [f"--{name}" for name, value in training.items() if value]
    if num_looks and idle:
        raise OptionError(
            f"a look ahead trains nothing, so {', '.join(idle)} would do nothing; leave it out."
        )
    if num_looks > 1:
        raise OptionError("one look ahead at a time: give one of --plot-schedule and --find-rate.")


def plot_schedule(
    data: str | Path | Dataset, file: str | Path, *, seed: int = 0, device: str = "auto", **options: Any
) -> dict[str, Any]:
    """Draw the learning rate that `train` with the same options would use at every step, as PNG.

    The length is planned as `train` plans it, by measuring this machine if the epochs are not given. Of
    `plateau`, which follows the validation loss, the rate without any drop is drawn.

    Args:
        options: `recipe model weights epochs minutes settings` of `train`.

    Returns:
        `file steps epochs`, and `parts[{name steps peak last}]`.
    """
    began = time.monotonic()
    prepare_cpu()
    made = prepared(data, requested(**options), seed, device)
    with threads_for(made.network):
        seconds = made.recipe.budget.seconds - (time.monotonic() - began)
        if made.recipe.model.weights == "none":
            lengths = [("training", made.recipe, scratch.plan(made, seconds)["steps"])]
        else:
            lengths = ladder.lengths(made, ladder.plan(made, seconds))
    if made.recipe.schedule.name == "plateau":
        progress.say("plateau drops the rate when the validation loss stands still; that cannot be foreseen")
    per_epoch = len(made.train)
    parts = [(name, rates(recipe, per_epoch, steps)) for name, recipe, steps in lengths]
    draw_schedule(Path(file), parts, per_epoch)
    steps = sum(len(part) for _, part in parts)
    return {
        "file": str(file),
        "steps": steps,
        "epochs": steps / per_epoch,
        "parts": [
            {"name": name, "steps": len(part), "peak": max(part), "last": part[-1]} for name, part in parts
        ],
    }


def rates(recipe: Recipe, steps_per_epoch: int, steps: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.optimizer.learning_rate)
    schedule = build_schedule(optimizer, recipe.schedule, steps_per_epoch, steps)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return found


def find_rate(
    data: str | Path | Dataset, file: str | Path | None = None, *, seed: int = 0, device: str = "auto",
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure the loss while the learning rate rises, and draw it as PNG; nothing is applied.

    All layers train, as from scratch or on the rung `full` of a transfer.

    Args:
        file: where to draw; None: nowhere.
        options: `recipe model weights epochs minutes settings` of `train`.

    Returns:
        `file rates losses smoothed steepest turning range[low high] recipe`, the last the rate in the recipe.

    Raises:
        TrainingError: the loss is not finite from the first steps on.
    """
    prepare_cpu()
    made = prepared(data, requested(**options), seed, device)
    with threads_for(made.network):
        curve = measure_rates(made.network, made.recipe, made.train, seed)
    wanted = made.recipe.optimizer.learning_rate
    if file is not None:
        draw_rates(Path(file), curve, wanted)
    return {
        "file": None if file is None else str(file),
        "rates": curve.rates,
        "losses": curve.losses,
        "smoothed": curve.smoothed,
        "steepest": curve.steepest,
        "turning": curve.turning,
        "range": list(curve.range),
        "recipe": wanted,
    }
