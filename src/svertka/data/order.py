"""Order: which items a step gets, as a function of (seed, epoch, step) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svertka.randomness import generator


@dataclass(frozen=True)
class Order:
    """The steps of one part of a dataset.

    Attributes:
        indices: (n,) the items of this part.
        batch_size: items a step. The last step of an epoch takes what is left; if that is a single item and
            the order is shuffled (in training) it joins the step before, for batch normalization needs two.
        seed: of the order.
        shuffle: a new order each epoch; else that of `indices`.
    """

    indices: NDArray[np.int64]
    batch_size: int
    seed: int = 0
    shuffle: bool = False

    def __len__(self) -> int:
        """Steps an epoch."""
        full, left = divmod(len(self.indices), self.batch_size)
        joins = self.shuffle and left == 1 and full > 0
        return full + (left > 0 and not joins)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """All items in the order of an epoch."""
        if not self.shuffle:
            return self.indices
        return generator(self.seed, "order", number).permutation(self.indices)

    def step(self, items: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Those of an epoch's items that a step gets."""
        end = len(items) if step == len(self) - 1 else (step + 1) * self.batch_size
        return items[step * self.batch_size : end]
