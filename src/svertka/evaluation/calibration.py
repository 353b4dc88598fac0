"""One temperature makes confidences honest (Guo et al., "On Calibration of Modern Neural Networks", 2017).

Logits are divided by T before the softmax; T is fitted on validation images by maximum likelihood. The order
of the classes stays as it was, so no answer changes, only how sure it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOWEST, HIGHEST = 0.05, 20.0
"""The range in which a temperature is looked for."""


def probabilities(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """softmax(logits / temperature) over the last axis, in float64; (n, k) to (n, k)."""
    return np.exp(_log_probabilities(np.asarray(logits, np.float64) / temperature))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T in [0.05, 20] with the smallest mean −ln p(label), for logits (n, k) and labels (n,).

    The loss is convex in 1/T, so there is one minimum. If every answer is right it lies at T = 0, which would
    promise that no image is ever answered wrongly; then, and without images, nothing can be learned about
    how sure to be, and T = 1 is returned.

    Raises:
        ValueError: logits that are not finite, or shapes that do not fit.
    """
    from scipy.optimize import minimize_scalar

    scores, truth = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"expected (n, k) logits and (n,) labels, got {scores.shape} and {truth.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite logits to fit a temperature on.")
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    if (own == scores.max(axis=1, keepdims=True)).all():
        return 1.0

    def loss(inverse: float) -> float:
        return -float(np.take_along_axis(_log_probabilities(scores * inverse), truth[:, None], axis=1).mean())

    found = minimize_scalar(
        loss, bounds=(1 / HIGHEST, 1 / LOWEST), method="bounded", options={"xatol": 1e-9, "maxiter": 200}
    )
    return float(np.clip(1 / found.x, LOWEST, HIGHEST))


def _log_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
