"""Schedules against their closed forms, and through a save and a load."""

import json
import math

import pytest
import torch
from torch import nn

from svertka import recipe
from svertka.training.schedules import WARMUP_START, build_schedule

PEAK = 0.4


def rates(settings: recipe.Schedule, steps_per_epoch: int, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = build_schedule(optimizer, settings, steps_per_epoch, epochs)
    found = []
    for _ in range(steps_per_epoch * epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def warmup(step: int, steps: int) -> float:
    return PEAK * (WARMUP_START + (1 - WARMUP_START) * step / steps)


def test_cosine_after_a_warmup() -> None:
    found = rates(recipe.Schedule(name="cosine", warmup_epochs=2), steps_per_epoch=5, epochs=8)
    expected = [warmup(step, 10) for step in range(10)]
    expected += [PEAK * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_constant() -> None:
    found = rates(recipe.Schedule(name="constant", warmup_epochs=0.5), steps_per_epoch=4, epochs=3)
    assert found == pytest.approx([warmup(0, 2), warmup(1, 2)] + [PEAK] * 10)


def test_step() -> None:
    settings = recipe.Schedule(name="step", warmup_epochs=0, step_epochs=2, step_factor=0.1)
    found = rates(settings, steps_per_epoch=3, epochs=5)
    assert found == pytest.approx([PEAK] * 6 + [PEAK / 10] * 6 + [PEAK / 100] * 3)


def test_the_warmup_takes_at_most_half() -> None:
    found = rates(recipe.Schedule(warmup_epochs=50), steps_per_epoch=2, epochs=4)
    assert found[4] == pytest.approx(PEAK)
    assert found[7] < PEAK


@pytest.mark.parametrize("name", ["cosine", "constant", "step"])
def test_a_loaded_schedule_goes_on_bitwise(name: str) -> None:
    def fresh() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
        return optimizer, build_schedule(optimizer, recipe.Schedule(name=name, warmup_epochs=1), 4, 6)

    optimizer, schedule = fresh()
    for _ in range(9):
        optimizer.step()
        schedule.step()
    state, group = json.loads(json.dumps(schedule.state_dict())), dict(optimizer.param_groups[0])
    other, loaded = fresh()
    other.param_groups[0]["lr"] = group["lr"]
    loaded.load_state_dict(state)
    for _ in range(15):
        for optimizer_, schedule_ in ((optimizer, schedule), (other, loaded)):
            optimizer_.step()
            schedule_.step()
        assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"]
