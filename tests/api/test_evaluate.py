"""evaluate: the test images of the run's own data, unseen images of other data, and several runs together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

import svertka
from svertka.errors import DataError, OptionError, RunError

Runs = tuple[Path, Path]
Write = Callable[..., Path]


@pytest.fixture
def others(write_bars: Write, tmp_path: Path) -> Path:
    """Bars that no run has seen."""
    return write_bars(tmp_path / "others", 10, seed=7)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "top5", "per_class", "macro_f1", "confusion", "log_loss", "ece")
    return {name: result[name] for name in names}


def by_hand(run: Path, folder: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Probabilities (n, 3) of all files, from `predict`, with labels and the names of the columns."""
    paths = sorted(folder.rglob("*.png"))
    names = list(svertka.Run.open(run).classes)
    table = np.zeros((len(paths), len(names)))
    for row, item in zip(table, svertka.predict(run, paths, device="cpu")["predictions"], strict=True):
        for answer in item["classes"]:
            row[names.index(answer["name"])] = answer["probability"]
    return table, [path.parent.name for path in paths], names


@pytest.mark.parametrize("number", [0, 1])
def test_own_data_gives_what_train_reported(runs: Runs, bars: Path, number: int) -> None:
    reported = json.loads((runs[number] / "metrics.json").read_text())["test"]
    result = svertka.evaluate(runs[number], bars, device="cpu")
    assert figures(result) == figures(reported)
    assert result["images"] == len(svertka.Run.open(runs[number]).data["parts"]["test"]) == 18
    assert result["left_out"] == result["broken"] == 0


def test_own_data_elsewhere_is_still_own(runs: Runs, bars: Path, tmp_path: Path) -> None:
    shutil.copytree(bars, tmp_path / "moved")
    assert figures(svertka.evaluate(runs[0], tmp_path / "moved")) == figures(svertka.evaluate(runs[0], bars))


def test_other_data_counts_whole(runs: Runs, others: Path) -> None:
    result = svertka.evaluate(runs[1], others, device="cpu")
    probabilities, labels, names = by_hand(runs[1], others)
    answers = [names[index] for index in probabilities.argmax(axis=1)]
    assert result["accuracy"]["value"] == accuracy_score(labels, answers)
    assert result["accuracy"]["n"] == result["images"] == 30
    assert result["confusion"] == confusion_matrix(labels, answers, labels=names).tolist()
    assert result["log_loss"] == pytest.approx(log_loss(labels, probabilities, labels=names), rel=1e-5)
    assert result["left_out"] == 0


def test_images_seen_in_training_are_left_out(runs: Runs, bars: Path, others: Path) -> None:
    """Copies under other names are found by their content; test images of the run are not "seen"."""
    run = svertka.Run.open(runs[0])
    files = sorted(bars.rglob("*.png"))
    parts = run.data["parts"]
    for number, part in ((5, "train"), (3, "validation"), (2, "test")):
        for index in parts[part][:number]:
            shutil.copy(files[index], others / files[index].parent.name / f"{part}{index}.png")
    result = svertka.evaluate(run.path, others)
    assert result["left_out"] == 8
    assert result["images"] == 32
    both = svertka.evaluate(list(runs), others)
    seen = {index for path in runs for part in ("train", "validation")
            for index in svertka.Run.open(path).data["parts"][part]}  # fmt: skip
    copied = {*parts["train"][:5], *parts["validation"][:3], *parts["test"][:2]}
    assert both["left_out"] == len(copied & seen)


def test_only_seen_images_are_refused(runs: Runs, bars: Path, tmp_path: Path) -> None:
    files = sorted(bars.rglob("*.png"))
    for index in svertka.Run.open(runs[0]).data["parts"]["train"][:12]:
        place = tmp_path / "seen" / files[index].parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[index], place)
    with pytest.raises(DataError, match=r"no image of .* is left to evaluate on: 12 were seen in training"):
        svertka.evaluate(runs[0], tmp_path / "seen")


