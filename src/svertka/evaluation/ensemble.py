"""Many answers to one: runs, snapshots of a run, views of an image, their probabilities averaged.

What this brings is measured against one answer: the evaluation view of the run that was best on its own
validation images, so that the choice looks at no image that is measured on here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svertka.augmentation import Augment
from svertka.data.batches import Batches
from svertka.data.store import Pixels
from svertka.errors import OptionError
from svertka.evaluation.calibration import probabilities
from svertka.evaluation.classifier import Classifier
from svertka.evaluation.compare import paired_gain
from svertka.evaluation.predict import answer
from svertka.runs.environment import threads_for
from svertka.runs.run import Run

BEST = "best"
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One set of weights with what it needs to answer."""

    run: Run
    name: str  # of the weights: `best`, or `snapshot 2`
    classifier: Classifier


def members(runs: Sequence[Run], snapshots: bool, device: str) -> list[Member]:
    """The best weights of each run, then its snapshots if they are wanted.

    Raises:
        RunError: a run that is not finished or damaged.
        OptionError: a run without snapshots.
    """
    found: list[Member] = []
    for run in runs:
        found.append(Member(run, BEST, Classifier.load(run, device)))
        kept = run.snapshots() if snapshots else []
        if snapshots and not kept:
            raise OptionError(
                f"{run.path} has no snapshots; train with --set averaging.snapshots=true and the schedule "
                "cosine_restarts or cyclic."
            )
        for number, file in enumerate(kept, 1):
            found.append(Member(run, f"snapshot {number}", Classifier.load(run, device, file)))
    return found


def views_of(run: Run, count: int) -> list[Augment | None]:
    """The evaluation view, and `count` - 1 random ones as in the training of the run.

    Raises:
        OptionError: less than one view, or the recipe has no random transforms.
    """
    if count < 1:
        raise OptionError(f"an image has at least 1 view, got {count}.")
    if count > 1 and not run.recipe.augment.transforms():
        raise OptionError(
            f"{count} views: the recipe of {run.path} has no random transforms, so all would be the same; "
            "leave --views out."
        )
    return [None, *[run.recipe.augment.of_one_image()] * (count - 1)]


@dataclass(frozen=True)
class Answer:
    """What all members say of all views, the answer of the single one, and the seconds of both."""

    together: Probabilities
    single: Probabilities
    over: str
    num_answers: int
    seconds: float
    single_seconds: float

    def gain(self, labels: NDArray[np.int64]) -> dict[str, Any]:
        """Accuracy gained with its paired 95 % interval, over what, and at how many times the cost."""
        value, low, high = paired_gain(self.single, self.together, labels)
        return {
            "value": value,
            "low": low,
            "high": high,
            "over": self.over,
            "answers": self.num_answers,
            "cost": self.seconds / self.single_seconds,
        }


def ask(
    wanted: Sequence[Member],
    stores: Sequence[Pixels],
    labels: NDArray[np.int64],
    indices: NDArray[np.int64],
    views: int,
    device: str,
) -> Answer:
    """Ask every member about every view of the images `indices` of their stores."""
    runs = [member.run for member in wanted]
    best = max(runs, key=lambda run: float(run.metrics["validation"]["accuracy"]["value"]))
    answers: list[Probabilities] = []
    single, over, spent, single_spent = None, "", 0.0, 0.0
    for member, pixels in zip(wanted, stores, strict=True):
        classifier = member.classifier
        size = member.run.recipe.optimizer.batch_size  # as at the end of training, so that the bits agree
        with threads_for(classifier.network):
            engine = classifier.engine(views * len(indices))
            for number, augment in enumerate(views_of(member.run, views)):
                batches = Batches(
                    pixels, labels, indices, classifier.preprocess,
                    batch_size=size, seed=number, augment=augment, device=device,
                )  # fmt: skip
                began = time.monotonic()
                logits = answer(engine, batches, "Evaluating")
                seconds = time.monotonic() - began
                answers.append(probabilities(logits, classifier.temperature))
                spent += seconds
                if number == 0 and single is None and member.run is best and member.name == BEST:
                    single, over, single_spent = answers[-1], str(member.run.path), seconds
    assert single is not None
    return Answer(np.mean(answers, axis=0), single, over, len(answers), spent, single_spent)
