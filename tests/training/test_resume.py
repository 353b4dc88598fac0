"""A run that was killed and resumed ends bit for bit as the one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svertka
from svertka.data.items import from_arrays
from svertka.errors import Interrupted, RunError
from svertka.training import trainer

SETTINGS = ["optimizer.batch_size=16", "model.dropout=0.2", "augment.pad_crop=2", "augment.flip=true"]


@pytest.fixture
def squares():
    """120 grey images of 16 px: a bright square on the left or on the right, with noise."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, (120, 16, 16), dtype=np.uint8)
    labels = np.arange(120) % 2
    for image, label in zip(images, labels, strict=True):
        image[4:12, 2 + 6 * label : 8 + 6 * label] += 120
    return from_arrays(images, [["left", "right"][label] for label in labels], name="squares")


def run(data, out: Path, **more: Any) -> dict[str, Any]:
    given = {"model": "resnet20", "epochs": 3, "settings": SETTINGS, "seed": 5, "device": "cpu", **more}
    return svertka.train(data, out=out, **given)


def content(path: Path) -> dict[str, Any]:
    """What of a run must be the same: everything but times."""
    history = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    for row in history:
        del row["seconds"], row["images_per_second"]
    metrics = json.loads((path / "metrics.json").read_text())
    del metrics["seconds"]
    return {"weights": (path / "weights.safetensors").read_bytes(), "history": history, "metrics": metrics}


class Killed(BaseException):
    """Stands for a kill: nothing in the program may catch it."""


@pytest.fixture
def checkpoint_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


@pytest.mark.parametrize("kills", [[1], [7, 8], [5, 11, 14]])
def test_killed_and_resumed_is_bitwise_the_same(
    squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_each_step: None, kills: list[int]
) -> None:
    run(squares, tmp_path / "whole")
    kill_at(monkeypatch, kills)
    for _ in kills:
        with pytest.raises(Killed):
            run(squares, tmp_path / "killed", resume=(tmp_path / "killed").exists())
    run(squares, tmp_path / "killed", resume=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


ALL_OPERATORS = [
    "augment.quarter_turns=true", "augment.rotation=10", "augment.brightness=0.2", "augment.contrast=0.2",
    "augment.blur=1", "augment.sobel=0.2", "augment.trivial=true", "augment.noise=5", "augment.cutout=0.2",
]  # fmt: skip
EVERYTHING = {
    "ema": [*ALL_OPERATORS, "augment.mixup=0.4", "averaging.name=ema", "schedule.name=cosine_restarts"],
    "swa": ["augment.cutmix=1", "averaging.name=swa", "averaging.start=0.2", "schedule.name=one_cycle",
            "regularization.weight_noise=0.05", "data.normalization=zca"],
    "lookahead": ["averaging.name=lookahead", "averaging.sync_steps=2", "schedule.name=plateau",
                  "schedule.patience=0", "optimizer.name=muon", "optimizer.accumulate=2", "optimizer.clip=1"],
    "snapshots": ["averaging.snapshots=true", "schedule.name=cyclic", "optimizer.name=adamw",
                  "regularization.stochastic_depth=0.3", "regularization.gradient_noise=0.1",
                  "regularization.l1=1e-4"],
    "multi_step": ["schedule.name=multi_step", "optimizer.name=rmsprop", "optimizer.learning_rate=0.001",
                   "regularization.label_smoothing=0.1"],
    "exponential": ["schedule.name=exponential", "optimizer.name=adagrad", "averaging.name=ema"],
}  # fmt: skip


@pytest.mark.parametrize("name", EVERYTHING)
def test_with_everything_on_too(
    squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_each_step: None, name: str
) -> None:
    """Killed twice, in the middle of an epoch and after it; every averaging, all operators, odd schedules."""
    settings = [*SETTINGS, *EVERYTHING[name]]
    run(squares, tmp_path / "whole", settings=settings)
    kill_at(monkeypatch, [4, 10])
    for _ in range(2):
        with pytest.raises(Killed):
            run(squares, tmp_path / "killed", settings=settings, resume=(tmp_path / "killed").exists())
    run(squares, tmp_path / "killed", settings=settings, resume=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    for kept in (tmp_path / "whole").glob("snapshots/*"):
        assert kept.read_bytes() == (tmp_path / "killed" / "snapshots" / kept.name).read_bytes()


def kill_at(monkeypatch: pytest.MonkeyPatch, kills: list[int]) -> None:
    """Die at these steps, counted through all processes."""
    steps = 0
    original = trainer.train_step

    def step_or_die(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps in kills:
            raise Killed
        original(*arguments)

    monkeypatch.setattr(trainer, "train_step", step_or_die)


def test_a_polite_stop_can_be_resumed(squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(squares, tmp_path / "whole")
    original = trainer.train_step

    def stop_at_the_fourth(state: Any, batch: Any, job: Any) -> None:
        original(state, batch, job)
        if state.epoch == 1 and state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "train_step", stop_at_the_fourth)
    with pytest.raises(Interrupted, match=r"stopped in epoch 2; go on with --out .*stopped --resume"):
        run(squares, tmp_path / "stopped")
    monkeypatch.undo()
    run(squares, tmp_path / "stopped", resume=True)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_a_finished_run_gives_its_result_again(squares, tmp_path: Path) -> None:
    first = run(squares, tmp_path / "run")
    assert run(squares, tmp_path / "run", resume=True) == first


def test_other_settings_or_data_are_refused(squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "finish_epoch", die)
        with pytest.raises(Killed):
            run(squares, tmp_path / "run")
    with pytest.raises(RunError, match=r"other settings: schedule.epochs is 3, not 9"):
        svertka.train(squares, epochs=9, out=tmp_path / "run", resume=True)
    images = np.array(squares.images)
    images[0, 0, 0] ^= 1
    other = from_arrays(images, [squares.classes[label] for label in squares.labels], name="squares")
    with pytest.raises(RunError, match=r"cannot be resumed with the same bits.*data was"):
        svertka.train(other, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("name", ["resume/state.safetensors", "plan.json", "data.json", "preprocess.json"])
def test_a_damaged_file_is_named(squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    steps = 0
    original = trainer.train_epoch

    def die_in_the_second(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise Killed
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_epoch", die_in_the_second)
        with pytest.raises(Killed):
            run(squares, tmp_path / "run")
    damaged = tmp_path / "run" / name
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(RunError, match=f"{damaged.name} is damaged"):
        run(squares, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_thirty_real_kills(tmp_path: Path) -> None:
    """kill -9 at random moments, from the first import to the last write; each run resumed to its end."""
    command = [sys.executable, "-m", "svertka", "train", "digits", "--epochs", "6", "--seed", "3", "--quiet"]
    command += ["--set", "optimizer.batch_size=16", "--set", "augment.pad_crop=2", "--device", "cpu", "--out"]
    environment = {**os.environ, "SVERTKA_CACHE": str(tmp_path / "cache")}
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    usual = time.monotonic() - started
    whole = content(tmp_path / "whole")
    moment = random.Random(0)
    kills = 0
    number = 0
    while kills < 30:
        out = tmp_path / f"killed-{number}"
        while not (out / "metrics.json").exists():
            process = subprocess.Popen([*command, str(out), "--resume"], env=environment)
            try:
                process.wait(moment.uniform(0.2, usual) if kills < 30 else None)
                assert process.returncode == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        assert content(out) == whole
        number += 1
