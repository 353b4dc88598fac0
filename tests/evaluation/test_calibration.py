"""The temperature is the one that maximises the likelihood, and never does harm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from svertka.evaluation.calibration import HIGHEST, LOWEST, fit_temperature, probabilities


def planted(temperature, n=20_000, k=10, seed=0):
    """Labels drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=3, size=(n, k))
    table = softmax(logits / temperature, axis=1)
    labels = (table.cumsum(axis=1) < random.random((n, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
def test_a_planted_temperature_is_found(temperature):
    assert fit_temperature(*planted(temperature)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_optimum_is_that_of_torch(temperature):
    logits, labels = planted(temperature, n=400, k=4)
    inverse = torch.ones(1, dtype=torch.float64, requires_grad=True)
    scores, truth = torch.tensor(logits), torch.tensor(labels)
    search = torch.optim.LBFGS([inverse], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        value = torch.nn.functional.cross_entropy(scores * inverse, truth)
        value.backward()
        return value

    search.step(loss)
    assert fit_temperature(logits, labels) == pytest.approx(1 / inverse.item(), rel=1e-5)


def test_nothing_wrong_teaches_nothing():
    logits = 5 * np.eye(3)
    assert fit_temperature(logits, [0, 1, 2]) == 1.0
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
    assert fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == 1.0  # all equal: T has no effect


def test_the_range_holds():
    logits = 5 * np.eye(3)
    assert fit_temperature(logits, [1, 2, 0]) == pytest.approx(HIGHEST)  # always wrong
    almost = np.vstack([np.tile([0.02, 0.0], (10_000, 1)), [[0.0, 1e-6]]])  # right but once, by a hair
    assert fit_temperature(almost, np.zeros(10_001, int)) == pytest.approx(LOWEST)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(LOWEST, HIGHEST))
def test_answers_do_not_change_and_rows_are_probabilities(seed, temperature):
    logits = np.random.default_rng(seed).normal(scale=10, size=(20, 6)).astype(np.float32)
    table = probabilities(logits, temperature)
    assert table.dtype == np.float64
    np.testing.assert_allclose(
        table, softmax(logits.astype(np.float64) / temperature, axis=1), rtol=1e-9, atol=0
    )
    assert (table.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_large_logits_do_not_overflow():
    assert probabilities([[1e5, 0.0, -1e5]], LOWEST).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [([[np.nan, 1]], [0], "finite"), ([[0, 1]], [0, 1], r"\(1, 2\) and \(2,\)")],
)
def test_what_cannot_be_fitted(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
