"""Transfer end to end on tiny images: stored features, every rung, resume, damaged stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import svertka
from svertka.augmentation import Augment
from svertka.data.batches import Batches
from svertka.data.items import from_arrays
from svertka.data.store import open_pixels
from svertka.engine.kinds import engine
from svertka.errors import OptionError
from svertka.evaluation.compare import paired_gain
from svertka.evaluation.predict import answer
from svertka.images.preprocess import Preprocess
from svertka.models.catalog import build
from svertka.models.freezing import cut
from svertka.training import trainer
from svertka.transfer import features as features_module
from svertka.transfer.features import FeatureBatches, Source, open_view

ITEMS = np.arange(90)


@pytest.fixture
def shapes_data():
    """90 noisy grey images of 32 px: a bright bar that stands, lies, or is absent."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 90, (90, 32, 32), dtype=np.uint8)
    labels = np.arange(90) % 3
    for image, label in zip(images, labels, strict=True):
        place = generator.integers(6, 24)
        if label == 0:
            image[:, place : place + 3] += 120
        elif label == 1:
            image[place : place + 3] += 120
    return from_arrays(images, labels, classes=["stands", "lies", "none"], name="bars")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    network = build("resnet20", classes=5, in_channels=3, seed=1)
    save_file(network.state_dict(), tmp_path / "pretrained.safetensors")
    return tmp_path / "pretrained.safetensors"


def source(data, **changes: Any) -> Source:
    preprocess = Preprocess(
        channels=3, size=32, store_size=32, normalization="channel_mean_std",
        statistics={"mean": (0.4,) * 3, "std": (0.2,) * 3},
    )  # fmt: skip
    trunk, _ = cut(build("resnet20", classes=3, seed=changes.pop("weights_seed", 1)).eval(), "all")
    values = {
        "dataset": data, "pixels": open_pixels(data, preprocess), "preprocess": preprocess, "trunk": trunk,
        "engine": engine(trunk, "eager", (3, 32, 32)), "augment": Augment(pad_crop=2, flip=True), "seed": 0,
        "precision": "float32",
    }  # fmt: skip
    return Source(**{**values, **changes})


def test_features_are_what_the_trunk_says(shapes_data) -> None:
    made = source(shapes_data)
    view = open_view(made, ITEMS, 0)
    batches = Batches(made.pixels, shapes_data.labels, ITEMS, made.preprocess, batch_size=32)
    np.testing.assert_array_equal(view.of(ITEMS), answer(made.trunk, batches))


def test_views_depend_on_seed_content_and_number_alone(shapes_data) -> None:
    made = source(shapes_data)
    first, second = open_view(made, ITEMS, 1), open_view(made, ITEMS, 2)
    assert np.abs(first.of(ITEMS) - second.of(ITEMS)).max() > 1e-3
    some = np.array([7, 3])
    np.testing.assert_allclose(open_view(made, some, 1).of(some), first.of(some), rtol=1e-4, atol=1e-5)
    other_seed = open_view(source(shapes_data, seed=1), ITEMS, 1)
    assert np.abs(first.of(ITEMS) - other_seed.of(ITEMS)).max() > 1e-3
    still, other_still = open_view(made, ITEMS, 0), open_view(source(shapes_data, seed=1), ITEMS, 0)
    assert other_still.reused
    np.testing.assert_array_equal(still.of(ITEMS), other_still.of(ITEMS))


def test_nothing_stale_is_found(shapes_data) -> None:
    first = open_view(source(shapes_data), ITEMS, 0)
    assert open_view(source(shapes_data), ITEMS, 0).reused
    changed = open_view(source(shapes_data, weights_seed=2), ITEMS, 0)
    assert not changed.reused
    assert np.abs(first.of(ITEMS) - changed.of(ITEMS)).max() > 1e-3
    images = np.array(shapes_data.images)
    images[0] = 255 - images[0]
    names = list(shapes_data.classes)
    other = from_arrays(images, shapes_data.labels, classes=names, name="bars")
    assert np.abs(open_view(source(other), ITEMS, 0).of(ITEMS[:1]) - first.of(ITEMS[:1])).max() > 1e-3