def test_several_runs_are_the_mean_of_probabilities(runs: Runs, others: Path) -> None:
    result = svertka.evaluate(runs, others, device="cpu")
    (first, labels, names), (second, _, _) = (by_hand(run, others) for run in runs)
    mean = (first + second) / 2
    answers = [names[index] for index in mean.argmax(axis=1)]
    assert result["accuracy"]["value"] == accuracy_score(labels, answers)
    assert result["log_loss"] == pytest.approx(log_loss(labels, mean, labels=names), rel=1e-5)
    singles = [svertka.evaluate(run, others, device="cpu")["log_loss"] for run in runs]
    assert result["log_loss"] not in singles
    assert result["log_loss"] < np.mean(singles)  # -ln is convex
    assert result["runs"] == [str(run) for run in runs]


def test_classes_are_matched_by_name(runs: Runs, others: Path, tmp_path: Path) -> None:
    """A manifest in another order of labels, and a folder with some of the classes only."""
    whole = svertka.evaluate(runs[1], others)
    lines = [f"{path},{path.parent.name}" for path in sorted(others.rglob("*.png"), reverse=True)]
    (tmp_path / "table.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    assert svertka.evaluate(runs[1], tmp_path / "table.csv")["confusion"] == whole["confusion"]
    dataset = svertka.open_dataset(others)
    turned = svertka.Dataset(
        "turned", dataset.classes[::-1], 2 - dataset.labels, dataset.images, dataset.root,
        dataset.digests, dataset.groups, dataset.declared,
    )  # fmt: skip
    assert figures(svertka.evaluate(runs[1], turned)) == figures(whole)
    shutil.rmtree(others / "left")
    some = svertka.evaluate(runs[1], others)
    assert some["confusion"] == [[0, 0, 0], *whole["confusion"][1:]]
    assert [row["support"] for row in some["per_class"]] == [0, 10, 10]


def test_unknown_classes_are_refused(runs: Runs, others: Path) -> None:
    (others / "left").rename(others / "top")
    with pytest.raises(DataError, match=r"classes that the run does not know: top; it knows left, middle"):
        svertka.evaluate(runs[0], others)


def test_a_declared_test_part_is_respected(runs: Runs, write_bars: Write, tmp_path: Path) -> None:
    for seed, (part, number) in enumerate((("train", 6), ("test", 4))):
        write_bars(tmp_path / "parts" / part, number, seed=20 + seed)
    result = svertka.evaluate(runs[0], tmp_path / "parts")
    assert result["images"] == 12
    assert figures(result) == figures(svertka.evaluate(runs[0], tmp_path / "parts" / "test"))


def test_broken_images_are_counted(runs: Runs, others: Path) -> None:
    (others / "left" / "00.png").write_bytes(b"no image")
    result = svertka.evaluate(runs, others)
    assert (result["images"], result["broken"], result["left_out"]) == (29, 1, 0)
    for path in others.rglob("*.png"):
        path.write_bytes(path.parent.name.encode() + path.name.encode())
    with pytest.raises(DataError, match=r"is left to evaluate on: 0 were seen .*, 30 are broken"):
        svertka.evaluate(runs[0], others)


def test_runs_that_cannot_answer_together(runs: Runs, bars: Path, write_bars: Write, tmp_path: Path) -> None:
    two = write_bars(tmp_path / "two", 8, seed=9, names=("left", "right"))
    svertka.train(two, model="linear", epochs=1, out=tmp_path / "run", settings=["data.size=16"])
    with pytest.raises(OptionError, match="the runs have different classes"):
        svertka.evaluate([runs[0], tmp_path / "run"], bars)
    with pytest.raises(OptionError, match="one run or more to evaluate, got none"):
        svertka.evaluate([], bars)


@pytest.mark.parametrize("name", ["metrics.json", "data.json", "weights.safetensors", "recipe.toml"])
def test_a_damaged_run_is_named(runs: Runs, bars: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    damaged = tmp_path / "run" / name
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(RunError, match=f"{name} is damaged"):
        svertka.evaluate(tmp_path / "run", bars)


def test_images_of_any_kind_are_seen_as_in_training(runs: Runs, others: Path) -> None:
    """The same pixels as RGB with an alpha channel give the same figures."""
    grey = svertka.evaluate(runs[1], others)
    for path in others.rglob("*.png"):
        Image.open(path).convert("RGBA").save(path)
    assert svertka.evaluate(runs[1], others)["confusion"] == grey["confusion"]
