"""Every setting of a recipe acts or is refused: a change of it changes the run, or an error says why not.

The settings are listed by looking at `Recipe`, so a new one without a case here fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svertka
from svertka.data.items import from_arrays
from svertka.errors import OptionError
from svertka.optimization import SCHEDULE_FIELDS
from svertka.recipe import Recipe
from svertka.training import scratch
from svertka.training.budget import Pace

BASE = ("model.name=lenet5", "schedule.epochs=2", "data.size=32", "optimizer.batch_size=16")


@dataclass(frozen=True)
class Acts:
    """A setting changed beside others that stay: weights, metrics, history or plan must differ.

    Attributes:
        value: what the setting becomes.
        beside: settings of both runs, in place of or besides `BASE`.
        photo: train on images that are not square.
    """

    value: Any
    beside: tuple[str, ...] = ()
    photo: bool = False


@dataclass(frozen=True)
class Refused:
    """A setting that would do nothing here: the error names the reason."""

    value: Any
    message: str
    beside: tuple[str, ...] = ()


FLIP = ("augment.flip=true",)
SMALL = ("optimizer.learning_rate=0.001",)
ADAMW = ("optimizer.name=adamw",)
ONE_CYCLE = ("schedule.name=one_cycle",)
PLATEAU = ("schedule.name=plateau", "schedule.epochs=5", "optimizer.learning_rate=1e-5")
STEP = ("schedule.name=step", "schedule.step_epochs=1")
WITHOUT_WEIGHTS = "the settings of transfer do nothing without model.weights"
CASES: dict[str, list[Acts | Refused]] = {
    "data.size": [Acts(40)],
    "data.channels": [Acts(3)],
    "data.fit": [Acts("squash", photo=True), Acts("letterbox", photo=True)],
    "data.interpolation": [Acts("bicubic", ("data.size=40",))],
    "data.normalization": [
        Acts("none"),
        Acts("mean_image"),
        Acts("channel_mean"),
        Acts("pca"),
        Acts("zca"),
        Refused("pca", "3072 numbers an input, got 1 × 64 × 64", ("data.size=64", "model.name=resnet20")),
        Refused("weights", "'weights' needs model.weights, and there are none"),
    ],
    "data.whitening_epsilon": [
        Acts(0.5, ("data.normalization=zca",)),
        Refused(0.5, "belongs to 'pca' and 'zca'"),
    ],
    "data.store_size": [Acts(36)],
    "data.validation": [Acts(0.3)],
    "data.test": [Acts(0.3), Acts(0)],
    "augment.pad_crop": [
        Acts(3, ("augment.flip=true",)),
        Refused(3, "two ways to crop", ("augment.resized_crop=0.5",)),
    ],
    "augment.resized_crop": [Acts(0.5, ("augment.flip=true",))],
    "augment.flip": [Acts(True, ("augment.pad_crop=2",))],
    "augment.quarter_turns": [Acts(True, FLIP)],
    "augment.rotation": [Acts(20, FLIP)],
    "augment.brightness": [Acts(0.5, FLIP)],
    "augment.contrast": [Acts(0.5, FLIP)],
    "augment.saturation": [Acts(0.5, FLIP, photo=True), Refused(0.5, "changes colours", FLIP)],
    "augment.hue": [Acts(0.5, FLIP, photo=True), Refused(0.5, "read with 1 channel", FLIP)],
    "augment.grey": [Acts(0.5, FLIP, photo=True), Refused(0.5, "augment.grey changes colours", FLIP)],
    "augment.blur": [Acts(2, FLIP)],
    "augment.sobel": [Acts(0.5, FLIP)],
    "augment.trivial": [Acts(True, FLIP)],
    "augment.noise": [Acts(10, FLIP)],
    "augment.cutout": [Acts(0.3, FLIP)],
    "augment.mixup": [Acts(0.4, FLIP)],
    "augment.cutmix": [
        Acts(1.0, FLIP),
        Refused(1.0, "cutmix pastes pixels, and a transfer trains on stored", ("model.weights=imagenet",)),
    ],
    "model.name": [Acts("linear")],
    "model.weights": [Refused("imagenet", "lenet5.*weights|weights.*lenet5")],
    "model.activation": [Acts("elu"), Refused("elu", "activation", ("model.name=linear",))],
    "model.norm": [
        Acts("batch"),
        Acts("group", ("model.name=resnet20",)),
        Refused("batch", "norm", ("model.name=linear",)),
    ],
    "model.init": [
        Acts("xavier_uniform"),
        Refused("orthogonal", "does nothing beside model.weights", ("model.weights=imagenet",)),
    ],
    "model.dropout": [Acts(0.5, ("model.name=resnet20",))],
    "optimizer.name": [Acts(name, SMALL) for name in ("adagrad", "rmsprop", "adam", "adamw", "muon")],
    "optimizer.learning_rate": [Acts(0.01)],
    "optimizer.momentum": [
        Acts(0.5),
        Acts(0.5, ("optimizer.name=rmsprop", *SMALL)),
        Acts(0.5, ("optimizer.name=muon", *SMALL)),
        Refused(0.5, "momentum belongs to the optimizer 'sgd' or 'rmsprop' or 'muon'", ADAMW),
        Refused(0, "nesterov needs momentum above 0"),
    ],
    "optimizer.nesterov": [
        Acts(False),
        Acts(False, ("optimizer.name=muon", *SMALL)),
        Refused(False, "nesterov belongs to the optimizer 'sgd' or 'muon'", ADAMW),
    ],
    "optimizer.beta1": [Acts(0.5, (f"optimizer.name={name}", *SMALL)) for name in ("adam", "adamw", "muon")]
    + [Refused(0.5, "beta1 belongs to the optimizer .* does nothing for 'sgd'")],
    "optimizer.beta2": [Acts(0.5, (f"optimizer.name={name}", *SMALL)) for name in ("adam", "adamw", "muon")]
    + [Refused(0.5, "beta2 belongs to the optimizer .* does nothing for 'sgd'")],
    "optimizer.smoothing": [
        Acts(0.5, ("optimizer.name=rmsprop", *SMALL)),
        Refused(0.5, "smoothing belongs to the optimizer 'rmsprop'"),
    ],
    "optimizer.epsilon": [
        Acts(0.1, (f"optimizer.name={name}", *SMALL))
        for name in ("adagrad", "rmsprop", "adam", "adamw", "muon")
    ]
    + [Refused(0.1, "epsilon belongs to the optimizer .* does nothing for 'sgd'")],
    "optimizer.rest_learning_rate": [
        Acts(0.01, ("optimizer.name=muon", *SMALL)),
        Refused(0.01, "rest_learning_rate belongs to the optimizer 'muon'"),
    ],
    "optimizer.weight_decay": [
        Acts(0.1, () if name == "sgd" else (f"optimizer.name={name}", *SMALL))
        for name in ("sgd", "adagrad", "rmsprop", "adam", "adamw", "muon")
    ],
    "optimizer.batch_size": [Acts(8)],
    "optimizer.accumulate": [
        Acts(2, ("model.name=resnet20",)),
        Refused(9, "cuts 16 images into 9 pieces, and a piece needs 2 images; at most 8"),
    ],
    "optimizer.clip": [Acts(0.1)],
    "schedule.name": [
        Acts(name)
        for name in (
            "constant",
            "multi_step",
            "exponential",
            "linear",
            "cosine_restarts",
            "cyclic",
            "one_cycle",
        )
    ]
    + [
        Acts("step"),
        Acts("plateau"),
    ],
    "schedule.epochs": [Acts(1)],
    "schedule.warmup_epochs": [
        *(Acts(0, (f"schedule.name={name}",)) for name in SCHEDULE_FIELDS["warmup_epochs"]),
        Refused(2, "warmup_epochs belongs to the schedule .* does nothing for 'one_cycle'", ONE_CYCLE),
    ],
    "schedule.step_epochs": [
        Acts(1, ("schedule.name=step", "schedule.warmup_epochs=0")),
        Refused(1, "step_epochs belongs to the schedule 'step' and does nothing for 'cosine'"),
    ],
    "schedule.step_factor": [
        Acts(0.5, (*STEP, "schedule.warmup_epochs=0")),
        Acts(0.5, ("schedule.name=multi_step",)),
        Acts(0.5, (*PLATEAU, "schedule.patience=0")),
        Refused(0.5, "step_factor belongs to the schedule 'step' .* does nothing for 'cosine'"),
    ],
    "schedule.milestones": [
        Acts([0.1], ("schedule.name=multi_step",)),
        Refused([0.1], "milestones belongs to the schedule 'multi_step'"),
        Refused([0.5, 0.3], "milestones rise from one to the next", ("schedule.name=multi_step",)),
    ],
    "schedule.epoch_factor": [
        Acts(0.5, ("schedule.name=exponential",)),
        Refused(0.5, "epoch_factor belongs to the schedule 'exponential'"),
    ],
    "schedule.low_factor": [
        Acts(0.5, ("schedule.name=linear",)),
        Acts(0.5, ("schedule.name=cyclic",)),
        Refused(0.5, "low_factor belongs to the schedule 'linear' or 'cyclic'"),
    ],
    "schedule.cycles": [
        Acts(2, ("schedule.name=cosine_restarts", "schedule.epochs=4")),
        Acts(2, ("schedule.name=cyclic", "schedule.epochs=4")),
        Refused(2, "cycles belongs to the schedule 'cosine_restarts' or 'cyclic'"),
    ],
    "schedule.cycle_growth": [
        Acts(3, ("schedule.name=cosine_restarts", "schedule.epochs=4")),
        Refused(3, "cycle_growth belongs to the schedule 'cosine_restarts'"),
    ],
    "schedule.rise": [
        Acts(0.7, ("schedule.name=cyclic", "schedule.cycles=1", "schedule.epochs=4")),
        Acts(0.7, ONE_CYCLE),
        Refused(0.7, "rise belongs to the schedule 'cyclic' or 'one_cycle'"),
    ],
    "schedule.patience": [Acts(0, PLATEAU), Refused(0, "patience belongs to the schedule 'plateau'")],
    "regularization.label_smoothing": [Acts(0.1)],
    "regularization.early_stopping": [Acts(1, ("optimizer.learning_rate=1e-9", "schedule.epochs=4"))],
    "regularization.l1": [Acts(0.01)],
    "regularization.stochastic_depth": [
        Acts(0.5, ("model.name=resnet20",)),
        Refused(0.5, "leaves out residual blocks, and this network has none"),
        Refused(0.5, "all residual blocks are frozen", ("model.weights=imagenet", "transfer.rung=head")),
    ],
    "regularization.gradient_noise": [Acts(0.1)],
    "regularization.weight_noise": [Acts(0.1)],
    "averaging.name": [Acts("ema"), Acts("swa", ("schedule.epochs=8",)), Acts("lookahead")],
    "averaging.decay": [
        Acts(0.5, ("averaging.name=ema",)),
        Refused(0.5, "decay belongs to the averaging 'ema'"),
    ],
    "averaging.start": [
        Acts(0.1, ("averaging.name=swa",)),
        Refused(0.1, "start belongs to the averaging 'swa'"),
    ],
    "averaging.sync_steps": [
        Acts(2, ("averaging.name=lookahead", "averaging.sync_steps=1")),
        Refused(2, "sync_steps belongs to the averaging 'lookahead'"),
    ],
    "averaging.slow_rate": [
        Acts(0.2, ("averaging.name=lookahead", "averaging.sync_steps=2")),
        Refused(0.2, "slow_rate belongs to the averaging 'lookahead'"),
    ],
    "averaging.snapshots": [
        Acts(True, ("schedule.name=cyclic",)),
        Refused(True, "only the schedules 'cosine_restarts' and 'cyclic' have cycles"),
        Refused(True, "choose one of the two", ("schedule.name=cyclic", "averaging.name=ema")),
        Refused(True, "needs a training from scratch", ("schedule.name=cyclic", "model.weights=imagenet")),
    ],
    "transfer.rung": [Refused("head", WITHOUT_WEIGHTS)],
    "transfer.depth": [Refused(2, WITHOUT_WEIGHTS)],
    "transfer.views": [Refused(4, WITHOUT_WEIGHTS)],
    "transfer.precision": [Refused("float32", WITHOUT_WEIGHTS)],
    "transfer.lower_rate": [Refused(0.5, WITHOUT_WEIGHTS)],
    "budget.minutes": [Refused(3, "both say how long to train; give one of them")],
}
"""What shows that each setting acts; `budget.minutes` acting is test_minutes_set_the_length, the settings of
`transfer` acting is for the tests of the ladder."""


@cache
def dataset(photo: bool) -> svertka.Dataset:
    """54 noisy images of three classes, grey of 32 px or in colours of 32 × 48 px."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (54, 32, 48, 3) if photo else (54, 32, 32), dtype=np.uint8)
    labels = np.arange(54) % 3
    for image, label in zip(images, labels, strict=True):
        image[8:24, 10 * label : 10 * label + 10] += 55
    return from_arrays(images, [f"class {label}" for label in labels], name="bars")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What came of a run: weights, metrics, history and plan, without times; equal calls run once."""

    @cache
    def train(settings: tuple[str, ...], photo: bool) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("acts") / "run"
        wanted = Recipe().set(settings)
        svertka.train(dataset(photo), recipe=wanted, out=out, seed=1, device="cpu")
        facts = {name: json.loads((out / f"{name}.json").read_text()) for name in ("metrics", "plan")}
        del facts["metrics"]["seconds"], facts["plan"]["epoch_seconds"]
        rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        history = [{**row, "seconds": 0, "images_per_second": 0} for row in rows]
        more = [path.name for path in sorted(out.glob("snapshots/*"))]
        return {
            **facts,
            "history": history,
            "snapshots": more,
            "weights": (out / "weights.safetensors").read_bytes(),
        }

    return train


def fields() -> list[str]:
    """All settings as group.field."""
    groups = Recipe.model_fields.items()
    return [f"{group}.{name}" for group, info in groups for name in info.annotation.model_fields]


def with_base(*settings: str) -> tuple[str, ...]:
    """The settings after those of `BASE` that they do not replace."""
    given = {setting.partition("=")[0] for setting in settings}
    return (*(setting for setting in BASE if setting.partition("=")[0] not in given), *settings)


def test_every_setting_has_a_case() -> None:
    assert set(CASES) == set(fields())
    assert all(CASES.values())


CHANGES = [(name, case) for name, cases in CASES.items() for case in cases if isinstance(case, Acts)]
REFUSALS = [(name, case) for name, cases in CASES.items() for case in cases if isinstance(case, Refused)]


@pytest.mark.parametrize(("name", "case"), CHANGES, ids=[f"{name}={case.value}" for name, case in CHANGES])
def test_it_acts(outcome: Callable[..., dict[str, Any]], name: str, case: Acts) -> None:
    beside = [setting for setting in case.beside if not setting.startswith(f"{name}=")]
    usual = outcome(with_base(*beside), case.photo)
    changed = outcome(with_base(*beside, f"{name}={json.dumps(case.value)}"), case.photo)
    assert changed != usual


@pytest.mark.parametrize(("name", "case"), REFUSALS, ids=[f"{name}={case.value}" for name, case in REFUSALS])
def test_it_is_refused(name: str, case: Refused, tmp_path: Path) -> None:
    settings = with_base(*case.beside, f"{name}={json.dumps(case.value)}")
    with pytest.raises(svertka.SvertkaError, match=case.message) as caught:
        svertka.train(dataset(False), settings=settings, out=tmp_path / "run", device="cpu")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_equal_settings_give_equal_runs(outcome: Callable[..., dict[str, Any]]) -> None:
    """What lets a difference count: defaults written out make none."""
    written = with_base("data.fit=crop", "optimizer.learning_rate=0.05", "schedule.name=cosine")
    assert outcome(written, False) == outcome(with_base(), False)


def test_minutes_set_the_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With 1 s an epoch, a budget of 0.1 minutes gives fewer epochs than one of 0.2."""
    monkeypatch.setattr(scratch, "measure", lambda *pieces: Pace(step=0.9, image=0.1 / 8))
    lengths = []
    for minutes in (0.1, 0.2):
        out = tmp_path / f"run-{minutes}"
        result = svertka.train(
            dataset(False), model="linear", minutes=minutes, settings=["data.size=8"], out=out, device="cpu"
        )
        lengths.append(result["epochs"])
    assert 1 <= lengths[0] < lengths[1] <= 12


def test_defaults_are_inside_their_own_ranges() -> None:
    assert Recipe.parse(Recipe().model_dump()) == Recipe()
    with pytest.raises(OptionError, match="no setting group"):
        Recipe().set(["optimiser.clip=1"])
