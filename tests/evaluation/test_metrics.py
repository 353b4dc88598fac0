"""Every figure equals that of scikit-learn, SciPy or torchmetrics."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as theirs
from torchmetrics.functional.classification import multiclass_calibration_error

from svertka.errors import DataError
from svertka.evaluation.metrics import Metrics, wilson


def answers(n=500, k=7, seed=0, labels=None):
    random = np.random.default_rng(seed)
    truth = random.integers(0, k, n) if labels is None else labels
    logits = random.normal(size=(n, k)) + 1.5 * np.eye(k)[truth]
    table = np.exp(logits)
    return table / table.sum(axis=1, keepdims=True), truth


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (97, 100), (1, 3), (9312, 10000)]
)
def test_wilson_is_scipys(successes, n):
    ours = wilson(successes, n)
    reference = binomtest(successes, n).proportion_ci(method="wilson")
    assert ours.low == pytest.approx(reference.low, abs=1e-12)
    assert ours.high == pytest.approx(reference.high, abs=1e-12)
    assert ours.to_dict() == {"value": successes / n, "low": ours.low, "high": ours.high, "n": n}
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("k", "seed"), [(2, 0), (7, 1), (30, 2)])
def test_figures_are_those_of_scikit_learn(k, seed):
    table, truth = answers(k=k, seed=seed)
    ours = Metrics.of(table, truth)
    answer = table.argmax(axis=1)
    assert ours.accuracy.value == theirs.accuracy_score(truth, answer)
    assert ours.accuracy.n == len(truth)
    assert (ours.confusion == theirs.confusion_matrix(truth, answer, labels=range(k))).all()
    assert ours.log_loss == pytest.approx(theirs.log_loss(truth, table, labels=range(k)), rel=1e-12)
    precision, recall, f1, support = theirs.precision_recall_fscore_support(
        truth, answer, labels=range(k), zero_division=0
    )
    for name, column in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        np.testing.assert_allclose([getattr(row, name) for row in ours.per_class], column, rtol=1e-12)
    assert ours.macro_f1 == pytest.approx(theirs.f1_score(truth, answer, average="macro"), rel=1e-12)
    if k > 5:
        assert ours.top5.value == theirs.top_k_accuracy_score(truth, table, k=5, labels=range(k))
    else:
        assert ours.top5 is None


def test_classes_without_images_or_answers():
    table = np.array([[0.8, 0.1, 0.1, 0.0], [0.6, 0.3, 0.1, 0.0], [0.2, 0.7, 0.1, 0.0]])
    ours = Metrics.of(table, [0, 2, 1], classes=["a", "b", "c", "d"])
    reference = theirs.f1_score([0, 2, 1], [0, 0, 1], average="macro")  # over a, b, c: d does not occur
    assert ours.macro_f1 == pytest.approx(reference)
    assert [row.name for row in ours.per_class] == ["a", "b", "c", "d"]
    assert (ours.per_class[2].precision, ours.per_class[2].recall, ours.per_class[2].support) == (0, 0, 1)
    assert (ours.per_class[3].f1, ours.per_class[3].support) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_is_torchmetrics(seed):
    table, truth = answers(k=5, seed=seed)
    table[:20] = np.eye(5)[np.arange(20) % 5]  # confidence exactly 1
    reference = multiclass_calibration_error(
        torch.tensor(table), torch.tensor(truth), 5, n_bins=15, norm="l1"
    )
    assert Metrics.of(table, truth).ece == pytest.approx(float(reference), abs=1e-6)  # theirs is float32


def test_equal_probabilities_go_to_the_lower_class():
    table = np.full((10, 10), 0.1)
    ours = Metrics.of(table, np.arange(10))
    assert ours.accuracy.value == 0.1  # only label 0
    assert ours.top5.value == 0.5  # labels 0 to 4
    assert (ours.confusion[:, 0] == 1).all()


def test_certain_and_wrong_is_finite_and_json_holds_all():
    table = np.array([[1.0, 0.0], [1.0, 0.0]])
    ours = Metrics.of(table, [0, 1], classes=["cat", "dog"])
    assert ours.log_loss == pytest.approx(theirs.log_loss([0, 1], table), rel=1e-12)
    value = json.loads(json.dumps(ours.to_dict(), allow_nan=False))
    assert list(value) == ["accuracy", "top5", "per_class", "macro_f1", "confusion", "log_loss", "ece"]
    assert value["accuracy"] == ours.accuracy.to_dict()
    assert value["per_class"][0] == {
        "name": "cat",
        "precision": 0.5,
        "recall": 1.0,
        "f1": 2 / 3,
        "support": 1,
    }
    assert value["confusion"] == [[1, 0], [1, 0]]
    assert value["ece"] == 0.5


@pytest.mark.parametrize(
    ("table", "labels", "message"),
    [
        ([[0.5, 0.5]], [2], "expected labels from 0 to 1, got 2 to 2"),
        ([[0.5, 0.5]], [-1], "expected labels from 0 to 1"),
        ([[0.5, 0.5]], [0, 1], r"got \(1, 2\) and \(2,\)"),
        ([[np.nan, 0.5]], [0], "no NaN"),
        ([[1.5, -0.5]], [0], "none negative"),
        ([[3.0, 2.0]], [0], "sum to 1"),
    ],
)
def test_what_cannot_be_measured(table, labels, message):
    with pytest.raises(ValueError, match=message):
        Metrics.of(table, labels)


def test_no_images():
    with pytest.raises(DataError, match="no images to measure on"):
        Metrics.of(np.zeros((0, 3)), [])
