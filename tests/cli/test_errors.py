"""A user's mistakes: a clear message, no traceback, exit code 2, and no run left behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


def images(folder: Path, number: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, *folder.name.encode()])
    for index in range(number):
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / f"{index}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        images(tmp_path / "data" / name, 8)
    return tmp_path / "data"


def refused(answer, message: str) -> None:
    assert answer.code == 2, answer.err
    assert re.search(message, answer.err, re.DOTALL), answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""


def test_no_such_data(svertka_command, tmp_path: Path) -> None:
    refused(svertka_command("train", tmp_path / "nowhere", "--out", tmp_path / "run"), "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_almost_built_in(svertka_command, tmp_path: Path) -> None:
    refused(svertka_command("train", "digit", "--out", tmp_path / "run"), "Did you mean 'digits'")


def test_a_typo_in_a_setting(svertka_command, data: Path, tmp_path: Path) -> None:
    answer = svertka_command("train", data, "--set", "optimzer.learning_rate=1", "--out", tmp_path / "run")
    refused(answer, "'optimzer'.*did you mean 'optimizer'")


def test_an_empty_class(svertka_command, data: Path, tmp_path: Path) -> None:
    (data / "bird").mkdir()
    refused(svertka_command("train", data, "--out", tmp_path / "run"), "bird")


def test_one_class_only(svertka_command, tmp_path: Path) -> None:
    images(tmp_path / "data" / "cat", 8)
    refused(svertka_command("train", tmp_path / "data", "--out", tmp_path / "run"), "only one, 'cat'")


def test_a_manifest_without_the_column(svertka_command, data: Path, tmp_path: Path) -> None:
    manifest = data / "table.csv"
    manifest.write_text("path,klass\ncat/0.png,cat\n")
    refused(svertka_command("train", manifest, "--out", tmp_path / "run"), "label.*klass")


def test_a_label_seen_only_in_test(svertka_command, tmp_path: Path) -> None:
    for part, names in (("train", ("cat", "dog")), ("test", ("cat", "bird"))):
        for name in names:
            images(tmp_path / "data" / part / name, 6, seed=len(part))
    refused(svertka_command("train", tmp_path / "data", "--out", tmp_path / "run"), "only in test: 'bird'")


def test_an_unknown_model(svertka_command, data: Path, tmp_path: Path) -> None:
    refused(
        svertka_command("train", data, "--model", "resnet19", "--out", tmp_path / "run"),
        "did you mean 'resnet18'",
    )


def test_an_out_that_exists(svertka_command, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    refused(
        svertka_command("train", data, "--out", tmp_path / "run"),
        "exists. Name another --out, or add --resume",
    )
    refused(
        svertka_command("train", data, "--out", tmp_path / "run", "--resume"), "not a run: it holds mine.txt"
    )
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"


def test_an_unknown_option_names_the_nearest(svertka_command, data: Path) -> None:
    refused(svertka_command("train", data, "--epoch", "3"), "--epochs")


def test_a_run_that_is_none(svertka_command, tmp_path: Path) -> None:
    refused(svertka_command("predict", tmp_path / "nowhere", "x.png"), "no run at")
    refused(svertka_command("evaluate", tmp_path, "digits"), "not a run: it has no recipe.toml")
    refused(svertka_command("evaluate", tmp_path), "expected RUN… DATA")


def test_too_many_broken_images(svertka_command, data: Path, tmp_path: Path) -> None:
    for index in range(4):
        (data / "cat" / f"{index}.png").write_bytes(b"no image")
    refused(svertka_command("train", data, "--out", tmp_path / "run"), "4 images of 16.*0.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "3", "--minutes", "2"], "both say how long to train; give one of them"),
        (["--epochs", "0"], "schedule.epochs.*greater than or equal to 1.*got 0"),
        (["--minutes", "-1"], "budget.minutes.*greater than 0.*got -1"),
        (["--device", "gpu"], "no device 'gpu'; (did you mean|choose from auto, cpu)"),
        (["--set", "data.validation=0"], "data.validation.*greater than 0"),
        (["--model", "linear", "--set", "augment.pad_crop=40"], "pad_crop reflects at most .*, got 40"),
        (["--set", "optimizer.learning_rate"], "expected GROUP.FIELD=VALUE, got 'optimizer.learning_rate'"),
        (["--recipe", "nowhere.toml"], r"no recipe file nowhere\.toml"),
        (["--set", "model.activation=rleu"], "did you mean 'relu'"),
        (["--model", "resnet18", "--set", "model.init=xavier_unform"], "did you mean 'xavier_uniform'"),
        (["--model", "lenet5", "--set", "data.size=8"], "lenet5.*smallest|at least"),
        (["--resume"], "--resume needs --out"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(
    svertka_command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(svertka_command("train", data, *options), message)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(svertka_command, data: Path, tmp_path: Path) -> None:
    answer = svertka_command("train", data, "--device", "cuda", "--out", tmp_path / "run")
    refused(answer, "has no cuda; use --device cpu or auto")
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_with_several_mistakes(svertka_command, data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[optimizer]\nclipp = 1\n[schedule]\nepochs = -2\n")
    answer = svertka_command("train", data, "--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "run")
    refused(answer, "recipe.toml cannot be used.*clipp.*did you mean 'clip'.*schedule.epochs")


def test_options_that_were_given_twice_over(svertka_command, data: Path, tmp_path: Path) -> None:
    """A short option and the setting it is short for: the one written as `--set` is the later one."""
    out = tmp_path / "run"
    more = ("--set", "schedule.epochs=1", "--set", "data.size=12", "--model", "linear", "--json")
    assert svertka_command("train", data, "--epochs", "3", "--out", out, *more).code == 0
    assert len((out / "history.jsonl").read_text().splitlines()) == 1


def test_a_place_that_cannot_be(svertka_command, data: Path, tmp_path: Path) -> None:
    """A file stands where the folder of the run should be."""
    (tmp_path / "file").write_text("")
    answer = svertka_command("train", data, "--out", tmp_path / "file" / "run")
    assert answer.code == 1
    assert re.search("file.run cannot be written .*choose another place with --out", answer.err)
    refused(svertka_command("train", data, "--out", tmp_path / "file"), "exists. Name another --out")
