"""What the automatic choices rest on: a look at some images, spread evenly over the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svertka.data.dataset import PARTS, Dataset
from svertka.errors import DataError, ImageError
from svertka.images.decode import decode, is_grey, read_size

MOST = 64
SIDE_FOR_COLOUR = 32  # px: enough to see whether there is colour


@dataclass(frozen=True)
class Survey:
    """What decides the settings that were left open.

    Attributes:
        median_side: short side in px.
        grey: whether every image looked at is.
        for_training: images that are not declared as another part, and whether any part is declared.
    """

    median_side: int
    grey: bool
    for_training: tuple[int, bool] = (0, False)


def survey(dataset: Dataset) -> Survey:
    """Look at up to 64 images; broken ones are passed over here (the store reports them).

    Raises:
        DataError: none of those looked at could be decoded.
    """
    sides, greys = [], []
    problem = ""
    for index in np.linspace(0, len(dataset) - 1, min(MOST, len(dataset))).astype(int):
        image = dataset.image(int(index))
        try:
            if isinstance(image, Path):
                sides.append(min(read_size(image)))
                greys.append(is_grey(decode(image, at_least=SIDE_FOR_COLOUR)))
            else:
                sides.append(min(image.shape[:2]))
                greys.append(image.ndim == 2 or is_grey(image))
        except ImageError as error:
            problem = str(error)
    if not sides or not greys:
        raise DataError(f"of {dataset.name} no image that was looked at can be decoded; the last: {problem}")
    undeclared = dataset.declared < 0
    mine = int((undeclared | (dataset.declared == PARTS.index("train"))).sum())
    return Survey(int(np.median(sides)), all(greys), (mine, not undeclared.all()))
