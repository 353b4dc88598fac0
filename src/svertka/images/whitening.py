"""Whitening: inputs whose numbers are uncorrelated and of variance 1 over the training images.

With the covariance C = U diag(λ) Uᵀ of centred images as vectors (c · size · size), pixels from 0 to 1:

    pca    diag(λ + ε)^−½ Uᵀ x       along the principal axes, the largest first
    zca    U diag(λ + ε)^−½ Uᵀ x     turned back, so that it still looks like the image

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images", appendix A; ε keeps axes
without variance from becoming noise. Sums are of whole numbers, so the order of the images changes nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from svertka.errors import DataError, OptionError

Kind = Literal["pca", "zca"]
MOST_NUMBERS = 3072
"""Of an input, 32 × 32 × 3: the matrix holds the square of it, and goes with the weights."""


class Moments:
    """Sums of images and of their products, in whole numbers (exact in float64 up to 2^53)."""

    def __init__(self, channels: int, size: int) -> None:
        numbers = channels * size * size
        if numbers > MOST_NUMBERS:
            raise OptionError(
                f"whitening takes {MOST_NUMBERS} numbers an input, got {channels} × {size} × {size} = "
                f"{numbers}: choose a smaller data.size, or data.normalization = 'channel_mean_std'."
            )
        self.count = 0
        self.sums = np.zeros(numbers, dtype=np.float64)
        self.products = np.zeros((numbers, numbers), dtype=np.float64)

    def add(self, views: NDArray[np.uint8]) -> None:
        """Take in images (n, size, size, c)."""
        flat = views.transpose(0, 3, 1, 2).reshape(len(views), -1).astype(np.float64)
        self.count += len(views)
        self.sums += flat.sum(axis=0)
        self.products += flat.T @ flat

    def whitening(self, kind: Kind, epsilon: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean (numbers,) and the matrix (numbers, numbers) of the whitening.

        Raises:
            DataError: fewer than two images.
        """
        if self.count < 2:
            raise DataError(f"whitening needs at least 2 training images, got {self.count}.")
        mean = self.sums / self.count
        covariance = (self.products / self.count - np.outer(mean, mean)) / 255**2
        variances, axes = np.linalg.eigh(covariance)
        variances, axes = variances[::-1], axes[:, ::-1]  # the largest first
        largest = np.abs(axes).argmax(axis=0)
        axes = axes * np.sign(
            axes[largest, np.arange(len(axes))]
        )  # the signs are free: the largest part is positive
        scaled = axes / np.sqrt(np.maximum(variances, 0) + epsilon)
        return mean / 255, np.ascontiguousarray(scaled.T if kind == "pca" else scaled @ axes.T)
