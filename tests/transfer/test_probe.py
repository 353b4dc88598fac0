"""The probe against brute force and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from svertka.transfer.probe import ALPHAS, choose, solve, solve_logistic


def blobs(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(20 * num_classes) % num_classes
    centres = generator.normal(0, 1.2, (num_classes, 6))
    scale, offset = np.array([1, 10, 0.1, 5, 1, 0]), np.array([0, 50, 3, -4, 0, 7])  # one feature is constant
    return (centres[labels] + generator.normal(0, 1, (len(labels), 6))) * scale + offset, labels


def test_ridge_predictions_are_those_of_leaving_one_out() -> None:
    features, labels = blobs(3)
    probe = choose(features, labels, np.arange(60), num_classes=3, kinds=("ridge",))
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    targets = 2.0 * (labels[:, None] == np.arange(3)) - 1
    for left_out in range(60):
        others = np.arange(60) != left_out
        fitted = Ridge(probe.penalty).fit(scaled[others], targets[others])
        assert fitted.predict(scaled[left_out : left_out + 1]).argmax() == probe.predictions[left_out]


def test_ridge_leaves_whole_groups_out() -> None:
    features, labels = blobs(3)
    groups = np.arange(60) // 3  # three classes in each, so the group tells nothing
    probe = choose(features, labels, groups, num_classes=3, kinds=("ridge",))
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    targets = 2.0 * (labels[:, None] == np.arange(3)) - 1
    for group in range(20):
        fitted = Ridge(probe.penalty).fit(scaled[groups != group], targets[groups != group])
        expected = fitted.predict(scaled[groups == group]).argmax(axis=1)
        np.testing.assert_array_equal(expected, probe.predictions[groups == group])


@pytest.mark.parametrize("num_features", [5, 200])
def test_ridge_is_the_same_in_few_and_many_dimensions(num_features: int) -> None:
    """Against scikit-learn where one or the other Gram matrix is the smaller."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (
        generator.normal(0, 1, (60, num_features)) + generator.normal(0, 0.5, (3, num_features))[labels]
    )
    probe = choose(features, labels, np.arange(60), num_classes=3, kinds=("ridge",))
    assert probe.penalty in ALPHAS
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    weight, bias = solve(features, labels, "ridge", probe.penalty, num_classes=3)
    fitted = Ridge(probe.penalty).fit(scaled, 2.0 * (labels[:, None] == np.arange(3)) - 1)
    np.testing.assert_allclose(features @ weight.T + bias, fitted.predict(scaled), atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_logistic_equals_scikit_learn(num_classes: int, strength: float) -> None:
    features, labels = blobs(num_classes)
    features = ((features - features.mean(0)) / np.maximum(features.std(0), 1e-9)).astype(np.float32)
    weight, bias = solve_logistic(features, labels, strength, num_classes)
    # for two classes scikit-learn has one direction, whose penalty is half of that of two opposite ones
    theirs = strength * (2 if num_classes == 2 else 1)
    fitted = LogisticRegression(C=theirs, tol=1e-6, max_iter=1000).fit(features, labels)
    logits = features @ weight + bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, fitted.predict_proba(features), atol=2e-3)


def test_logistic_goes_on_from_a_start() -> None:
    features, labels = (part.astype(kind) for part, kind in zip(blobs(4), (np.float32, int), strict=True))
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    start = solve_logistic(features, labels, 0.01, 4)
    for from_start, afresh in zip(
        solve_logistic(features, labels, 0.1, 4, start), solve_logistic(features, labels, 0.1, 4), strict=True
    ):
        np.testing.assert_allclose(from_start, afresh, atol=5e-3)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_layer_separates_what_it_was_fitted_on(kind: str, num_classes: int) -> None:
    features, labels = blobs(num_classes)
    probe = choose(features * 1.0, labels, np.arange(len(labels)), num_classes=num_classes, kinds=(kind,))
    weight, bias = solve(features, labels, kind, probe.penalty, num_classes=num_classes)
    answers = (features @ weight.T + bias).argmax(axis=1)
    assert weight.shape == (num_classes, 6)
    assert (answers == labels).mean() >= probe.accuracy(labels) - 0.05
    assert (answers == labels).mean() > 0.7


def test_ridge_layer_equals_scikit_learn() -> None:
    features, labels = blobs(3)
    features = features[:, :5]
    probe = choose(features, labels, np.arange(60), num_classes=3, kinds=("ridge",))
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    weight, bias = solve(features, labels, "ridge", probe.penalty, num_classes=3)
    fitted = Ridge(probe.penalty).fit(scaled, 2.0 * (labels[:, None] == np.arange(3)) - 1)
    np.testing.assert_allclose(features @ weight.T + bias, fitted.predict(scaled), atol=1e-3)


def test_copies_stay_in_one_fold() -> None:
    """Labels are noise, every image stands twice: with copies in other folds a probe would look perfect."""
    generator = np.random.default_rng(0)
    half = generator.normal(0, 1, (60, 300))
    labels = generator.integers(0, 2, 60)
    features, doubled = np.concatenate([half, half]), np.concatenate([labels, labels])
    groups = np.concatenate([np.arange(60), np.arange(60)])
    probe = choose(features, doubled, groups, num_classes=2, kinds=("logistic",))
    assert probe.accuracy(doubled) < 0.75
