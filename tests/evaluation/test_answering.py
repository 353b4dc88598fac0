"""What answers: the network itself for little work, an engine that agrees with it for much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import svertka
from svertka.data.batches import Batches
from svertka.data.items import from_arrays
from svertka.data.store import open_pixels
from svertka.engine import choose, engine
from svertka.evaluation import predict
from svertka.images.preprocess import Preprocess
from svertka.models.catalog import build

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def bars() -> svertka.Dataset:
    """60 noisy images: a bright bar that stands or lies."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 150, (60, 32, 32), dtype=np.uint8)
    images[::2, :, 14:18] = 250
    images[1::2, 14:18] = 250
    return from_arrays(images, np.arange(60) % 2, classes=["stands", "lies"], name="bars")


@pytest.fixture
def batches(bars: svertka.Dataset) -> Batches:
    preprocess = Preprocess(
        channels=3, size=32, store_size=32, normalization="channel_mean_std",
        statistics={"mean": (0.4,) * 3, "std": (0.2,) * 3},
    )  # fmt: skip
    return Batches(open_pixels(bars, preprocess), bars.labels, np.arange(60), preprocess, batch_size=25)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes for which an engine is chosen; ONNX Runtime always wins, so nothing depends on time."""
    found: list[int] = []
    original = predict.fastest

    def fastest(*given: Any, batch_size: int) -> Any:
        found.append(batch_size)
        return original(*given, batch_size=batch_size)

    def race(engines: dict[str, Any], images: torch.Tensor) -> dict[str, float]:
        return {name: 1.0 if name == "onnxruntime" else 2.0 for name in engines}

    monkeypatch.setattr(predict, "fastest", fastest)
    monkeypatch.setattr(choose, "_race", race)
    return found


def test_little_work_is_done_by_the_network_itself(batches: Batches, asked: list[int]) -> None:
    network = build("resnet20", classes=2).eval()
    chosen = predict.answering(network, SHAPE, macs=41e6, num_images=4_000)  # 5.5 s at 30 GMAC/s
    assert chosen.name == "eager"
    assert not asked
    np.testing.assert_array_equal(predict.answer(chosen, batches), predict.answer(network, batches))


def test_much_work_is_done_by_an_engine_that_agrees(batches: Batches, asked: list[int]) -> None:
    network = build("resnet20", classes=2).eval()
    chosen = predict.answering(network, SHAPE, macs=41e6, num_images=5_000)
    assert chosen.name == "onnxruntime"
    assert asked == [predict.BATCH]
    wanted = predict.answer(network, batches)
    np.testing.assert_allclose(predict.answer(chosen, batches), wanted, atol=1e-4 * np.abs(wanted).max())


def test_an_engine_that_disagrees_is_not_chosen(monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    monkeypatch.setattr(choose, "disagreement", lambda outputs, reference: 1e-3)
    network = build("resnet20", classes=2, seed=1).eval()
    chosen = predict.answering(network, SHAPE, macs=41e6, num_images=5_000)
    assert chosen.name == "eager"
    assert set(chosen.refused) == {"channels_last", "onnxruntime"}


def test_a_network_keeps_its_mode_and_an_engine_has_none(batches: Batches) -> None:
    network = build("resnet20", classes=2).train()
    in_training = predict.answer(network, batches)
    assert network.training
    network.eval()
    np.testing.assert_array_equal(in_training, predict.answer(engine(network, "eager", SHAPE), batches))


def test_verbs_answer_alike_by_either(
    bars: svertka.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    run = svertka.train(bars, model="resnet20", epochs=1, out=tmp_path / "run", device="cpu")["run"]
    itself = svertka.evaluate(run, bars)
    assert not asked
    monkeypatch.setattr(predict, "SECONDS_TO_CHOOSE", 0.0)
    by_engine = svertka.evaluate(run, bars)
    assert len(asked) == 1
    assert by_engine["accuracy"] == itself["accuracy"]
    assert by_engine["log_loss"] == pytest.approx(itself["log_loss"], rel=1e-3)
    assert by_engine["log_loss"] != itself["log_loss"]  # so it was another engine that computed it
