"""The rate finder: what it leaves alone, and that its curve is that of plain PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import svertka
from svertka.api import preview
from svertka.data.items import from_arrays
from svertka.errors import OptionError, TrainingError
from svertka.recipe import Recipe
from svertka.training.rate_finder import HIGHEST, LOWEST, STEPS, RateCurve, find_rate
from svertka.training.session import prepare

SMALL = ["data.size=16", "data.channels=1", "data.interpolation=bilinear", "data.store_size=16",
         "data.normalization=channel_mean_std", "model.name=resnet20", "model.weights=none",
         "optimizer.batch_size=16", "augment.flip=true", "model.dropout=0.3"]  # fmt: skip


@pytest.fixture
def bars() -> svertka.Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, (96, 16, 16), dtype=np.uint8)
    for number, image in enumerate(images):
        image[:, 5 * (number % 3) : 5 * (number % 3) + 5] += 60
    return from_arrays(images, [["a", "b", "c"][number % 3] for number in range(96)], name="bars")


def test_nothing_is_touched(bars: svertka.Dataset) -> None:
    """Weights, statistics, gradients, mode, order of the data and random state: bit for bit."""
    made = prepare(bars, Recipe().set(SMALL), 3, "cpu")
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    first = [batch.images.clone() for batch in made.train.epoch(0)]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    find_rate(made.network, made.recipe, made.train, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.network.state_dict().items())
    assert all(parameter.grad is None for parameter in made.network.parameters())
    assert made.network.training
    assert all(torch.equal(a, b.images) for a, b in zip(first, made.train.epoch(0), strict=True))


def test_the_curve_is_that_of_plain_pytorch(bars: svertka.Dataset) -> None:
    settings = [*SMALL, "model.dropout=0", "optimizer.momentum=0", "optimizer.nesterov=false"]
    made = prepare(bars, Recipe().set([*settings, "optimizer.weight_decay=0"]), 3, "cpu")
    net = copy.deepcopy(made.network)
    curve = find_rate(made.network, made.recipe, made.train, 3)
    batches = [batch for epoch in range(STEPS) for batch in made.train.epoch(epoch)][:30]
    for number, batch in enumerate(batches):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        assert curve.rates[number] == pytest.approx(rate)
        loss = F.cross_entropy(net(batch.images), batch.labels)
        assert curve.losses[number] == pytest.approx(loss.item(), rel=1e-4)
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= rate * parameter.grad


def test_the_range_lies_below_the_lowest_loss(bars: svertka.Dataset) -> None:
    made = prepare(bars, Recipe().set(SMALL), 3, "cpu")
    curve = find_rate(made.network, made.recipe, made.train, 3)
    low, high = curve.range
    assert LOWEST < low <= high <= curve.turning
    assert curve.smoothed[curve.rates.index(curve.turning)] == min(curve.smoothed)
    assert curve.smoothed[0] == pytest.approx(curve.losses[0])


def test_a_loss_that_is_never_finite_is_an_error(bars: svertka.Dataset) -> None:
    made = prepare(bars, Recipe().set(SMALL), 3, "cpu")
    with torch.no_grad():
        made.network.stem[0].weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"not finite after 0 steps.*look at the"):
        find_rate(made.network, made.recipe, made.train, 3)


def options(**more: Any) -> dict[str, Any]:
    return {"model": "resnet20", "weights": "none", "settings": ["data.size=16"], "device": "cpu", **more}


def test_the_pictures_are_written(
    bars: svertka.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = preview.find_rate(bars, tmp_path / "rates.png", **options())
    assert found["recipe"] == 0.05
    assert found["range"][0] <= found["range"][1]
    planned = preview.plot_schedule(bars, tmp_path / "schedule.png", **options(epochs=4))
    assert planned["epochs"] == 4
    assert planned["parts"][0]["peak"] == pytest.approx(0.05)
    for name in ("rates.png", "schedule.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (960, 540)
    assert {path.name for path in tmp_path.iterdir()} == {"rates.png", "schedule.png"}
    with pytest.raises(OptionError, match=r"written as PNG; got the path rates\.txt"):
        preview.find_rate(bars, "rates.txt", **options())


def test_the_schedule_drawn_is_the_one_trained_with(bars: svertka.Dataset, tmp_path: Path) -> None:
    planned = preview.rates(Recipe().set(["schedule.name=linear"]), 5, 15)
    out = tmp_path / "run"
    made = options(epochs=3, settings=["data.size=16", "schedule.name=linear", "optimizer.batch_size=14"])
    svertka.train(bars, out=out, **made)
    history = svertka.Run.open(out).history
    assert len(planned) == 15
    assert [row["learning_rate"] for row in history[:2]] == pytest.approx([planned[5], planned[10]])


def test_looks_and_training_do_not_mix() -> None:
    with pytest.raises(OptionError, match=r"trains nothing, so --out, --resume would do nothing"):
        preview.refuse_beside(1, out=Path("x"), resume=True, tensorboard=False)
    with pytest.raises(OptionError, match=r"one look ahead at a time"):
        preview.refuse_beside(2)
    preview.refuse_beside(0, out=Path("x"))


def test_a_range_is_never_upside_down() -> None:
    curve = RateCurve([0.1, 0.2], [1.0, 0.5], [1.0, 0.5], steepest=0.1, turning=0.2)
    assert curve.range == (0.1, 0.1)
