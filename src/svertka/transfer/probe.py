"""Probe: a linear classifier on frozen features, solved in closed form or to convergence.

Two kinds, judged by cross-validated predictions on the same images: ridge regression on ±1 targets
(leave-one-out predictions of the whole regularisation path come from one decomposition; Rifkin & Lippert
2007) and multinomial logistic regression (L-BFGS, five folds that keep groups together). The winner is
refitted on all images as the weights of a linear layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["ridge", "logistic"]

ALPHAS = np.logspace(-2, 5, 15)
"""Ridge penalties tried, for standardised features."""

STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Inverse penalties C tried for the logistic probe, for standardised features."""

FOLDS = 5
MOST_ITERATIONS = 300


@dataclass(frozen=True)
class Probe:
    """A fitted linear layer and how it did on images it was not fitted on.

    Attributes:
        kind: ridge or logistic.
        penalty: the penalty chosen (ridge: alpha; logistic: 1/C).
        weight: (k, d) float32; bias: (k,) float32; for features as they come, not standardised.
        predictions: (n,) int64, each from a fit without that image.
    """

    kind: Kind
    penalty: float
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    predictions: NDArray[np.int64]

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        """Share of the cross-validated predictions that are right."""
        return float((self.predictions == labels).mean())


def fit_probe(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    num_classes: int,
    kinds: tuple[Kind, ...] = ("ridge", "logistic"),
) -> Probe:
    """The better probe of the kinds asked for on (n, d) features, by cross-validated accuracy.

    Every class needs at least one image; classes with fewer images than folds stay out of some folds.
    """
    scaled, mean, scale = _standardised(features)
    probes = [
        (_ridge if kind == "ridge" else _logistic)(scaled, labels, groups, num_classes) for kind in kinds
    ]
    best = max(probes, key=lambda probe: probe.accuracy(labels))
    weight = best.weight / scale
    return Probe(
        best.kind,
        best.penalty,
        weight.astype(np.float32),
        (best.bias - weight @ mean).astype(np.float32),
        best.predictions,
    )


def _standardised(
    features: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    values = features.astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-12), scale, 1.0)  # constant features say nothing
    return (values - mean) / scale, mean, scale


def _ridge(
    features: NDArray[np.float64], labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int
) -> Probe:
    from sklearn.linear_model import RidgeCV

    targets = 2.0 * (labels[:, None] == np.arange(num_classes)) - 1
    path = RidgeCV(ALPHAS, scoring="neg_mean_squared_error", store_cv_results=True, alpha_per_target=False)
    path.fit(features, targets)
    left_out = path.cv_results_.argmax(axis=1)  # (n, k, alphas) -> (n, alphas)
    right = (left_out == labels[:, None]).mean(axis=0)
    chosen = int(np.flatnonzero(right == right.max())[-1])  # of equals the strongest penalty
    alpha = float(ALPHAS[chosen])
    weight, bias = _ridge_fit(features, targets, alpha)
    return Probe("ridge", alpha, weight, bias, left_out[:, chosen])


def _ridge_fit(
    features: NDArray[np.float64], targets: NDArray[np.float64], alpha: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha).fit(features, targets)
    return fitted.coef_, fitted.intercept_


def _logistic(
    features: NDArray[np.float64], labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int
) -> Probe:
    narrow = features.astype(np.float32)  # halves the time; the fit converges far above its rounding
    candidates = []
    folds = list(_folds(labels, groups))
    for strength in STRENGTHS:
        predictions = np.empty(len(labels), dtype=np.int64)
        for fitted_on, left_out in folds:
            weight, bias = _logistic_fit(narrow[fitted_on], labels[fitted_on], strength, num_classes)
            predictions[left_out] = (narrow[left_out] @ weight.T + bias).argmax(axis=1)
        candidates.append((float((predictions == labels).mean()), -strength, predictions))
    _, negative, predictions = max(candidates, key=lambda candidate: candidate[:2])
    weight, bias = _logistic_fit(narrow, labels, -negative, num_classes)
    return Probe("logistic", 1 / -negative, weight, bias, predictions)


def _logistic_fit(
    features: NDArray[np.float32], labels: NDArray[np.int64], strength: float, num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are enough for a start
        fitted = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS).fit(features, labels)
    weight = np.zeros((num_classes, features.shape[1]), dtype=np.float32)
    bias = np.full(num_classes, -1e4, dtype=np.float32)  # a class absent from a fold is never chosen
    if len(fitted.classes_) == 2:  # scikit-learn fits one direction for two classes
        weight[fitted.classes_] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        bias[fitted.classes_] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
    return weight, bias


def _folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
        yield from folds.split(np.zeros(len(labels)), labels, groups)
