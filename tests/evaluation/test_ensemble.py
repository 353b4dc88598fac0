"""Averages of answers against averages by hand; the gain, its interval and its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svertka
from svertka.data.items import from_arrays
from svertka.data.store import open_pixels
from svertka.errors import OptionError
from svertka.evaluation.classifier import Classifier
from svertka.runs.run import Run

SETTINGS = ["data.size=16", "optimizer.batch_size=24", "schedule.name=cyclic", "schedule.cycles=2"]


@pytest.fixture(scope="module")
def bars() -> svertka.Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 150, (120, 16, 16), dtype=np.uint8)
    for number, image in enumerate(images):
        image[:, 5 * (number % 3) : 5 * (number % 3) + 5] += 30
    return from_arrays(images, [["a", "b", "c"][number % 3] for number in range(120)], name="bars")


@pytest.fixture(scope="module")
def runs(bars: svertka.Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for number, more in enumerate(
        (["augment.flip=true", "averaging.snapshots=true"], ["augment.pad_crop=0"])
    ):
        svertka.train(
            bars, model="lenet5", epochs=2, settings=[*SETTINGS, *more, "data.size=32"],
            out=folder / str(number), device="cpu",
        )  # fmt: skip
    return [folder / "0", folder / "1"]


def by_hand(run: Path, bars: svertka.Dataset, weights: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the test images, and their labels."""
    opened = Run.open(run)
    classifier = Classifier.load(opened, weights=weights)
    items = np.array(opened.data["parts"]["test"])
    pixels = open_pixels(bars, classifier.preprocess)
    return np.stack(list(classifier.answers([pixels[i] for i in items]))), bars.labels[items]


def score(answers: list[np.ndarray], labels: np.ndarray) -> float:
    return float((np.mean(answers, axis=0).argmax(1) == labels).mean())


def test_one_answer_has_no_gain(runs: list[Path], bars: svertka.Dataset) -> None:
    assert "gain" not in svertka.evaluate(runs[0], bars, device="cpu")


def test_snapshots_answer_together(runs: list[Path], bars: svertka.Dataset) -> None:
    files = Run.open(runs[0]).snapshots()
    assert [file.name for file in files] == ["1.safetensors", "2.safetensors"]
    answers, labels = zip(*(by_hand(runs[0], bars, file) for file in (None, *files)), strict=True)
    result = svertka.evaluate(runs[0], bars, snapshots=True, device="cpu")
    assert result["accuracy"]["value"] == score(list(answers), labels[0])
    gain = result["gain"]
    assert gain["answers"] == 3
    assert gain["cost"] > 1
    assert gain["value"] == pytest.approx(score(list(answers), labels[0]) - score([answers[0]], labels[0]))
    assert gain["low"] <= gain["value"] <= gain["high"]


def test_the_last_snapshot_is_the_end_of_the_training(runs: list[Path], bars: svertka.Dataset) -> None:
    from svertka.runs.checkpoint import load_tensors

    state, _ = load_tensors(runs[0] / "resume" / "state.safetensors")
    last, facts = load_tensors(Run.open(runs[0]).snapshots()[-1])
    assert facts["step"] == 8
    assert all(np.array_equal(state[f"network.{name}"], tensor) for name, tensor in last.items())


def test_several_runs_over_the_one_best_in_validation(runs: list[Path], bars: svertka.Dataset) -> None:
    answers, labels = zip(*(by_hand(run, bars) for run in runs), strict=True)
    result = svertka.evaluate(runs, bars, device="cpu")
    assert result["accuracy"]["value"] == score(list(answers), labels[0])
    values = [Run.open(run).metrics["validation"]["accuracy"]["value"] for run in runs]
    best = int(np.argmax(values))
    assert result["gain"]["over"] == str(runs[best])
    assert result["gain"]["value"] == pytest.approx(
        score(list(answers), labels[0]) - score([answers[best]], labels[0])
    )


def test_views_are_the_image_and_its_mirror(runs: list[Path], bars: svertka.Dataset) -> None:
    """With flips only, the mean over many views tends to that of the image and its mirror by halves."""
    opened = Run.open(runs[0])
    classifier = Classifier.load(opened)
    items = np.array(opened.data["parts"]["test"])
    pixels = open_pixels(bars, classifier.preprocess)
    straight = np.stack(list(classifier.answers([pixels[i] for i in items])))
    mirrored = np.stack(list(classifier.answers([np.ascontiguousarray(pixels[i][:, ::-1]) for i in items])))
    labels = bars.labels[items]
    result = svertka.evaluate(runs[0], bars, views=60, device="cpu")
    both = (straight + mirrored) / 2
    expected = -np.log(both[np.arange(len(labels)), labels]).mean()
    single = -np.log(straight[np.arange(len(labels)), labels]).mean()
    assert result["log_loss"] == pytest.approx(expected, abs=0.35 * abs(expected - single) + 1e-4)
    assert result["gain"]["answers"] == 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 0}, "at least 1 view, got 0"),
        ({"views": 3}, "3 views: the recipe of .* has no random transforms"),
        ({"snapshots": True}, "has no snapshots; train with --set averaging.snapshots=true"),
    ],
)
def test_what_cannot_be(runs: list[Path], bars: svertka.Dataset, given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        svertka.evaluate(runs[1], bars, device="cpu", **given)
