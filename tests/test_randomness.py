"""Randomness: a generator for each name, the same for ever, and none shared with the process."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import torch

from svertka.randomness import generator, key, torch_generator


def test_the_key_is_the_head_of_a_sha256() -> None:
    """Runs of older versions must stay reproducible, so the formula is fixed."""
    digest = hashlib.sha256(b"7/order/3").digest()
    assert key(7, "order", 3) == int.from_bytes(digest[:8], "little") // 2
    assert key(0) == int.from_bytes(hashlib.sha256(b"0").digest()[:8], "little") // 2
    assert min(key(0, index) for index in range(200)) >= 0
    assert max(key(0, index) for index in range(200)) < 2**63


def test_same_names_same_numbers() -> None:
    assert generator(7, "order", 3).random(5).tolist() == generator(7, "order", 3).random(5).tolist()
    first, second = (torch.rand(5, generator=torch_generator(7, "init")) for _ in range(2))
    assert torch.equal(first, second)


def test_numpy_draws_are_those_of_pcg64() -> None:
    own = np.random.Generator(np.random.PCG64(key(3, "split")))
    np.testing.assert_array_equal(generator(3, "split").integers(0, 100, 20), own.integers(0, 100, 20))


def test_seed_and_every_name_matter() -> None:
    names = itertools.product(range(3), ("order", "augment", "noise"), range(5), range(5))
    keys = {key(*parts) for parts in names}
    assert len(keys) == 3 * 3 * 5 * 5
    assert key(1, 2) != key(12)
    assert key(1, "a", "b") != key(1, "b", "a")


def test_draws_of_neighbours_are_independent() -> None:
    """Correlations of 200 neighbouring streams of 400 normals stay within five standard errors."""
    draws = np.stack([generator(0, "order", epoch).standard_normal(400) for epoch in range(200)])
    correlations = np.corrcoef(draws)[np.triu_indices(200, k=1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(400)
    assert abs(correlations.mean()) < 5 / np.sqrt(400 * len(correlations))


def test_nothing_global_moves() -> None:
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002 (the old one is meant)
    generator(5, "order").random(10)
    torch.rand(3, generator=torch_generator(5, "init"))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
