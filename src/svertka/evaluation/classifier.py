"""Classifier: a trained network with everything it needs to answer for any image, as it did in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from svertka import progress
from svertka.engine import Engine
from svertka.errors import ImageError, RunError
from svertka.evaluation.calibration import probabilities
from svertka.evaluation.predict import answering
from svertka.images.decode import decode
from svertka.images.preprocess import Preprocess
from svertka.models.catalog import find
from svertka.models.network import Network
from svertka.runs.checkpoint import load_network
from svertka.runs.run import Run

Image = Path | NDArray[np.uint8]
BATCH = 64


@dataclass(frozen=True)
class Classifier:
    """Network, preprocessing, class names and temperature of one run; `macs` is the work of one image."""

    network: Network
    preprocess: Preprocess
    classes: tuple[str, ...]
    temperature: float
    device: str
    macs: float

    @classmethod
    def load(cls, run: Run, device: str = "cpu", weights: Path | None = None) -> Classifier:
        """The classifier of a finished run, with the weights that answer or those of a file.

        Raises:
            RunError: not finished, or a file is missing or damaged.
        """
        temperature = run.metrics["temperature"]
        if not isinstance(temperature, int | float) or temperature <= 0:
            raise RunError(f"{run.file('metrics.json')} is damaged: the temperature is {temperature!r}.")
        network, preprocess, row = (
            load_network(run, device, weights),
            run.preprocess,
            find(run.recipe.model.name),
        )
        macs = row.macs * (preprocess.size / row.input) ** 2
        return cls(network, preprocess, run.classes, float(temperature), device, macs)

    def engine(self, num_images: int) -> Engine:
        """What answers soonest for so many images: the network itself, or an engine that agrees with it."""
        shape = (self.preprocess.channels, self.preprocess.size, self.preprocess.size)
        return answering(self.network, shape, self.macs, num_images)

    def answers(
        self, images: Sequence[Image] | NDArray[np.uint8]
    ) -> Iterator[NDArray[np.float64] | ImageError]:
        """For each image, in order, its calibrated probabilities (k,), or why it could not be decoded."""
        engine = self.engine(len(images))
        with ThreadPoolExecutor(cpu_count()) as pool, progress.track("Predicting", len(images)) as step:
            for start in range(0, len(images), BATCH):
                group = images[start : start + BATCH]
                inputs = list(pool.map(self._input, group))
                good = [image for image in inputs if not isinstance(image, ImageError)]
                answered = iter(self._probabilities(engine, np.stack(good)) if good else ())
                for image in inputs:
                    yield image if isinstance(image, ImageError) else next(answered)
                step(len(group))

    def _input(self, image: Image) -> NDArray[np.float32] | ImageError:
        try:
            pixels = decode(image, at_least=self.preprocess.store_size) if isinstance(image, Path) else image
            return self.preprocess(pixels)
        except ImageError as error:
            return error

    def _probabilities(self, engine: Engine, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.inference_mode():
            logits = engine(torch.from_numpy(inputs).to(self.device)).float().cpu().numpy()
        return probabilities(logits, self.temperature)
