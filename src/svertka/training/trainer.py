"""The one training loop, from pixels or from features, on one device.

Whatever is random in a step is a function of (seed, epoch, step), so a state needs no generator in it: a run
that was killed goes on from its last checkpoint and ends bit for bit as if nothing had happened (on the same
machine and versions). The best weights by validation accuracy (ties: lower loss) are the ones that answer.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svertka import progress
from svertka.data.batches import Batch, Stream
from svertka.data.mixing import mixed
from svertka.errors import Interrupted, TrainingError
from svertka.evaluation.predict import answer
from svertka.models.network import Network
from svertka.randomness import key
from svertka.recipe import Recipe
from svertka.runs import checkpoint
from svertka.runs.run import CHECKPOINT, WEIGHTS, Run
from svertka.training import memory
from svertka.training.averaging import Average
from svertka.training.gradients import gradient, regularize
from svertka.training.losses import correct, num_correct
from svertka.training.optimizers import build_optimizer
from svertka.training.schedules import build_plateau, build_schedule, cycle_ends, schedule_state

SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Job:
    """What a training is made of; nothing here changes while it goes on."""

    recipe: Recipe
    seed: int
    steps: int  # in all; the last epoch may be a part of one
    train: Stream
    validation: Stream
    log: Callable[[dict[str, Any]], None] = lambda row: None  # called with each row of the history
    stopped: Callable[[], bool] = lambda: False  # asked after each step: does the user want to stop?
    lower: tuple[nn.Module, ...] = ()  # what trains at transfer.lower_rate of the learning rate

    @property
    def epochs(self) -> int:
        return -(-self.steps // len(self.train))


@dataclass
class State:
    """All that changes while a training goes on, and so all that a checkpoint holds."""

    network: Network
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None
    average: Average
    epoch: int = 0  # epochs finished
    step: int = 0  # steps done in the epoch under way
    steps: int = 0  # steps done in all
    loss_sum: float = 0.0
    num_correct: float = 0
    num_images: int = 0
    seconds: float = 0.0  # spent in the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, network: Network, job: Job) -> State:
        lower_rate = job.recipe.transfer.lower_rate
        optimizer = build_optimizer(network, job.recipe.optimizer, job.lower, lower_rate)
        settings = job.recipe.schedule
        schedule = build_schedule(optimizer, settings, len(job.train), job.steps)
        plateau, average = build_plateau(optimizer, settings), Average(network, job.recipe.averaging)
        return cls(network, optimizer, schedule, plateau, average)

    @property
    def answering(self) -> Network:
        """What is validated, kept when it is the best, and answers: the average, if there is one."""
        return self.average.answering(self.network)

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
    per_step = len(job.train.indices) / len(job.train)
    with torch.random.fork_rng(), progress.track("Training", round(per_step * job.steps)) as moved:
        moved(round(per_step * state.steps))
        while state.steps < job.steps and not stops_early(state, job.recipe.regularization.early_stopping):
            started = time.monotonic() - state.seconds
            train_epoch(state, job, run, started, moved)
            row = finish_epoch(state, job, started)
            if state.best() == len(state.history) - 1:
                checkpoint.save_tensors(
                    run.file(WEIGHTS), state.answering.state_dict(), {"epoch": state.epoch}
                )
            run.write_history(state.history)
            save(state, run)
            job.log(row)
            progress.say(sentence(row, job.epochs))
    return state.history


def train_epoch(state: State, job: Job, run: Run, started: float, moved: progress.Step) -> None:
    """All steps of one epoch that are not done yet, or as many as are left."""
    state.network.train()
    saved = time.monotonic()
    ends = (
        cycle_ends(job.recipe.schedule, len(job.train), job.steps) if job.recipe.averaging.snapshots else []
    )
    for batch in job.train.epoch(state.epoch, start=state.step):
        train_step(state, batch, job)
        if state.steps in ends:
            place = run.snapshot(ends.index(state.steps) + 1)
            checkpoint.save_tensors(place, state.network.state_dict(), {"step": state.steps})
        moved(
            len(batch), loss=state.loss_sum / state.num_images, accuracy=state.num_correct / state.num_images
        )
        stopped, late = job.stopped(), time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
        if stopped or late:
            state.seconds = time.monotonic() - started
            save(state, run)
            saved = time.monotonic()
        if state.steps == job.steps:
            break
        if stopped:
            raise Interrupted(f"stopped in epoch {state.epoch + 1}; go on with --out {run.path} --resume.")


def train_step(state: State, batch: Batch, job: Job) -> None:
    """Forward, backward, update, count."""
    torch.manual_seed(key(job.seed, "noise", state.epoch, state.step))
    batch = mixed(batch, job.recipe.augment, job.seed, state.epoch, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    with memory.explained(batch, lambda part: gradient(state.network, part, job.recipe), kept(state)):
        value, logits = gradient(state.network, batch, job.recipe)
    if not math.isfinite(value):
        raise diverged(state, value)
    regularize(state.network, job.recipe, state.steps)
    state.optimizer.step()
    state.schedule.step()
    state.step, state.steps = state.step + 1, state.steps + 1
    state.average.after_step(state.network, state.steps)
    state.loss_sum += value * len(batch.labels)
    state.num_correct += num_correct(logits, batch)
    state.num_images += len(batch.labels)


def finish_epoch(state: State, job: Job, started: float) -> dict[str, Any]:
    """Measure on the validation part, add a row to the history, and begin to count anew."""
    rate = state.optimizer.param_groups[0]["lr"]
    training = {"loss": state.loss_sum / state.num_images, "accuracy": state.num_correct / state.num_images}
    spent = time.monotonic() - started
    state.average.after_epoch(state.network, state.steps / job.steps, images(job.train, state.epoch))
    row = {
        "epoch": state.epoch + 1,
        "learning_rate": rate,
        "train": training,
        "validation": validate(state, job.validation),
        "seconds": time.monotonic() - started,
        "images_per_second": state.num_images / max(spent, 1e-9),
    }
    state.history.append(row)
    if state.plateau:
        state.plateau.step(row["validation"]["loss"])
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


def images(stream: Stream, epoch: int) -> Iterator[Tensor]:
    """The inputs of an epoch, without their labels."""
    for batch in stream.epoch(epoch):
        yield batch.images


def validate(state: State, batches: Stream) -> dict[str, float]:
    """Loss (nats) and accuracy of what would answer now."""
    logits = torch.from_numpy(answer(state.answering, batches))
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
    return TrainingError(
        f"the loss became {value} in epoch {state.epoch + 1}, step {state.step + 1}, "
        f"at learning rate {rate:.3g}. "
        f"{kept(state)} Try a third of the rate (--set optimizer.learning_rate=…), "
        "a longer schedule.warmup_epochs, or optimizer.clip=1.0."
    )


def kept(state: State) -> str:
    """What a failure leaves."""
    best = state.best()
    return f"The weights of epoch {best + 1} are kept." if best is not None else "No epoch was finished."


def save(state: State, run: Run) -> None:
    """Write the state into `resume/`, atomically."""
    optimizer, groups = checkpoint.optimizer_tensors(state.optimizer)
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.tensors().items()}
    counters = {name: getattr(state, name) for name in COUNTERS}
    facts = {"groups": groups, "schedule": schedule_state(state.schedule), **counters}
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
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "average": {}}
    for full_name, tensor in tensors.items():
        part, _, name = full_name.partition(".")
        parts[part][name] = tensor
    checkpoint.fill(state.network, parts["network"], path)
    for row in facts["history"]:
        if state.plateau:
            state.plateau.step(row["validation"]["loss"])
    checkpoint.fill_optimizer(state.optimizer, parts["optimizer"], facts["groups"])
    state.average.fill(parts["average"])
    state.schedule.load_state_dict(copy.deepcopy(facts["schedule"]))
    for name in COUNTERS:
        setattr(state, name, facts[name])


COUNTERS = ("epoch", "step", "steps", "loss_sum", "num_correct", "num_images", "seconds", "history")
