"""A run of one's own as the start of another: pretrain on a larger similar set, then transfer.

Its architecture, input and preprocessing come along with its weights; only what was left open is filled in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svertka.errors import OptionError, RunError
from svertka.models.published import WeightSet
from svertka.runs.run import WEIGHTS, Run


def run_of(weights: str) -> Run | None:
    """The run that these weights name; None if they name something else.

    Raises:
        RunError: the folder is no run, or one that is not finished.
    """
    if not Path(weights).is_dir():
        return None
    run = Run.open(weights)
    if not run.finished:
        raise RunError(
            f"{weights} is not finished; `svertka train DATA --out {weights} --resume` goes on with it."
        )
    return run


def adopt(run: Run, values: dict[str, dict[str, Any]]) -> WeightSet:
    """Fill what is open in the settings with those of the run; its weights as a weight set.

    Raises:
        OptionError: another model, or an option of it, was asked for.
    """
    theirs = run.recipe.model_dump()
    shaped = {"model": ("name", "activation", "norm"), "data": ("channels",)}
    differing = [
        f"{group}.{name} is {theirs[group][name]} there, not {values[group][name]}"
        for group, names in shaped.items()
        for name in names
        if values[group][name] not in ("auto", theirs[group][name])
    ]
    if differing:
        raise OptionError(
            f"the weights of {run.path} fit its own network only: {'; '.join(differing)}. Leave them out."
        )
    for name in ("name", "activation", "norm", "dropout"):
        values["model"][name] = theirs["model"][name]
    for name in ("channels", "size", "store_size", "interpolation"):
        if values["data"][name] == "auto":
            values["data"][name] = theirs["data"][name]
    preprocess = run.preprocess
    return WeightSet(
        values["model"]["weights"],
        theirs["model"]["name"],
        "file",
        str(run.file(WEIGHTS)),
        preprocess.size,
        preprocess.store_size,
        interpolation=preprocess.interpolation,
        fit=preprocess.fit,
    )
