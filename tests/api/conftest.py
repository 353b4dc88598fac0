"""Three kinds of noisy bars as files, and two small runs trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import svertka

NAMES = ("left", "middle", "right")
SETTINGS = ["data.size=16", "optimizer.batch_size=24", "augment.pad_crop=1"]


def bar(label: int, generator: np.random.Generator) -> np.ndarray:
    """A grey image (16, 16) with a bright bar in its left, middle or right third."""
    image = generator.integers(0, 120, (16, 16), dtype=np.uint8)
    image[:, 5 * label : 5 * label + 5] += 40
    return image


def write_bars(folder: Path, number: int, seed: int, names: tuple[str, ...] = NAMES) -> Path:
    """`number` PNG files for each of the names."""
    generator = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(number):
            image = Image.fromarray(bar(NAMES.index(name), generator))
            image.save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 40 images each."""
    return write_bars(tmp_path_factory.mktemp("bars") / "bars", 40, seed=1)


@pytest.fixture(scope="session")
def runs(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished runs on `bars`, with different seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, model in ((1, "linear"), (2, "resnet20")):
        svertka.train(
            bars, model=model, epochs=2, settings=SETTINGS, seed=seed, out=folder / model, device="cpu"
        )
    return folder / "linear", folder / "resnet20"


@pytest.fixture(name="write_bars")
def _write_bars() -> Callable[..., Path]:
    return write_bars
