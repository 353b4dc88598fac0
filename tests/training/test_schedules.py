"""Schedules against their closed forms, and through a save and a load."""

import json
import math

import pytest
import torch
from torch import nn

from svertka import optimization as recipe
from svertka.training.schedules import WARMUP_START, build_plateau, build_schedule, cycle_ends, schedule_state

PEAK = 0.4


def rates(settings: recipe.Schedule, steps_per_epoch: int, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = build_schedule(optimizer, settings, steps_per_epoch, steps_per_epoch * epochs)
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


NAMES = recipe.Schedule.model_fields["name"].annotation.__args__


def test_multi_step() -> None:
    """Drops at half and three quarters of what the warm-up leaves."""
    settings = recipe.Schedule(name="multi_step", warmup_epochs=1, milestones=(0.5, 0.75), step_factor=0.2)
    found = rates(settings, steps_per_epoch=4, epochs=5)
    expected = [warmup(step, 4) for step in range(4)] + [PEAK] * 8 + [PEAK * 0.2] * 4 + [PEAK * 0.04] * 4
    assert found == pytest.approx(expected)


def test_exponential() -> None:
    found = rates(recipe.Schedule(name="exponential", warmup_epochs=0, epoch_factor=0.5), 4, 3)
    assert found == pytest.approx([PEAK * 0.5 ** (step / 4) for step in range(12)])


def test_linear() -> None:
    found = rates(recipe.Schedule(name="linear", warmup_epochs=0, low_factor=0.1), 5, 2)
    assert found == pytest.approx([PEAK * (1 - 0.9 * step / 10) for step in range(10)])


def test_warm_restarts() -> None:
    """Loshchilov & Hutter 2017, equation 5: cycles of 4 and 8 steps, each from the top."""
    settings = recipe.Schedule(name="cosine_restarts", warmup_epochs=0, cycles=2, cycle_growth=2)
    found = rates(settings, 3, 4)
    assert found == pytest.approx(
        [PEAK * (1 + math.cos(math.pi * t / n)) / 2 for n in (4, 8) for t in range(n)]
    )
    assert cycle_ends(settings, 3, 12) == [4, 12]


def test_cyclic() -> None:
    """Smith 2017: straight up and down between two rates; two cycles of 10 steps, 4 of them rising."""
    settings = recipe.Schedule(name="cyclic", cycles=2, rise=0.4, low_factor=0.1)
    found = rates(settings, 5, 4)
    low = 0.1 * PEAK
    cycle = [low + (PEAK - low) * t / 4 for t in range(4)] + [PEAK - (PEAK - low) * t / 6 for t in range(6)]
    assert found == pytest.approx(cycle * 2)
    assert cycle_ends(settings, 5, 20) == [10, 20]


def test_one_cycle_is_that_of_torch() -> None:
    found = rates(recipe.Schedule(name="one_cycle", rise=0.4), 5, 4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, 20, pct_start=0.4, cycle_momentum=False)
    for rate in found:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert max(found) == pytest.approx(PEAK)


def test_plateau_drops_after_patience_and_keeps_the_drop() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    settings = recipe.Schedule(name="plateau", warmup_epochs=0, patience=1, step_factor=0.5)
    schedule, plateau = build_schedule(optimizer, settings, 2, 12), build_plateau(optimizer, settings)
    found = []
    for value in (1.0, 0.5, 0.6, 0.6, 0.4, 0.4):
        for _ in range(2):
            optimizer.step()
            schedule.step()
        plateau.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([PEAK, PEAK, PEAK, PEAK / 2, PEAK / 2, PEAK / 2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_schedule_goes_for_any_length(name: str, steps: int) -> None:
    """Rates stay in (0, peak], also for runs shorter than an epoch, a cycle or a warm-up."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = build_schedule(optimizer, recipe.Schedule(name=name), 5, steps)
    for _ in range(steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= PEAK * (1 + 1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_schedule_goes_on_bitwise(name: str) -> None:
    def fresh() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
        return optimizer, build_schedule(optimizer, recipe.Schedule(name=name, warmup_epochs=1), 4, 24)

    optimizer, schedule = fresh()
    for _ in range(9):
        optimizer.step()
        schedule.step()
    state, group = json.loads(json.dumps(schedule_state(schedule))), dict(optimizer.param_groups[0])
    other, loaded = fresh()
    other.param_groups[0]["lr"] = group["lr"]
    loaded.load_state_dict(state)
    for _ in range(15):
        for optimizer_, schedule_ in ((optimizer, schedule), (other, loaded)):
            optimizer_.step()
            schedule_.step()
        assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"]
