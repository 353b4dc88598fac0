"""Probabilities and labels to figures: accuracy with its interval, per class, confusion, calibration.

Rules where definitions differ: the answer is the class of largest probability, the lower index of equals, in
top-5 too. Precision without predictions, recall without images and F1 with neither are 0 (scikit-learn's
default); macro F1 averages over the classes that occur, as label or as answer. The calibration error has 15
bins of equal width, closed on the left, as torchmetrics (a confidence of exactly 1 is a bin of its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svertka.errors import DataError

Z95 = 1.959963984540054  # standard normal quantile at 0.975
CALIBRATION_BINS = 15
TOP = 5


@dataclass(frozen=True)
class Interval:
    """A share of n trials with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """`{value low high n}`, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClassMetrics:
    """How one class fares; `support` is the number of its images."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """What n answers over k classes are worth.

    Attributes:
        accuracy: share of right answers.
        top5: share of images whose label is among the five most probable classes; None for k ≤ 5.
        per_class: k rows in the order of the classes.
        macro_f1: mean of F1 over the classes that occur.
        confusion: (k, k) counts, rows the labels, columns the answers.
        log_loss: mean of −ln p(label), in nats; p is kept above 2.2e-16 as scikit-learn does.
        ece: expected calibration error (Guo et al., 2017, eq. 3), 0 to 1.
    """

    accuracy: Interval
    top5: Interval | None
    per_class: tuple[ClassMetrics, ...]
    macro_f1: float
    confusion: NDArray[np.int64]
    log_loss: float
    ece: float

    @classmethod
    def of(cls, probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str] | None = None) -> Metrics:
        """Measure probabilities (n, k), rows summing to 1, against labels (n,) from 0 to k − 1.

        Args:
            classes: k names for `per_class`; by default the class numbers.

        Raises:
            DataError: there are no images.
            ValueError: shapes, labels or probabilities that cannot be.
        """
        table, truth = _checked(probabilities, labels)
        n, k = table.shape
        names = [str(number) for number in range(k)] if classes is None else classes
        own = table[np.arange(n), truth]  # (n,) probability of the label
        ahead = (table > own[:, None]).sum(axis=1)
        ahead += ((table == own[:, None]) & (np.arange(k) < truth[:, None])).sum(axis=1)
        answers = table.argmax(axis=1)
        confusion = np.bincount(truth * k + answers, minlength=k * k).reshape(k, k)
        per_class, macro_f1 = _per_class(confusion, names)
        return cls(
            accuracy=wilson(int((ahead == 0).sum()), n),
            top5=wilson(int((ahead < TOP).sum()), n) if k > TOP else None,
            per_class=per_class,
            macro_f1=macro_f1,
            confusion=confusion,
            log_loss=float(-np.log(np.clip(own, np.finfo(np.float64).eps, 1.0)).mean()),
            ece=calibration_error(table[np.arange(n), answers], answers == truth),
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "accuracy": self.accuracy.to_dict(),
            "top5": self.top5.to_dict() if self.top5 else None,
            "per_class": [asdict(row) for row in self.per_class],
            "macro_f1": self.macro_f1,
            "confusion": self.confusion.tolist(),
            "log_loss": self.log_loss,
            "ece": self.ece,
        }


def wilson(successes: int, n: int) -> Interval:
    """The share with Wilson's 95 % score interval (E. B. Wilson, JASA 22, 1927), for n ≥ 1."""
    share = successes / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    low = 0.0 if successes == 0 else middle - half  # exact there, but for rounding
    high = 1.0 if successes == n else middle + half
    return Interval(share, low, high, n)


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> float:
    """Mean over all answers of |accuracy − mean confidence| of the bin that the answer's confidence is in."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges, np.minimum(confidence, 1.0), side="right") - 1
    gaps = np.bincount(place, weights=right - confidence, minlength=bins + 1)
    return float(np.abs(gaps).sum() / len(confidence))


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    if table.ndim != 2 or truth.shape != table.shape[:1]:
        raise ValueError(
            f"expected (n, k) probabilities and (n,) labels, got {table.shape} and {truth.shape}."
        )
    if not len(truth):
        raise DataError("there are no images to measure on; expected at least one.")
    if truth.min() < 0 or truth.max() >= table.shape[1]:
        raise ValueError(
            f"expected labels from 0 to {table.shape[1] - 1}, got {truth.min()} to {truth.max()}."
        )
    if not (table >= 0).all() or not np.allclose(table.sum(axis=1), 1, atol=1e-3):
        raise ValueError("expected probabilities: no NaN, none negative, rows that sum to 1.")
    return table, truth


def _per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[tuple[ClassMetrics, ...], float]:
    right = np.diag(confusion)
    answered, support = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = right / np.maximum(answered, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(answered + support, 1)
    columns = zip(names, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    return tuple(ClassMetrics(*row) for row in columns), float(f1[answered + support > 0].mean())