def test_a_killed_pass_goes_on_where_it_stopped(shapes_data, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    calls = 0
    whole = open_view(source(shapes_data, seed=11), ITEMS, 1).of(ITEMS)
    svertka.cache(clear=True)
    made = source(shapes_data, seed=11)

    def dying(batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        return made.engine(batch)

    monkeypatch.setattr(features_module, "FLUSH_CHUNKS", 1)
    broken = source(shapes_data, seed=11, engine=_named(dying))
    with pytest.raises(Killed):
        open_view(broken, ITEMS, 1)
    calls = 10
    resumed = open_view(source(shapes_data, seed=11, engine=_named(dying)), ITEMS, 1)
    assert calls == 11  # one chunk was left: the other two were not computed again
    np.testing.assert_array_equal(resumed.of(ITEMS), whole)


def _named(run: Any) -> Any:
    class Fake:
        name = "eager"

        def __call__(self, batch: torch.Tensor) -> torch.Tensor:
            return run(batch)

    return Fake()


def test_a_damaged_store_is_computed_again(shapes_data) -> None:
    made = source(shapes_data, seed=5)
    view = open_view(made, ITEMS, 1)
    whole, file = view.of(ITEMS), Path(view.values.filename)
    del view
    content = bytearray(file.read_bytes())
    content[100] ^= 255
    file.write_bytes(content)
    again = open_view(made, ITEMS, 1)
    assert not again.reused
    np.testing.assert_array_equal(again.of(ITEMS), whole)


def test_feature_batches_show_view_after_view_and_resume(shapes_data) -> None:
    made = source(shapes_data)
    views = [open_view(made, ITEMS, number) for number in (1, 2)]
    stream = FeatureBatches(views, shapes_data.labels, ITEMS, batch_size=32, seed=3, shuffle=True)
    for epoch in (0, 1, 2):
        batch = next(stream.epoch(epoch))
        np.testing.assert_array_equal(batch.images.numpy(), views[epoch % 2].of(batch.indices.numpy()))
    tail = list(stream.epoch(4))[2:]
    for expected, found in zip(tail, stream.epoch(4, start=2), strict=True):
        np.testing.assert_array_equal(expected.images.numpy(), found.images.numpy())


def test_paired_gain_by_hand() -> None:
    labels = np.zeros(8, dtype=np.int64)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    before = np.array([right] * 4 + [wrong] * 4, dtype=np.float32)
    after = np.array([right] * 3 + [wrong] + [right] * 3 + [wrong], dtype=np.float32)
    gain, low, high = paired_gain(before, after, labels)
    assert gain == pytest.approx(0.25)  # three mended, one broken, of eight
    deviation = np.std([0, 0, 0, -1, 1, 1, 1, 0])
    assert high - gain == pytest.approx(1.96 * deviation / np.sqrt(8))
    assert gain - low == pytest.approx(high - gain)


def test_every_rung_trains_and_resumes(shapes_data, weights: Path, tmp_path: Path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    arguments: dict[str, Any] = {
        "model": "resnet20", "weights": str(weights), "device": "cpu", "seed": 2,
        "settings": ["transfer.rung=full", "transfer.views=2", "budget.minutes=0.4", "augment.pad_crop=2",
                     "data.size=32"],
    }  # fmt: skip
    original = trainer.train_epoch
    epochs = 0

    def die_late(*given: Any) -> None:
        nonlocal epochs
        epochs += 1
        if epochs == 4:
            raise Killed
        original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_epoch", die_late)
        with pytest.raises(Killed):
            svertka.train(shapes_data, out=tmp_path / "run", **arguments)
    result = svertka.train(shapes_data, out=tmp_path / "run", resume=True)
    run = svertka.Run.open(result["run"])
    assert {row["rung"] for row in run.history} == {"head", "stages", "full"}
    assert result["test"]["accuracy"]["value"] > 0.5
    assert svertka.evaluate(result["run"], shapes_data)["accuracy"] == result["test"]["accuracy"]


def test_transfer_settings_without_weights_are_refused(shapes_data, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"transfer do nothing without model\.weights"):
        svertka.train(shapes_data, weights="none", settings=["transfer.rung=head"], out=tmp_path / "run")
