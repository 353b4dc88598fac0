"""Session: all that a training needs, made from (data, recipe, seed), and the facts it leaves in the run.

A fresh run is planned by measuring, then writes its facts (`plan.json` last). A resumed run makes the same
session again and refuses to go on where anything differs from those facts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from svertka import progress
from svertka.data.batches import Batches
from svertka.data.dataset import Dataset
from svertka.data.split import Splits, refuse_too_many_broken, split
from svertka.data.store import Pixels, open_pixels
from svertka.errors import RunError
from svertka.images.preprocess import Normalization, Preprocess
from svertka.images.resize import Interpolation
from svertka.models import weights
from svertka.models.catalog import build
from svertka.models.initialization import WITH_DATA, initialize_with_data
from svertka.models.layers import drop_blocks
from svertka.models.network import Network
from svertka.randomness import generator
from svertka.recipe import Recipe
from svertka.runs.checkpoint import arrange
from svertka.runs.environment import environment, versions
from svertka.runs.run import WEIGHTS, Run
from svertka.runs.seen import digest_prefixes
from svertka.training import own

IMAGES_FOR_INIT = 64
"""Training images that an initialisation which looks at data sees."""


@dataclass(frozen=True)
class Session:
    """A recipe with nothing open, its data as batches, and a freshly initialised network."""

    recipe: Recipe
    seed: int
    device: str
    dataset: Dataset
    splits: Splits
    pixels: Pixels
    preprocess: Preprocess
    network: Network
    train: Batches
    validation: Batches
    test: Batches | None
    data_seconds: float


def prepare(dataset: Dataset, recipe: Recipe, seed: int, device: str) -> Session:
    """Decode, divide, fit the preprocessing, build the network.

    Raises:
        DataError: too many broken images, or parts that cannot be made.
        ModelError: a setting of the model makes no sense for it.
    """
    began = time.monotonic()
    data = recipe.data
    run = own.run_of(recipe.model.weights)
    network = build(
        recipe.model.name,
        classes=len(dataset.classes),
        in_channels=int(data.channels),
        size=int(data.size),
        seed=seed,
        weights=str(run.file(WEIGHTS)) if run else recipe.model.weights,
        **recipe.model.choices(),
    )
    if recipe.regularization.stochastic_depth != "auto":
        drop_blocks(network, recipe.regularization.stochastic_depth)
    blank = _preprocess(recipe)
    pixels = open_pixels(dataset, blank)
    refuse_too_many_broken(len(dataset), pixels.broken)
    splits = split(dataset, validation=data.validation, test=data.test, seed=seed, exclude=pixels.broken)
    for sentence in (*splits.notes, splits.account()):
        progress.say(sentence)
    preprocess = blank
    if data.normalization != "weights":
        preprocess = blank.fitted((pixels[i] for i in splits.train), data.whitening_epsilon)
    if recipe.model.init in WITH_DATA:
        images = [preprocess.normalize(preprocess.fit_image(pixels[i]).transpose(2, 0, 1)) for i in
                  generator(seed, "init", "images").permutation(splits.train)[:IMAGES_FOR_INIT]]  # fmt: skip
        initialize_with_data(network, torch.from_numpy(np.stack(images)), recipe.model.init)

    def batches(part: np.ndarray[Any, np.dtype[np.int64]], training: bool) -> Batches:
        return Batches(
            pixels,
            dataset.labels,
            part,
            preprocess,
            batch_size=recipe.optimizer.batch_size,
            seed=seed,
            augment=recipe.augment if training else None,
            shuffle=training,
            device=device,
        )

    return Session(
        recipe,
        seed,
        device,
        dataset,
        splits,
        pixels,
        preprocess,
        arrange(network.to(device)),
        batches(splits.train, True),
        batches(splits.validation, False),
        batches(splits.test, False) if len(splits.test) else None,
        time.monotonic() - began,
    )


def _preprocess(recipe: Recipe) -> Preprocess:
    """The preprocessing of a recipe: with the statistics of the weights, or none yet."""
    data = recipe.data
    shape: dict[str, Any] = {
        "channels": int(data.channels),
        "fit": data.fit,
        "size": int(data.size),
        "store_size": int(data.store_size),
        "interpolation": cast(Interpolation, data.interpolation),
    }
    if data.normalization == "weights":
        run = own.run_of(recipe.model.weights)
        published = (
            run.preprocess
            if run
            else weights.preprocess(recipe.model.name, recipe.model.weights, channels=shape["channels"])
        )
        return replace(published, **shape)
    return Preprocess(**shape, normalization=cast(Normalization, data.normalization))


def begin(run: Run, session: Session, planned: Mapping[str, Any]) -> None:
    """Write the facts of a fresh run; `planned` is what was measured and decided for it."""
    run.write_recipe(session.recipe)
    run.write("data.json", _data_facts(session))
    run.write("preprocess.json", session.preprocess.to_dict())
    run.write("environment.json", environment())
    run.write("plan.json", {**planned, **_bits_depend_on(session)})


def verify(run: Run, session: Session) -> dict[str, Any]:
    """Check that a started run would go on with the same bits; returns its plan.

    Raises:
        RunError: data, versions, threads or device differ; all differences in one message.
    """
    plan, data = run.plan, run.data
    now: dict[str, Any] = {**_bits_depend_on(session), "data": _data_that_must_stay(session)}
    then = {**plan, "data": {key: data[key] for key in now["data"]}}
    differences = [f"{name} was {_short(then.get(name))}, is {_short(value)}" for name, value in now.items()
                   if then.get(name) != value]  # fmt: skip
    if session.preprocess.to_dict() != run.preprocess.to_dict():
        differences.append("the fitted preprocessing differs")
    if differences:
        raise RunError(
            f"{run.path} cannot be resumed with the same bits: " + "; ".join(differences) + ". "
            "Restore what it was, or start a new run with another --out."
        )
    if run.history:
        progress.say(f"going on after epoch {len(run.history)} of {plan['epochs']}")
    return plan


def _data_that_must_stay(session: Session) -> dict[str, Any]:
    """What of the data must be the same when a run goes on."""
    parts = {name: getattr(session.splits, name).tolist() for name in ("train", "validation", "test")}
    return {
        "fingerprint": session.dataset.fingerprint,
        "classes": list(session.dataset.classes),
        "parts": parts,
    }


def _data_facts(session: Session) -> dict[str, Any]:
    dataset, splits = session.dataset, session.splits
    seen = np.concatenate([splits.train, splits.validation])
    return {
        "name": dataset.name,
        **_data_that_must_stay(session),
        "origin": splits.account(),
        "notes": [*dataset.notes, *splits.notes],
        "seen": sorted(set(digest_prefixes(dataset.digests[seen]))),
    }


def _bits_depend_on(session: Session) -> dict[str, Any]:
    return {
        "seed": session.seed,
        "device": session.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else text[:150] + " …"
