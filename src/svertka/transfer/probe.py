"""Probe: a linear classifier on frozen features, solved in closed form or to convergence.

Two kinds, judged by cross-validated predictions on the same images: ridge regression on ±1 targets
(predictions without each group of images, for the whole regularisation path, from one decomposition; Rifkin &
Lippert 2007) and multinomial logistic regression (L-BFGS, five folds that keep groups together, each penalty
started from the stronger one). The winner is refitted on all images as the weights of a linear layer.

Both solutions lie in the span of the n images, so with fewer images than features all work happens in
n dimensions, exactly. Tests hold both to scikit-learn, whose import alone takes longer than a small probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["ridge", "logistic"]
Matrix = NDArray[np.float64]

ALPHAS = np.logspace(-2, 5, 15)
"""Ridge penalties tried, for standardised features."""

STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Inverse penalties C tried for the logistic probe, for standardised features, strongest penalty first."""

FOLDS = 5
MOST_ITERATIONS = 300
TOLERANCE = 1e-4  # of the largest slope of the mean loss, as scikit-learn's


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


@dataclass(frozen=True)
class _Fit:
    """A probe in the coordinates of the decomposition: weight (r, k), bias (k,)."""

    kind: Kind
    penalty: float
    weight: Matrix
    bias: Matrix
    predictions: NDArray[np.int64]


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
    left, singular, right = _decomposed(scaled)
    fits = []
    for kind in kinds:
        if kind == "ridge":
            fits.append(_ridge(left, singular, labels, groups, num_classes))
        else:
            fits.append(_logistic(left * singular, labels, groups, num_classes))
    best = max(fits, key=lambda fit: (fit.predictions == labels).mean())
    weight = (right @ best.weight).T / scale
    bias = best.bias - weight @ mean
    return Probe(
        best.kind, best.penalty, weight.astype(np.float32), bias.astype(np.float32), best.predictions
    )


def _standardised(features: NDArray[np.floating]) -> tuple[Matrix, Matrix, Matrix]:
    values = features.astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-12), scale, 1.0)  # constant features say nothing
    return (values - mean) / scale, mean, scale


def _decomposed(values: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """values = left (n, r) · singular (r,) · rightᵀ (r, d), from the smaller of the two Gram matrices."""
    wide = values.shape[0] < values.shape[1]
    squares, vectors = np.linalg.eigh(values @ values.T if wide else values.T @ values)
    kept = squares > max(squares[-1], 1e-12) * 1e-10  # the rest is rounding
    singular, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    other = (values.T if wide else values) @ vectors / singular
    return (vectors, singular, other) if wide else (other, singular, vectors)


def _ridge(
    left: Matrix, singular: Matrix, labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int
) -> _Fit:
    """The whole path; an image's prediction is from a fit without the images of its group."""
    targets = 2.0 * (labels[:, None] == np.arange(num_classes)) - 1
    mean = targets.mean(axis=0)
    turned = left.T @ (targets - mean)  # (r, k)
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    several = [np.flatnonzero(number == group) for group in np.flatnonzero(sizes > 1)]
    found = []
    for alpha in ALPHAS:
        shrink = singular**2 / (singular**2 + alpha)
        residual = targets - mean - (left * shrink) @ turned  # (n, k)
        leverage = 1 / len(left) + (left**2) @ shrink
        left_out = targets - residual / np.maximum(1 - leverage, 1e-12)[:, None]
        for same in several:
            rest = np.eye(len(same)) - 1 / len(left) - (left[same] * shrink) @ left[same].T
            left_out[same] = targets[same] - np.linalg.lstsq(rest, residual[same], rcond=None)[0]
        found.append(left_out.argmax(axis=1))
    right = np.array([(predictions == labels).mean() for predictions in found])
    chosen = int(np.flatnonzero(right == right.max())[-1])  # of equals the strongest penalty
    alpha = float(ALPHAS[chosen])
    weight = (singular / (singular**2 + alpha))[:, None] * turned
    return _Fit("ridge", alpha, weight, mean, found[chosen])


def _logistic(
    features: Matrix, labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int
) -> _Fit:
    """Penalties from strong to weak, as long as the next one predicts no worse."""
    narrow = features.astype(np.float32)  # halves the time; the fit converges far above its rounding
    folds = _folds(labels, groups)
    starts: list[Any] = [None] * FOLDS
    best, chosen, answers = -1.0, STRENGTHS[0], np.zeros(len(labels), np.int64)
    for strength in STRENGTHS:
        predictions = np.zeros(len(labels), np.int64)
        for fold in range(FOLDS):
            out = folds == fold
            if not out.any() or out.all():
                continue
            starts[fold] = solve_logistic(narrow[~out], labels[~out], strength, num_classes, starts[fold])
            weight, bias = starts[fold]
            seen = np.bincount(labels[~out], minlength=num_classes) > 0
            predictions[out] = np.where(seen, narrow[out] @ weight + bias, -np.inf).argmax(axis=1)
        right = float((predictions == labels).mean())
        if right < best:
            break
        if right > best:  # of equals the strongest penalty
            best, chosen, answers = right, strength, predictions
    weight, bias = solve_logistic(narrow, labels, chosen, num_classes)
    return _Fit("logistic", 1 / chosen, weight.astype(np.float64), bias.astype(np.float64), answers)


def solve_logistic(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    strength: float,
    num_classes: int,
    start: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (d, k) and bias (k,) that minimise C · Σ −ln p(label) + ‖weight‖² / 2; the bias is free."""
    from scipy.optimize import minimize

    n, d = features.shape
    rows = np.arange(n)
    decay = 1 / (strength * n)

    def mean_loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        layer = flat.astype(np.float32).reshape(d + 1, num_classes)
        logits = features @ layer[:-1] + layer[-1]
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[rows, labels]
        shares = np.exp(logits)
        sums = shares.sum(axis=1, keepdims=True)
        loss = float((np.log(sums[:, 0]) - own).mean(dtype=np.float64))
        shares /= sums
        shares[rows, labels] -= 1
        slope = np.concatenate([features.T @ shares, shares.sum(axis=0, keepdims=True)]).astype(np.float64)
        slope /= n
        weight = flat[: d * num_classes]
        slope = slope.reshape(-1)
        slope[: d * num_classes] += decay * weight
        return loss + decay / 2 * float(weight @ weight), slope

    first = (
        np.zeros((d + 1) * num_classes) if start is None else np.concatenate([p.reshape(-1) for p in start])
    )
    options: Any = {"maxiter": MOST_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-9, "maxls": 50}
    found = minimize(mean_loss, first.astype(np.float64), jac=True, method="L-BFGS-B", options=options)
    layer = found.x.astype(np.float32).reshape(d + 1, num_classes)
    return layer[:-1], layer[-1]


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold (n,) of each image: groups stay whole, classes are dealt out in turn."""
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    lot = np.random.default_rng(0).permutation(len(first))
    order = np.lexsort((lot, labels[first]))  # groups by the class of their first image, shuffled within
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return np.asarray(fold[number])
