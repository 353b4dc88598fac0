"""The one training loop, from pixels or from features, on one device.

Whatever is random in a step is a function of (seed, epoch, step), so a state needs no generator in it: a run
that was killed goes on from its last checkpoint and ends bit for bit as if nothing had happened (on the same
machine and versions). The best weights by validation accuracy (ties: lower loss) are the ones that answer.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from svertka import progress
from svertka.data.batches import Batch, Stream
from svertka.errors import Interrupted, TrainingError
from svertka.evaluation.predict import answer
from svertka.models.network import Network
from svertka.randomness import key
from svertka.recipe import Recipe
from svertka.runs import checkpoint
from svertka.runs.run import CHECKPOINT, WEIGHTS, Run
from svertka.training.losses import correct, loss
from svertka.training.optimizers import build_optimizer
from svertka.training.schedules import build_schedule

SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Job:
    """What a training is made of; nothing here changes while it goes on."""

    recipe: Recipe
    seed: int
    epochs: int
    train: Stream
    validation: Stream
    log: Callable[[dict[str, Any]], None] = lambda row: None  # called with each row of the history
    stopped: Callable[[], bool] = lambda: False  # asked after each step: does the user want to stop?
    lower: tuple[nn.Module, ...] = ()  # what trains at transfer.lower_rate of the learning rate


@dataclass
class State:
    """All that changes while a training goes on, and so all that a checkpoint holds."""

    network: Network
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    epoch: int = 0  # epochs finished
    step: int = 0  # steps done in the epoch under way
    loss_sum: float = 0.0
    num_correct: int = 0
    num_images: int = 0
    seconds: float = 0.0  # spent in the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, network: Network, job: Job) -> State:
        lower_rate = job.recipe.transfer.lower_rate
        optimizer = build_optimizer(network, job.recipe.optimizer, job.lower, lower_rate)
        schedule = build_schedule(optimizer, job.recipe.schedule, len(job.train), job.epochs)
        return cls(network, optimizer, schedule)

    def best(self) -> int | None:
        """Index in the history of the best epoch so far."""
        if not self.history:
            return None
        scores = [(row["validation"]["accuracy"], -row["validation"]["loss"]) for row in self.history]
        return scores.index(max(scores))


def train(network: Network, job: Job, run: Run) -> list[dict[str, Any]]:
    """Train to the end of the job, from the checkpoint of `run` if there is one; returns the history.

    Raises:
        TrainingError: the loss is no longer finite; the last good weights and the last checkpoint are kept.
        Interrupted: `job.stopped()` said so; a checkpoint was written.
    """
    state = State.fresh(network, job)
    restore(state, run)
    with torch.random.fork_rng(), progress.track("Training", len(job.train.indices) * job.epochs) as moved:
        moved(state.epoch * len(job.train.indices) + state.num_images)
        while state.epoch < job.epochs and not stops_early(state, job.recipe.regularization.early_stopping):
            started = time.monotonic() - state.seconds
            train_epoch(state, job, run, started, moved)
            row = finish_epoch(state, job, started)
            if state.best() == len(state.history) - 1:
                checkpoint.save_tensors(run.file(WEIGHTS), state.network.state_dict(), {"epoch": state.epoch})
            run.write_history(state.history)
            save(state, run)
            job.log(row)
            progress.say(sentence(row, job.epochs))
    return state.history


def train_epoch(state: State, job: Job, run: Run, started: float, moved: progress.Step) -> None:
    """All steps of one epoch that are not done yet."""
    state.network.train()
    saved = time.monotonic()
    for batch in job.train.epoch(state.epoch, start=state.step):
        train_step(state, batch, job)
        moved(
            len(batch), loss=state.loss_sum / state.num_images, accuracy=state.num_correct / state.num_images
        )
        stopped, late = job.stopped(), time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
        if stopped or late:
            state.seconds = time.monotonic() - started
            save(state, run)
            saved = time.monotonic()
        if stopped:
            raise Interrupted(f"stopped in epoch {state.epoch + 1}; go on with --out {run.path} --resume.")


def train_step(state: State, batch: Batch, job: Job) -> None:
    """Forward, backward, update, count."""
    torch.manual_seed(key(job.seed, "noise", state.epoch, state.step))
    outputs = state.network(batch.images)
    value, logits = loss(outputs, batch.labels, job.recipe.regularization.label_smoothing)
    if not math.isfinite(number := value.item()):
        raise diverged(state, number)
    state.optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    if job.recipe.optimizer.clip:
        nn.utils.clip_grad_norm_(state.network.parameters(), job.recipe.optimizer.clip)
    state.optimizer.step()
    state.schedule.step()
    state.step += 1
    state.loss_sum += number * len(batch.labels)
    state.num_correct += correct(logits, batch.labels)
    state.num_images += len(batch.labels)


def finish_epoch(state: State, job: Job, started: float) -> dict[str, Any]:
    """Measure on the validation part, add a row to the history, and begin to count anew."""
    rate = state.optimizer.param_groups[0]["lr"]
    training = {"loss": state.loss_sum / state.num_images, "accuracy": state.num_correct / state.num_images}
    spent = time.monotonic() - started
    row = {
        "epoch": state.epoch + 1,
        "learning_rate": rate,
        "train": training,
        "validation": validate(state, job.validation),
        "seconds": time.monotonic() - started,
        "images_per_second": state.num_images / max(spent, 1e-9),
    }
    state.history.append(row)
    state.epoch, state.step = state.epoch + 1, 0
    state.loss_sum, state.num_correct, state.num_images, state.seconds = 0.0, 0, 0, 0.0
    return row


def sentence(row: dict[str, Any], epochs: int) -> str:
    """A row of the history in words."""
    train, validation = row["train"], row["validation"]
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train loss {train['loss']:.3f} accuracy {train['accuracy']:.3f}  "
        f"validation loss {validation['loss']:.3f} accuracy {validation['accuracy']:.3f}  "
        f"{row['seconds']:.1f} s ({row['images_per_second']:,.0f} images/s)"
    )


def validate(state: State, batches: Stream) -> dict[str, float]:
    """Loss (nats) and accuracy of the network as it is."""
    logits = torch.from_numpy(answer(state.network, batches))
    labels = torch.from_numpy(batches.labels[batches.indices])
    value = F.cross_entropy(logits, labels).item()
    if not math.isfinite(value):
        raise diverged(state, value)
    return {"loss": value, "accuracy": correct(logits, labels) / len(labels)}


def stops_early(state: State, patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better (0: never)."""
    best = state.best()
    return patience > 0 and best is not None and len(state.history) - 1 - best >= patience


