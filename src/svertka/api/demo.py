"""The verb `demo`: the first minute, on images that are always there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svertka.api.train import train
from svertka.augmentation import Augment
from svertka.optimization import Optimizer, Schedule
from svertka.recipe import Data, Model, Recipe


def demo(*, out: str | Path | None = None, resume: bool = False, device: str = "auto") -> dict[str, Any]:
    """Train LeNet-5 on scikit-learn's 1,797 digits and measure it; answers as `train`."""
    recipe = Recipe(
        data=Data(size=32, channels=1),
        augment=Augment(pad_crop=2),
        model=Model(name="lenet5", weights="none", norm="batch"),
        optimizer=Optimizer(batch_size=32, learning_rate=0.03),
        schedule=Schedule(epochs=20),
    )
    return train("digits", recipe=recipe, out=out, resume=resume, device=device)
