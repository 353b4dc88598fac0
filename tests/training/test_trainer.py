"""The loop against plain PyTorch, and all that it promises besides: stopping, keeping, telling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import svertka
from svertka import progress
from svertka.data.batches import Batch
from svertka.data.items import from_arrays
from svertka.errors import Interrupted, TrainingError
from svertka.models.catalog import build
from svertka.models.network import Outputs
from svertka.recipe import Recipe
from svertka.runs import checkpoint
from svertka.runs.run import Run
from svertka.training import logs, losses, trainer
from svertka.training.budget import Pace, measure, steps_that_fit
from svertka.training.losses import loss

CLASSES, SIZE, BATCH = 3, 16, 8


@dataclass
class Fixed:
    """A stream of tensors in their order, the same each epoch, spoilt where a test wants it."""

    images: Tensor
    labels: np.ndarray
    batch_size: int = BATCH
    spoilt: dict[tuple[int, int], float] = field(default_factory=dict)  # (epoch, step) -> value of all pixels

    @property
    def indices(self) -> np.ndarray:
        return np.arange(len(self.labels))

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for step in range(start, len(self)):
            rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
            images = self.images[rows].clone()
            if (number, step) in self.spoilt:
                images.fill_(self.spoilt[number, step])
            indices = torch.arange(rows.start, rows.stop)
            yield Batch(images, torch.from_numpy(self.labels[rows]), indices)


def stream(number: int = 32, seed: int = 0, **more: Any) -> Fixed:
    """Noise with a bright third for each of the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.arange(number) % CLASSES
    images = torch.randn(number, 1, SIZE, SIZE, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 5 * label : 5 * label + 5] += 1
    return Fixed(images, labels, **more)


def network(name: str = "linear") -> nn.Module:
    return build(name, classes=CLASSES, in_channels=1, size=SIZE, seed=4)


def recipe(*settings: str) -> Recipe:
    return Recipe().set(["schedule.name=constant", "schedule.warmup_epochs=0", *settings])


def job(wanted: Recipe, epochs: int = 2, **more: Any) -> trainer.Job:
    given = {"seed": 0, "train": stream(), "validation": stream(16, 1), **more}
    return trainer.Job(wanted, steps=epochs * len(given["train"]), **given)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


def weights(run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return checkpoint.load_tensors(run.file("weights.safetensors"))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["linear", "resnet20"])
def test_training_equals_plain_pytorch(run: Run, name: str) -> None:
    """Same start, same batches: the same bits after two epochs of the five lines everybody writes."""
    wanted = recipe("optimizer.learning_rate=0.02", "optimizer.weight_decay=0.001")
    ours, theirs = network(name), network(name)
    assert same(ours.state_dict(), theirs.state_dict())
    trainer.train(ours, job(wanted), run)

    decayed = [p for p in theirs.parameters() if p.ndim >= 2]
    spared = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.001}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True, fused=True)
    theirs.train()
    for _ in range(2):
        for batch in stream().epoch(0):
            optimizer.zero_grad()
            F.cross_entropy(theirs(batch.images), batch.labels).backward()
            optimizer.step()
    assert same(ours.state_dict(), theirs.state_dict())


