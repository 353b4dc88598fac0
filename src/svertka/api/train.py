"""The verb `train`: a folder of images in, a run directory with a measured classifier out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from svertka import progress
from svertka.data.dataset import Dataset
from svertka.data.sources import open_dataset
from svertka.data.survey import survey
from svertka.errors import OptionError, RunError
from svertka.recipe import Recipe
from svertka.runs.environment import pick_device, prepare_cpu, threads_for
from svertka.runs.run import Run, next_free
from svertka.training import choices, logs, result, scratch, session, stopping
from svertka.transfer import ladder


def train(
    data: str | Path | Dataset,
    *,
    recipe: Recipe | str | Path | None = None,
    model: str | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    settings: Iterable[str] = (),
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train a classifier, measure it on images it never saw, and leave all of it in a run directory.

    Args:
        data: a folder of class folders, a CSV or Parquet manifest, a built-in name such as `digits`, or a
            `Dataset`.
        recipe: a `Recipe`, or the path of one in TOML; what it leaves at `auto` is decided from the data.
        model, weights, epochs, minutes: short for the settings `model.name`, `model.weights`,
            `schedule.epochs` and `budget.minutes`.
        settings: further settings as `"group.field=value"`.
        seed: one number from which everything random follows.
        out: the run directory; by default the next free `runs/NAME-N`.
        resume: go on with the run at `out` (a finished one gives its result again).
        device: `auto`, `cpu`, `cuda` or `mps`.
        tensorboard: also write TensorBoard logs into the run directory.

    Returns:
        `run model classes images{train validation test} test{accuracy{value low high n} …}
        seconds{data features train total}`.

    Raises:
        UsageError: the data, an option or the run cannot be used as they are.
        TrainingError: the loss is no longer finite, or memory ran out.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    began = time.monotonic()
    prepare_cpu()
    wanted = requested(recipe, model, weights, epochs, minutes, settings)
    run = _place(data, out, resume)
    going_on = resume and run.started
    if going_on:
        _agrees(run, wanted, seed)
        wanted, seed = run.recipe, run.plan["seed"]
        if run.finished:
            progress.say(f"{run.path} is finished; this is its result")
            return result.summary(run)
    try:
        made = prepared(data, wanted, seed, device)
        with threads_for(made.network):
            return _train(run, made, going_on, tensorboard, began)
    except BaseException:
        run.discard()
        raise


def prepared(data: str | Path | Dataset, wanted: Recipe, seed: int, device: str) -> session.Session:
    """Open the data, decide and say what is open in the recipe, and make all that a training needs."""
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    chosen, reasons = choices.decide(wanted, survey(dataset))
    for sentence in [*dataset.notes, *reasons]:
        progress.say(sentence)
    return session.prepare(dataset, chosen, seed, pick_device(device))


def _train(
    run: Run, made: session.Session, going_on: bool, tensorboard: bool, began: float
) -> dict[str, Any]:
    """Plan or verify, carry out, measure."""
    way = scratch if made.recipe.model.weights == "none" else ladder
    if going_on:
        plan = session.verify(run, made)
    else:
        plan = way.plan(made, made.recipe.budget.seconds - (time.monotonic() - began))
        session.begin(run, made, plan)
    with stopping.watch() as stopped, logs.tensorboard(run if tensorboard else None) as log:
        trained = way.carry_out(run, made, plan, log, stopped)
    training = sum(row["seconds"] for row in run.history)
    spent = {"data": made.data_seconds, "features": plan.get("features_seconds", 0.0), "train": training}
    result.measure(run, trained, {**spent, "total": time.monotonic() - began})
    return result.summary(run)


def requested(
    recipe: Recipe | str | Path | None = None,
    model: str | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    settings: Iterable[str] = (),
) -> Recipe:
    """The recipe asked for: a file or value, then the short options, then `group.field=value` settings."""
    base = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe) if recipe else Recipe()
    short = {
        "model.name": model,
        "model.weights": weights,
        "schedule.epochs": epochs,
        "budget.minutes": minutes,
    }
    given = [f"{name}={value}" for name, value in short.items() if value is not None]
    return base.set([*given, *settings])


def _place(data: str | Path | Dataset, out: str | Path | None, resume: bool) -> Run:
    if out is None:
        if resume:
            raise OptionError("--resume needs --out: the run directory to go on with.")
        name = data.name if isinstance(data, Dataset) else str(data)
        return Run.create(next_free(Path(name).resolve().stem or "run"))
    run = Run(out)
    if resume and run.path.is_dir() and (run.started or not any(run.path.iterdir())):
        return run
    if resume and run.path.is_dir():
        run.clear_unstarted()
    return Run.create(out)


def _agrees(run: Run, wanted: Recipe, seed: int) -> None:
    """Refuse to go on with settings other than the run's (those not given are taken from the run)."""
    kept = run.recipe.model_dump()
    differing = [
        f"{group}.{field} is {kept[group][field]}, not {value}"
        for group, values in wanted.model_dump(exclude_unset=True).items()
        for field, value in values.items()
        if value != "auto" and kept[group][field] != value
    ]
    if seed and seed != run.plan["seed"]:
        differing.append(f"the seed is {run.plan['seed']}, not {seed}")
    if differing:
        raise RunError(
            f"{run.path} was started with other settings: " + "; ".join(differing) + ". "
            "Leave them out to go on with it, or start a new run with another --out."
        )
