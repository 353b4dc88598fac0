"""Two classifiers on the same images: the difference of their accuracies, paired."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def paired_gain(
    before: NDArray[np.floating], after: NDArray[np.floating], labels: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Accuracy after minus before on the same images, with its 95 % normal interval: (gain, low, high).

    Args:
        before, after: (n, k) logits or probabilities.
        labels: (n,).
    """
    difference = (after.argmax(1) == labels).astype(float) - (before.argmax(1) == labels)
    gain = float(difference.mean())
    half = 1.96 * float(difference.std()) / math.sqrt(len(labels))
    return gain, gain - half, gain + half