def test_clipping_is_that_of_torch(run: Run) -> None:
    """One step with gradients scaled to the norm given; without it the step is longer."""
    ours, theirs, free = network(), network(), network()
    plain = "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0"
    short = stream(BATCH)
    trainer.train(ours, job(recipe(*plain, "optimizer.clip=0.1"), epochs=1, train=short), run)
    trainer.train(free, job(recipe(*plain), epochs=1, train=short), Run(run.path.parent / "free"))
    batch = next(short.epoch(0))
    F.cross_entropy(theirs(batch.images), batch.labels).backward()
    norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    assert norm > 0.2
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter -= 0.05 * parameter.grad
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name])
    assert not same(ours.state_dict(), free.state_dict())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_follows_its_formula(smoothing: float) -> None:
    """−Σ q ln p with q = (1 − ε) δ + ε / k (Szegedy et al. 2015, equation 3 of section 7)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    value, seen = loss(logits, labels, smoothing)
    wanted = (1 - smoothing) * F.one_hot(labels, 4) + smoothing / 4
    torch.testing.assert_close(value, -(wanted * logits.log_softmax(dim=1)).sum(dim=1).mean())
    assert torch.equal(seen, logits)
    assert not seen.requires_grad


def test_auxiliary_classifiers_count_three_tenths() -> None:
    logits, first, second = (torch.randn(5, 3) for _ in range(3))
    labels = torch.tensor([0, 1, 2, 0, 1])
    value, seen = loss(Outputs(logits, (first, second)), labels)
    parts = [F.cross_entropy(other, labels) for other in (logits, first, second)]
    torch.testing.assert_close(value, parts[0] + 0.3 * (parts[1] + parts[2]))
    assert torch.equal(seen, logits)


def test_chance_is_ln_k() -> None:
    assert losses.chance(10) == pytest.approx(math.log(10))
    value, _ = loss(torch.zeros(7, 10), torch.arange(7))
    assert value.item() == pytest.approx(losses.chance(10))


def scripted(
    monkeypatch: pytest.MonkeyPatch, accuracies: list[float], losses: list[float] | None = None
) -> None:
    """Let validation come out as written."""
    rows = iter(zip(accuracies, losses or [1.0] * len(accuracies), strict=True))

    def validate(state: trainer.State, batches: Any) -> dict[str, float]:
        accuracy, value = next(rows)
        return {"accuracy": accuracy, "loss": value}

    monkeypatch.setattr(trainer, "validate", validate)


def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights after each epoch."""
    taken: list[dict[str, Tensor]] = []
    original = trainer.finish_epoch

    def finish(state: trainer.State, *more: Any) -> Any:
        taken.append({name: value.clone() for name, value in state.network.state_dict().items()})
        return original(state, *more)

    monkeypatch.setattr(trainer, "finish_epoch", finish)
    return taken


@pytest.mark.parametrize(
    ("accuracies", "values", "best"),
    [
        ([0.3, 0.9, 0.5], None, 2),
        ([0.3, 0.5, 0.9], None, 3),
        ([0.9, 0.9, 0.9], [1.0, 0.5, 0.7], 2),  # equal accuracy: the lower loss
        ([0.9, 0.9, 0.9], [0.5, 0.5, 0.5], 1),  # all equal: the first
    ],
)
def test_the_best_weights_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], values: Any, best: int
) -> None:
    scripted(monkeypatch, accuracies, values)
    taken = snapshots(monkeypatch)
    trainer.train(network(), job(recipe(), epochs=3), run)
    tensors, facts = weights(run)
    assert facts == {"epoch": best}
    assert same(tensors, taken[best - 1])
    assert not same(taken[0], taken[2])
    state, _ = checkpoint.load_tensors(run.file("resume/state.safetensors"))
    last = {
        name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")
    }
    assert same(last, taken[2])


@pytest.mark.parametrize(
    ("patience", "epochs"), [(0, 8), (1, 3), (2, 6), (3, 7)], ids=["off", "one", "two", "three"]
)
def test_early_stopping(run: Run, monkeypatch: pytest.MonkeyPatch, patience: int, epochs: int) -> None:
    """Best at epochs 2 and 4: patience 1 ends after 3, before the second; 2 and 3 after 6 and 7."""
    scripted(monkeypatch, [0.1, 0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5])
    wanted = recipe(f"regularization.early_stopping={patience}")
    assert len(trainer.train(network(), job(wanted, epochs=8), run)) == epochs


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(run: Run) -> None:
    spoilt = stream(spoilt={(2, 1): float("nan")})
    with pytest.raises(
        TrainingError,
        match=r"became nan in epoch 3, step 2, at learning rate 0\.05\. The weights of epoch \d are kept",
    ):
        trainer.train(network(), job(recipe(), epochs=4, train=spoilt), run)
    tensors, facts = weights(run)
    assert facts["epoch"] in (1, 2)
    assert all(value.isfinite().all() for value in tensors.values())
    assert len(run.history) == 2
    state, _ = checkpoint.load_tensors(run.file("resume/state.safetensors"))
    assert all(value.isfinite().all() for value in state.values())


