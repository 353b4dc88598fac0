"""Learning-rate schedules: torch's own, moved once a step, behind a linear warm-up.

`plateau` alone looks at how the training goes: it is moved once an epoch, and a resumed training replays it
over the history, so that no state of it is kept.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch.optim import lr_scheduler

from svertka.optimization import SCHEDULE_FIELDS, Schedule

WARMUP_START = 0.01
"""The warm-up begins at this share of the learning rate."""


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: Schedule, steps_per_epoch: int, steps: int
) -> lr_scheduler.LRScheduler:
    """A scheduler whose `step()` follows every optimizer step, for `steps` steps in all.

    The warm-up takes `warmup_epochs`, at most half of all steps; the named schedule takes what is left.
    """
    warmup = _warmup(settings, steps_per_epoch, steps)
    main = _main(optimizer, settings, max(steps - warmup, 1), steps_per_epoch)
    if warmup == 0:
        return main
    rise = lr_scheduler.LinearLR(optimizer, WARMUP_START, 1.0, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])


def build_plateau(
    optimizer: torch.optim.Optimizer, settings: Schedule
) -> lr_scheduler.ReduceLROnPlateau | None:
    """What drops the rate when the validation loss, handed to its `step` each epoch, stands still."""
    if settings.name != "plateau":
        return None
    return lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=settings.step_factor, patience=settings.patience, min_lr=0.0, eps=0.0
    )


def schedule_state(schedule: lr_scheduler.LRScheduler) -> dict[str, Any]:
    """What of a schedule changes, as JSON; `load_state_dict` of one built alike takes it.

    The milestones of `multi_step` stay out: they are settings, and JSON would make text of their numbers.
    """
    state = schedule.state_dict()
    for part in (state, *state.get("_schedulers", [])):
        part.pop("milestones", None)
    return state


def cycle_ends(settings: Schedule, steps_per_epoch: int, steps: int) -> list[int]:
    """After how many steps each cycle ends; the last one with the training. No cycles: none."""
    if settings.name not in SCHEDULE_FIELDS["cycles"]:
        return []
    warmup = _warmup(settings, steps_per_epoch, steps)
    first = _first_cycle(settings, steps - warmup)
    ends: list[int] = []
    length, end = first, float(warmup)
    growth = settings.cycle_growth if settings.name == "cosine_restarts" else 1
    while len(ends) < settings.cycles:
        end += length
        length *= growth
        ends.append(min(round(end), steps))
    return sorted(set(ends) - {0})


def _warmup(settings: Schedule, steps_per_epoch: int, steps: int) -> int:
    if settings.name not in SCHEDULE_FIELDS["warmup_epochs"]:
        return 0  # these rise by themselves
    return min(round(settings.warmup_epochs * steps_per_epoch), steps // 2)


def _first_cycle(settings: Schedule, steps: int) -> float:
    """Steps of the first cycle; torch's warm restarts want a whole number."""
    if settings.name == "cyclic":
        return steps / settings.cycles
    growths = [float(settings.cycle_growth) ** cycle for cycle in range(settings.cycles)]
    return max(1, ceil(steps / sum(growths)))


def _main(
    optimizer: torch.optim.Optimizer, settings: Schedule, steps: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    match settings.name:
        case "step":
            every = settings.step_epochs * steps_per_epoch
            return lr_scheduler.StepLR(optimizer, every, settings.step_factor)
        case "multi_step":
            drops = [round(share * steps) for share in settings.milestones]
            return lr_scheduler.MultiStepLR(optimizer, drops, settings.step_factor)
        case "exponential":
            return lr_scheduler.ExponentialLR(optimizer, settings.epoch_factor ** (1 / steps_per_epoch))
        case "linear":
            return lr_scheduler.LinearLR(optimizer, 1.0, settings.low_factor, total_iters=steps)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case "cosine_restarts":
            first = int(_first_cycle(settings, steps))
            return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, settings.cycle_growth)
        case "cyclic":
            length = _first_cycle(settings, steps)
            bottoms = [rate * settings.low_factor for rate in rates]
            up, down = settings.rise * length, (1 - settings.rise) * length
            return lr_scheduler.CyclicLR(optimizer, bottoms, rates, up, down, cycle_momentum=False)  # type: ignore[arg-type]
        case "one_cycle":
            whole = max(steps, 2)
            rise = max(settings.rise, min(2 / whole, 0.9))  # torch divides by rise * whole - 1
            return lr_scheduler.OneCycleLR(optimizer, rates, whole, pct_start=rise, cycle_momentum=False)
        case _:
            return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
