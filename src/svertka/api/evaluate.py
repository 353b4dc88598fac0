"""The verb `evaluate`: how good a run is, or several runs together, on images they never saw in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svertka import progress
from svertka.data.dataset import PARTS, Dataset
from svertka.data.sources import open_dataset
from svertka.data.store import open_pixels
from svertka.errors import DataError, OptionError
from svertka.evaluation.ensemble import ask, members, views_of
from svertka.evaluation.metrics import Metrics
from svertka.runs.environment import pick_device, prepare_cpu
from svertka.runs.run import Run
from svertka.runs.seen import seen_in_training


def evaluate(
    runs: str | Path | Sequence[str | Path],
    data: str | Path | Dataset,
    *,
    views: int = 1,
    snapshots: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure one run, or the mean of the probabilities of several, on labelled images.

    On the data a run was trained on only its test images count; on other data the declared test part, or
    all. Images that a run has seen (training and validation) are left out and counted, broken ones too.

    Args:
        views: of each image: the evaluation view, and random ones as in training; their answers are averaged.
        snapshots: the weights at the end of each cycle answer too (`averaging.snapshots` of the recipe).

    Returns:
        `runs data images accuracy{value low high n} top5 per_class confusion log_loss ece left_out broken`;
        if more than one answer is averaged also `gain{value low high over answers cost}`: the accuracy gained
        over one view of the run that was best in validation, paired, and how many times the seconds.

    Raises:
        RunError: a run is not finished or damaged.
        DataError: classes the run does not know, or no image is left.
        OptionError: no run, or runs with different classes.
    """
    prepare_cpu()
    opened = [Run.open(path) for path in ([runs] if isinstance(runs, str | Path) else runs)]
    if not opened:
        raise OptionError("expected one run or more to evaluate, got none.")
    device = pick_device(device)
    wanted = members(opened, snapshots, device)
    for run in opened:
        views_of(run, views)
    classes = opened[0].classes
    if any(run.classes != classes for run in opened):
        raise OptionError(
            "the runs have different classes; only runs of the same classes can be evaluated together."
        )
    dataset = data if isinstance(data, Dataset) else open_dataset(data, training=False)
    labels = _labels(dataset, classes)
    indices, left_out = _unseen(opened, dataset)
    stores = [open_pixels(dataset, member.run.preprocess) for member in wanted]
    broken = {index for pixels in stores for index in pixels.broken}
    good = np.array([index for index in indices.tolist() if index not in broken], dtype=np.int64)
    counts = {"images": len(good), "left_out": left_out, "broken": len(indices) - len(good)}
    if not len(good):
        raise DataError(
            f"no image of {dataset.name} is left to evaluate on: {left_out} were seen in training or "
            f"validation, {counts['broken']} are broken."
        )
    answer = ask(wanted, stores, labels, good, views, device)
    metrics = Metrics.of(answer.together, labels[good], classes).to_dict()
    gain = {"gain": answer.gain(labels[good])} if answer.num_answers > 1 else {}
    return {"runs": [str(run.path) for run in opened], "data": dataset.name, **counts, **metrics, **gain}


def _labels(dataset: Dataset, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """The labels of a dataset as indices into the classes of a run."""
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise DataError(
            f"{dataset.name} has classes that the run does not know: {', '.join(unknown[:10])}; "
            f"it knows {', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}."
        )
    table = np.array([classes.index(name) for name in dataset.classes], dtype=np.int64)
    return table[dataset.labels]


def _unseen(runs: Sequence[Run], dataset: Dataset) -> tuple[NDArray[np.int64], int]:
    """The images to measure on, and how many were left out because a run has seen them."""
    facts = [run.data for run in runs]
    if all(fact["fingerprint"] == dataset.fingerprint for fact in facts):
        progress.say("this is the data of the run: only its test images count")
        tests = [np.array(fact["parts"]["test"], dtype=np.int64) for fact in facts]
        candidates = tests[0]
        if not len(candidates):
            raise DataError(
                f"the run kept no images of {dataset.name} for a test (data.test = 0): name data that it has "
                "not seen."
            )
    elif np.any(dataset.declared == PARTS.index("test")):
        candidates = np.flatnonzero(dataset.declared == PARTS.index("test"))
    else:
        candidates = np.arange(len(dataset))
    seen = np.zeros(len(candidates), dtype=bool)
    for fact in facts:
        seen |= seen_in_training(dataset.digests[candidates], fact["seen"])
    return candidates[~seen], int(seen.sum())