def test_divergence_at_once_says_that_nothing_was_finished(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"in epoch 1, step 1, .*No epoch was finished.*a third"):
        trainer.train(network(), job(recipe(), train=stream(spoilt={(0, 0): float("inf")})), run)
    assert not run.file("weights.safetensors").exists()
    assert run.history == []


def test_validation_that_is_not_finite_stops_too(run: Run) -> None:
    validation = stream(16, 1, spoilt={(0, 1): float("nan")})
    with pytest.raises(TrainingError, match=r"the loss became nan"):
        trainer.train(network(), job(recipe(), validation=validation), run)
    assert not run.file("weights.safetensors").exists()


def test_history_rows_say_what_happened(run: Run) -> None:
    rows = trainer.train(network(), job(recipe("optimizer.learning_rate=1e-9", "schedule.name=cosine")), run)
    assert run.history == rows
    assert [row["epoch"] for row in rows] == [1, 2]
    before = network()
    for part, data in (("train", stream()), ("validation", stream(16, 1))):
        with torch.no_grad():
            logits, labels = before(data.images), torch.from_numpy(data.labels)
        for row in rows:  # at such a rate the weights stay as they are
            assert row[part]["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
            assert row[part]["accuracy"] == (logits.argmax(1) == labels).float().mean().item()
    assert rows[0]["learning_rate"] > rows[1]["learning_rate"]
    for row in rows:
        assert row["seconds"] > 0
        assert row["images_per_second"] > 0
        assert row["images_per_second"] * row["seconds"] >= 32  # validation takes its time too


def test_each_epoch_is_said_and_each_image_counted(run: Run) -> None:
    said: list[str] = []
    moved: list[int] = []

    class Listener(progress.Silent):
        def say(self, message: str) -> None:
            said.append(message)

        def start(self, title: str, total: int | None, unit: str) -> progress.Step:
            assert (title, total) == ("Training", 64)
            return lambda amount=1, **facts: moved.append(amount)

    with progress.using(Listener()):
        trainer.train(network(), job(recipe()), run)
    assert len(said) == 2
    assert said[1].startswith("epoch   2/2  train loss ")
    assert sum(moved) == 64


def test_a_stop_keeps_the_step_and_the_best(run: Run) -> None:
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) == 6

    with pytest.raises(Interrupted, match=r"stopped in epoch 2; go on with --out .*run --resume") as caught:
        trainer.train(network(), job(recipe(), stopped=stopped), run)
    assert caught.value.exit_code == 130
    _, facts = checkpoint.load_tensors(run.file("resume/state.safetensors"))
    assert (facts["epoch"], facts["step"], facts["num_images"]) == (1, 2, 16)
    assert weights(run)[1] == {"epoch": 1}


