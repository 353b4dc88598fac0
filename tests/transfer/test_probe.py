"""The probe against brute force and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from svertka.transfer.probe import fit_probe


def blobs(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(20 * num_classes) % num_classes
    centres = generator.normal(0, 1.2, (num_classes, 6))
    scale, offset = np.array([1, 10, 0.1, 5, 1, 0]), np.array([0, 50, 3, -4, 0, 7])  # one feature is constant
    return (centres[labels] + generator.normal(0, 1, (len(labels), 6))) * scale + offset, labels


def test_ridge_predictions_are_those_of_leaving_one_out() -> None:
    features, labels = blobs(3)
    probe = fit_probe(features, labels, np.arange(60), num_classes=3, kinds=("ridge",))
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    targets = 2.0 * (labels[:, None] == np.arange(3)) - 1
    for left_out in range(60):
        others = np.arange(60) != left_out
        fitted = Ridge(probe.penalty).fit(scaled[others], targets[others])
        assert fitted.predict(scaled[left_out : left_out + 1]).argmax() == probe.predictions[left_out]


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_layer_separates_what_it_was_fitted_on(kind: str, num_classes: int) -> None:
    features, labels = blobs(num_classes)
    probe = fit_probe(features * 1.0, labels, np.arange(len(labels)), num_classes=num_classes, kinds=(kind,))
    answers = (features @ probe.weight.T + probe.bias).argmax(axis=1)
    assert probe.weight.shape == (num_classes, 6)
    assert (answers == labels).mean() >= probe.accuracy(labels) - 0.05
    assert (answers == labels).mean() > 0.7


def test_ridge_layer_equals_scikit_learn() -> None:
    features, labels = blobs(3)
    features = features[:, :5]
    probe = fit_probe(features, labels, np.arange(60), num_classes=3, kinds=("ridge",))
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    fitted = Ridge(probe.penalty).fit(scaled, 2.0 * (labels[:, None] == np.arange(3)) - 1)
    np.testing.assert_allclose(features @ probe.weight.T + probe.bias, fitted.predict(scaled), atol=1e-3)


def test_copies_stay_in_one_fold() -> None:
    """Labels are noise, every image stands twice: with copies in other folds a probe would look perfect."""
    generator = np.random.default_rng(0)
    half = generator.normal(0, 1, (60, 300))
    labels = generator.integers(0, 2, 60)
    features, doubled = np.concatenate([half, half]), np.concatenate([labels, labels])
    groups = np.concatenate([np.arange(60), np.arange(60)])
    probe = fit_probe(features, doubled, groups, num_classes=2, kinds=("logistic",))
    assert probe.accuracy(doubled) < 0.75
