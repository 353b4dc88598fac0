"""What the automatic choices rest on: a look at some images, spread evenly over the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svertka.data.dataset import Dataset
from svertka.errors import DataError, ImageError
from svertka.images.decode import decode, is_grey, read_size

MOST = 64
SIDE_FOR_COLOUR = 32  # px: enough to see whether there is colour


@dataclass(frozen=True)
class Survey:
    """The median short side in px, and whether every image looked at is grey."""

    median_side: int
    grey: bool


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
    return Survey(int(np.median(sides)), all(greys))