def test_tensorboard_holds_the_history(run: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with logs.tensorboard(run) as log:
        rows = trainer.train(network(), job(recipe(), epochs=3, log=log), run)
    events = accumulator.EventAccumulator(str(run.file("tensorboard"))).Reload()
    tags = {"loss/train", "loss/validation", "accuracy/train", "accuracy/validation",
            "learning_rate", "seconds", "images_per_second"}  # fmt: skip
    assert set(events.Tags()["scalars"]) == tags
    for tag in tags:
        kind, _, part = tag.partition("/")
        wanted = [row[part][kind] if part else row[kind] for row in rows]
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        np.testing.assert_allclose([scalar.value for scalar in scalars], wanted, rtol=1e-6)


def test_without_a_wish_nothing_is_logged(run: Run) -> None:
    with logs.tensorboard(None) as log:
        trainer.train(network(), job(recipe(), log=log), run)
    assert not run.file("tensorboard").exists()


@pytest.mark.parametrize(
    ("settings", "seconds_left", "steps"),
    [
        (["schedule.epochs=7"], 1.0, 28),  # what the user said, however long
        ([], 102.0, 93),  # (0.95 × 102 s − 48 images) / 4 s an epoch, in steps
        (["budget.minutes=1"], 102.0, 93),
        ([], 3.0, 1),
        ([], -5.0, 1),
        ([], 1e9, 240),  # 60 epochs are enough, if nobody said how long
        (["budget.minutes=1"], 1e6, 949997),
    ],
)
def test_steps_that_fit(settings: list[str], seconds_left: float, steps: int) -> None:
    """4 steps of 0.75 s and 16 validation images of 1/16 s make 4 s an epoch."""
    said: list[str] = []

    class Listener(progress.Silent):
        def say(self, message: str) -> None:
            said.append(message)

    with progress.using(Listener()):
        found = steps_that_fit(
            Recipe().set(settings), Pace(0.75, 1 / 16), seconds_left, stream(), stream(16, 1), tested=16
        )
    assert found == steps
    epochs = f"{steps / 4:.0f}" if steps % 4 == 0 else f"{steps / 4:.1f}"
    assert said[0].startswith(f"{epochs} epochs of about 4.0 s: ")


def test_the_last_epoch_may_be_a_part_of_one(run: Run) -> None:
    """6 steps of 4 an epoch: two rows, the weights after exactly 6 steps of plain PyTorch."""
    ours, theirs = network(), network()
    rows = trainer.train(ours, replace(job(recipe()), steps=6), run)
    assert [row["epoch"] for row in rows] == [1, 2]
    decayed = [{"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 5e-4},
               {"params": [p for p in theirs.parameters() if p.ndim < 2]}]  # fmt: skip
    optimizer = torch.optim.SGD(decayed, lr=0.05, momentum=0.9, nesterov=True)
    for batch in [*stream().epoch(0), *stream().epoch(1)][:6]:
        optimizer.zero_grad()
        F.cross_entropy(theirs(batch.images), batch.labels).backward()
        optimizer.step()
    assert same(ours.state_dict(), theirs.state_dict())


def test_measuring_the_pace_changes_nothing() -> None:
    net = build("resnet20", classes=CLASSES, in_channels=1, size=SIZE, seed=4, dropout=0.5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    pace = measure(net, recipe("averaging.name=ema"), stream(), stream(16, 1), seconds=1.0)
    assert pace.step > 0
    assert pace.image > 0
    assert pace.epoch(stream(), stream(16, 1)) == pytest.approx(4 * pace.step + 16 * pace.image)
    assert same(net.state_dict(), before)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def images() -> svertka.Dataset:
    generator = np.random.default_rng(0)
    return from_arrays(generator.integers(0, 255, (48, 12, 12), dtype=np.uint8), ["a", "b", "c"] * 16)


@pytest.fixture
def trained(images: svertka.Dataset, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def train(name: str = "run", **more: Any) -> dict[str, Any]:
        settings = ["model.dropout=0.3", "optimizer.batch_size=16", "augment.flip=true"]
        given = {
            "model": "resnet20",
            "epochs": 1,
            "settings": settings,
            "out": tmp_path / name,
            "device": "cpu",
        }
        return svertka.train(images, **given | more)

    return train


def test_the_random_state_of_the_process_is_left_alone(trained: Callable[..., Any]) -> None:
    """Nor does it matter: whatever it is, the run comes out the same."""
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is what this is about)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = trained("first")
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(2)
    second = trained("second")
    assert first["test"] == second["test"]
    paths = [Path(result["run"]) / "weights.safetensors" for result in (first, second)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_a_run_leaves(trained: Callable[..., Any], tmp_path: Path) -> None:
    trained(tensorboard=True)
    found = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*")}
    assert found == {
        "recipe.toml", "plan.json", "data.json", "preprocess.json", "environment.json", "history.jsonl",
        "weights.safetensors", "resume", "metrics.json", "tensorboard",
    }  # fmt: skip
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["epochs"] == 1
    assert torch.__version__.startswith(plan["versions"]["torch"])
    decided = Recipe.load(tmp_path / "run" / "recipe.toml")
    assert "auto" not in decided.data.model_dump().values()
    assert decided.model.name == "resnet20"