def diverged(state: State, value: float) -> TrainingError:
    rate = state.optimizer.param_groups[0]["lr"]
    best = state.best()
    kept = f"The weights of epoch {best + 1} are kept. " if best is not None else "No epoch was finished. "
    return TrainingError(
        f"the loss became {value} in epoch {state.epoch + 1}, step {state.step + 1}, "
        f"at learning rate {rate:.3g}. "
        f"{kept}Try a third of the rate (--set optimizer.learning_rate=…), a longer schedule.warmup_epochs, "
        "or optimizer.clip=1.0."
    )


def save(state: State, run: Run) -> None:
    """Write the state into `resume/`, atomically."""
    optimizer, groups = checkpoint.optimizer_tensors(state.optimizer)
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
    counters = {name: getattr(state, name) for name in COUNTERS}
    facts = {"groups": groups, "schedule": state.schedule.state_dict(), **counters}
    checkpoint.save_tensors(run.file(CHECKPOINT), tensors, facts)


def restore(state: State, run: Run) -> None:
    """Put the state in `resume/`, if there is one, into a fresh one.

    Raises:
        RunError: the file is damaged or of another run.
    """
    path = run.file(CHECKPOINT)
    if not path.exists():
        return
    tensors, facts = checkpoint.load_tensors(path)
    parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "optimizer": {}}
    for full_name, tensor in tensors.items():
        part, _, name = full_name.partition(".")
        parts[part][name] = tensor
    checkpoint.fill(state.network, parts["network"], path)
    checkpoint.fill_optimizer(state.optimizer, parts["optimizer"], facts["groups"])
    state.schedule.load_state_dict(copy.deepcopy(facts["schedule"]))
    for name in COUNTERS:
        setattr(state, name, facts[name])


COUNTERS = ("epoch", "step", "loss_sum", "num_correct", "num_images", "seconds", "history")
