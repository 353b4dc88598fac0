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
class Choice:
    """Which linear classifier is best, and how it did on images it was not fitted on.

    Attributes:
        kind: ridge or logistic.
        penalty: ridge: alpha; logistic: 1/C.
        predictions: (n,) int64, each from a fit without that image and its group.
    """

    kind: Kind
    penalty: float
    predictions: NDArray[np.int64]

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        """Share of the cross-validated predictions that are right."""
        return float((self.predictions == labels).mean())


def choose(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    num_classes: int,
    kinds: tuple[Kind, ...] = ("ridge", "logistic"),
) -> Choice:
    """The best of the kinds asked for and their penalties on (n, d) features, by cross-validated accuracy.

    Every class needs at least one image; classes with fewer images than folds stay out of some folds.
    """
    left, singular, _ = _decomposed(_standardised(features)[0])
    choices = [
        _ridge(left, singular, labels, groups, num_classes)
        if kind == "ridge"
        else _logistic(left * singular, labels, groups, num_classes)
        for kind in kinds
    ]
    return max(choices, key=lambda choice: choice.accuracy(labels))


def solve(
    features: NDArray[np.floating], labels: NDArray[np.int64], kind: Kind, penalty: float, *, num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The linear layer fitted to all (n, d) features as they come: weight (k, d) and bias (k,)."""
    scaled, mean, scale = _standardised(features)
    left, singular, right = _decomposed(scaled)
    if kind == "ridge":
        targets = _targets(labels, num_classes)
        bias = targets.mean(axis=0)
        inner = (singular / (singular**2 + penalty))[:, None] * (left.T @ (targets - bias))
    else:
        narrow = (left * singular).astype(np.float32)
        inner, bias = solve_logistic(narrow, labels, 1 / penalty, num_classes)
    weight = (right @ inner).T / scale
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def _targets(labels: NDArray[np.int64], num_classes: int) -> Matrix:
    own: Matrix = 2.0 * (labels[:, None] == np.arange(num_classes)) - 1
    return own


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
) -> Choice:
    """The whole path; an image's prediction is from a fit without the images of its group."""
    targets = _targets(labels, num_classes)
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
    return Choice("ridge", float(ALPHAS[chosen]), found[chosen])


def _logistic(
    features: Matrix, labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int
) -> Choice:
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
    return Choice("logistic", 1 / chosen, answers)


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
