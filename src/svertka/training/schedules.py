"""Learning-rate schedules: torch's own, moved once a step, behind a linear warm-up."""

from __future__ import annotations

import torch
from torch.optim import lr_scheduler

from svertka import recipe

WARMUP_START = 0.01
"""The warm-up begins at this share of the learning rate."""


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: recipe.Schedule, steps_per_epoch: int, epochs: int
) -> lr_scheduler.LRScheduler:
    """A scheduler whose `step()` follows every optimizer step, for `epochs * steps_per_epoch` steps.

    The warm-up takes `warmup_epochs`, at most half of all steps; the named schedule takes what is left.
    """
    steps = epochs * steps_per_epoch
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), steps // 2)
    main = _main(optimizer, settings, steps - warmup, steps_per_epoch)
    if warmup == 0:
        return main
    rise = lr_scheduler.LinearLR(optimizer, WARMUP_START, 1.0, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])


def _main(
    optimizer: torch.optim.Optimizer, settings: recipe.Schedule, steps: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    if settings.name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps, 1))
    if settings.name == "step":
        return lr_scheduler.StepLR(optimizer, settings.step_epochs * steps_per_epoch, settings.step_factor)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
