"""predict: softmax(logits / T) of the weights in the run, for files and folders, broken ones reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

import svertka
from svertka.errors import DataError, RunError
from svertka.models import catalog

Runs = tuple[Path, Path]


@pytest.fixture
def images(write_bars: Callable[..., Path], tmp_path: Path) -> Path:
    return write_bars(tmp_path / "images", 3, seed=5)


def named(item: dict[str, Any], classes: list[str]) -> list[float]:
    probabilities = {answer["name"]: answer["probability"] for answer in item["classes"]}
    return [probabilities[name] for name in classes]


def test_probabilities_of_the_linear_run_by_hand(runs: Runs, images: Path) -> None:
    """From the files of the run alone: (x / 255 − mean) / std, W x + b, divided by T, softmax."""
    tensors = load_file(runs[0] / "weights.safetensors").values()
    weight, bias = sorted((value.double() for value in tensors), key=lambda value: -value.ndim)
    temperature = json.loads((runs[0] / "metrics.json").read_text())["temperature"]
    classes = json.loads((runs[0] / "data.json").read_text())["classes"]
    statistics = json.loads((runs[0] / "preprocess.json").read_text())["statistics"]
    mean, std = (np.ravel(statistics[name]) for name in ("mean", "std"))
    for item in svertka.predict(runs[0], images, device="cpu")["predictions"]:
        pixels = torch.from_numpy(np.array(Image.open(item["path"]))).double().flatten()
        logits = weight @ ((pixels / 255 - mean.item()) / std.item()) + bias
        wanted = torch.softmax(logits / temperature, dim=0)
        np.testing.assert_allclose(named(item, classes), wanted.numpy(), rtol=1e-5)


def test_probabilities_of_a_network_by_hand(runs: Runs, images: Path) -> None:
    run = svertka.Run.open(runs[1])
    network = catalog.build("resnet20", classes=3, in_channels=1, size=16)
    network.load_state_dict(load_file(runs[1] / "weights.safetensors"))
    network.eval()
    for item in svertka.predict(runs[1], images, device="cpu")["predictions"]:
        inputs = torch.from_numpy(run.preprocess(np.asarray(Image.open(item["path"]))))[None]
        with torch.no_grad():
            wanted = F.softmax(network(inputs)[0] / run.metrics["temperature"], dim=0)
        np.testing.assert_allclose(named(item, list(run.classes)), wanted.numpy(), rtol=1e-4, atol=1e-7)


def test_most_probable_first(runs: Runs, images: Path) -> None:
    for item in svertka.predict(runs[1], images)["predictions"]:
        found = [answer["probability"] for answer in item["classes"]]
        assert found == sorted(found, reverse=True)
        assert sum(found) == pytest.approx(1)
        assert item["error"] is None


def test_five_classes_at_most(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (70, 8, 8), dtype=np.uint8)
    classifier = svertka.ImageClassifier("linear", epochs=1).fit(images, np.arange(70) % 7)
    classifier.save(tmp_path / "run")
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    (item,) = svertka.predict(tmp_path / "run", tmp_path / "image.png")["predictions"]
    five = np.sort(classifier.predict_proba(images[:1])[0])[::-1][:5]
    assert [answer["probability"] for answer in item["classes"]] == five.tolist()


def test_files_and_folders_in_their_order(runs: Runs, images: Path) -> None:
    """Folders are walked by name, without hidden files and without what is no image."""
    (images / "left" / "notes.txt").write_text("no image")
    shutil.copy(images / "left" / "00.png", images / ".hidden.png")
    (images / ".thumbnails").mkdir()
    shutil.copy(images / "left" / "00.png", images / ".thumbnails" / "00.png")
    first = images / "right" / "02.png"
    found = svertka.predict(runs[0], [first, str(images)])["predictions"]
    inside = [images / name / f"0{index}.png" for name in ("left", "middle", "right") for index in range(3)]
    assert [item["path"] for item in found] == [str(path) for path in (first, *inside)]
    assert found[0] == found[-1]
    for one in (first, str(first)):
        assert [item["path"] for item in svertka.predict(runs[0], one)["predictions"]] == [str(first)]


def test_a_broken_image_is_reported_among_good_ones(runs: Runs, images: Path, svertka_command: Any) -> None:
    usual = svertka.predict(runs[1], images)["predictions"]
    broken = images / "middle" / "01.png"
    broken.write_bytes(broken.read_bytes()[:60])
    found = svertka.predict(runs[1], images)["predictions"]
    assert [bool(item["error"]) for item in found] == [item["path"] == str(broken) for item in usual]
    assert found[4]["classes"] == []
    assert "01.png" in found[4]["error"]
    for ours, theirs in zip(found, usual, strict=True):
        assert ours["error"] or [a["name"] for a in ours["classes"]] == [a["name"] for a in theirs["classes"]]
    answer = svertka_command("predict", runs[1], images)
    assert answer.code == 1
    assert len(answer.out.splitlines()) == 9
    assert "01.png" in answer.out.splitlines()[4]
    assert "Traceback" not in answer.err
    answer = svertka_command("predict", runs[1], images, "--json")
    assert answer.code == 1
    assert json.loads(answer.out)["predictions"][4]["error"]
    assert svertka_command("predict", runs[1], images / "left").code == 0


def test_paths_without_images_are_all_named(runs: Runs, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"no image at .*nowhere\.png, .*empty \(a folder without image files\)"
    ):
        svertka.predict(runs[0], [tmp_path / "nowhere.png", images, tmp_path / "empty"])


def test_a_run_that_is_not_there_or_not_finished(runs: Runs, images: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run at .*nowhere: expected the directory"):
        svertka.predict(tmp_path / "nowhere", images)
    with pytest.raises(RunError, match=r"is not a run: it has no recipe\.toml"):
        svertka.predict(images, images)
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"is not finished; go on with `svertka train … --out .*run --resume`"):
        svertka.predict(tmp_path / "run", images)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.safetensors", None),
        ("weights.safetensors", b""),
        ("metrics.json", None),
        ("metrics.json", b"[]"),
        ("metrics.json", b'{"temperature": -1, "test": null, "validation": {}}'),
        ("metrics.json", b'{"temperature": "warm", "test": null, "validation": {}}'),
        ("preprocess.json", None),
        ("preprocess.json", b"{}"),
        ("data.json", b"{}"),
        ("recipe.toml", b"\xff\xfe"),
        ("recipe.toml", b"[model]\nname = 3\n"),
    ],
)
def test_a_damaged_file_is_named(
    runs: Runs, images: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    """Cut off (None) or replaced."""
    shutil.copytree(runs[0], tmp_path / "run")
    damaged = tmp_path / "run" / name
    damaged.write_bytes(damaged.read_bytes()[:-40] if content is None else content)
    with pytest.raises(RunError, match=f"{name} is damaged"):
        svertka.predict(tmp_path / "run", images)


@pytest.mark.parametrize("name", ["weights.safetensors", "preprocess.json", "data.json"])
def test_a_lost_file_is_named(runs: Runs, images: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(RunError, match=name):
        svertka.predict(tmp_path / "run", images)


def test_weights_of_another_model_are_refused(runs: Runs, images: Path, tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    shutil.copy(runs[1] / "weights.safetensors", tmp_path / "run")
    with pytest.raises(RunError, match=r"weights\.safetensors does not fit the model of the run"):
        svertka.predict(tmp_path / "run", images)
