"""Optimization: the settings of a recipe that say how the weights move.

Four groups: the optimizer, the schedule of its learning rate, the regularization of what it follows, and the
averaging of where it has been. A setting belongs to some names only; beside others it is refused.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from svertka.settings import Auto, Settings

OPTIMIZER_FIELDS = {
    "momentum": ("sgd", "rmsprop", "muon"),
    "nesterov": ("sgd", "muon"),
    "beta1": ("adam", "adamw", "muon"),
    "beta2": ("adam", "adamw", "muon"),
    "smoothing": ("rmsprop",),
    "epsilon": ("adagrad", "rmsprop", "adam", "adamw", "muon"),
    "rest_learning_rate": ("muon",),
}
SCHEDULE_FIELDS = {
    "warmup_epochs": (
        "constant", "step", "multi_step", "exponential", "linear", "cosine", "cosine_restarts", "plateau",
    ),
    "step_epochs": ("step",),
    "step_factor": ("step", "multi_step", "plateau"),
    "milestones": ("multi_step",),
    "epoch_factor": ("exponential",),
    "low_factor": ("linear", "cyclic"),
    "cycles": ("cosine_restarts", "cyclic"),
    "cycle_growth": ("cosine_restarts",),
    "rise": ("cyclic", "one_cycle"),
    "patience": ("plateau",),
}  # fmt: skip
AVERAGING_FIELDS = {
    "decay": ("ema",),
    "start": ("swa",),
    "sync_steps": ("lookahead",),
    "slow_rate": ("lookahead",),
}
"""Which names each setting acts for."""


class Optimizer(Settings):
    """How gradients move the weights."""

    name: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw", "muon"] = Field(
        "sgd", description="sgd (with momentum), adagrad, rmsprop, adam, adamw, or muon (AdamW for the rest)"
    )
    learning_rate: float = Field(0.05, gt=0, le=100, description="peak of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd, rmsprop and muon; 0: plain")
    nesterov: bool = Field(True, description="Nesterov's form of the momentum of sgd and muon")
    beta1: float = Field(0.9, ge=0, lt=1, description="of adam, adamw, muon's rest: share kept of the mean")
    beta2: float = Field(0.999, ge=0, lt=1, description="the same of the mean square")
    smoothing: float = Field(0.99, ge=0, lt=1, description="of rmsprop: share kept of the mean square")
    epsilon: float = Field(1e-8, gt=0, le=1, description="added to the root that the adaptive ones divide by")
    rest_learning_rate: float = Field(
        1e-3, gt=0, le=100, description="of muon: AdamW's, for norms, biases and the last layer"
    )
    weight_decay: float = Field(
        5e-4, ge=0, le=1, description="L2 (decoupled for adamw, muon); norms and biases are spared"
    )
    batch_size: int = Field(128, ge=1, le=65536, description="images a step")
    accumulate: int = Field(
        1, ge=1, le=4096, description="pieces a batch is cut into, their gradients added: less memory"
    )
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: off")

    @model_validator(mode="after")
    def _acts(self) -> Optimizer:
        self.refuse_idle("the optimizer", OPTIMIZER_FIELDS)
        if self.name in ("sgd", "muon") and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; set nesterov = false or a momentum")
        if self.accumulate > 1 and 2 * self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate cuts {self.batch_size} images into {self.accumulate} pieces, and a piece needs "
                f"2 images; at most {max(1, self.batch_size // 2)}"
            )
        return self


class Schedule(Settings):
    """How long, and how the learning rate goes."""

    name: Literal[
        "constant", "step", "multi_step", "exponential", "linear", "cosine", "cosine_restarts", "cyclic",
        "one_cycle", "plateau",
    ] = Field("cosine", description="after the warm-up; `train --plot-schedule FILE` draws it")  # fmt: skip
    epochs: Annotated[int, Field(ge=1, le=100_000)] | Auto = Field(
        "auto", description="passes over the training part; auto: what fits budget.minutes on this machine"
    )
    warmup_epochs: float = Field(
        1.0, ge=0, description="linear rise from near 0; at most half of all (cyclic, one_cycle: see rise)"
    )
    step_epochs: int = Field(30, ge=1, description="of step: epochs between two drops")
    step_factor: float = Field(
        0.1, gt=0, lt=1, description="of step, multi_step, plateau: what a drop leaves"
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), min_length=1, description="of multi_step: drops, as shares of the time after warm-up"
    )
    epoch_factor: float = Field(0.95, gt=0, lt=1, description="of exponential: what each epoch leaves")
    low_factor: float = Field(
        0.01, ge=0, lt=1, description="of linear: the end, of cyclic: the bottom, as a share of the rate"
    )
    cycles: int = Field(3, ge=1, le=1000, description="of cosine_restarts and cyclic")
    cycle_growth: int = Field(1, ge=1, le=10, description="of cosine_restarts: each is so many times longer")
    rise: float = Field(0.3, gt=0, lt=1, description="of one_cycle, cyclic: share of a cycle that rises")
    patience: int = Field(3, ge=0, description="of plateau: epochs without a lower loss before a drop")

    @model_validator(mode="after")
    def _acts(self) -> Schedule:
        self.refuse_idle("the schedule", SCHEDULE_FIELDS)
        if any(first >= second for first, second in pairwise(self.milestones)):
            raise ValueError(f"milestones rise from one to the next, got {list(self.milestones)}")
        return self


class Regularization(Settings):
    """What keeps a network from learning its training set by heart."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    early_stopping: int = Field(0, ge=0, description="stop after so many epochs without a gain; 0: off")
    l1: float = Field(
        0.0, ge=0, le=1, description="times the sum of |w|; norms and biases are spared; 0: off"
    )
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="chance to leave out the last residual block, less before; auto: the model's own"
    )
    gradient_noise: float = Field(
        0.0, ge=0, le=100, description="variance of noise on gradients at step 0, falling with (1 + t)^0.55"
    )
    weight_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="noise on weights in each step, as a share of each tensor's root mean square",
    )


class Averaging(Settings):
    """Which weights are validated and answer, when not simply the last ones."""

    name: Literal["none", "ema", "swa", "lookahead"] = Field(
        "none", description="of all steps (ema), of late epochs (swa), every few steps and back (lookahead)"
    )
    decay: float = Field(0.99, ge=0, lt=1, description="of ema: share kept at each step")
    start: float = Field(
        0.75, ge=0, lt=1, description="of swa: share of the training before the first average"
    )
    sync_steps: int = Field(5, ge=1, description="of lookahead: fast steps between two slow ones")
    slow_rate: float = Field(
        0.5, gt=0, lt=1, description="of lookahead: share of the way that a slow step goes"
    )
    snapshots: bool = Field(
        False, description="keep the weights at each end of a cycle, for `evaluate --snapshots`"
    )

    @model_validator(mode="after")
    def _acts(self) -> Averaging:
        self.refuse_idle("the averaging", AVERAGING_FIELDS)
        return self
