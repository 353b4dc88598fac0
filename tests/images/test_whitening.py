"""Whitening against scikit-learn's PCA and the definition of ZCA."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from svertka.data.batches import Batches
from svertka.data.items import from_arrays
from svertka.data.store import open_pixels
from svertka.errors import DataError, OptionError
from svertka.images.preprocess import Preprocess

EPSILON = 1e-6


def images(count: int = 600, side: int = 6, channels: int = 1) -> np.ndarray:
    """Correlated noise."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (count, side + 2, side + 2, channels))
    smooth = noise[:, :-2, :-2] + 2 * noise[:, 1:-1, 1:-1] + noise[:, 2:, 1:-1]
    return np.clip(120 + 30 * smooth, 0, 255).astype(np.uint8)


def fitted(
    kind: str, epsilon: float = EPSILON, channels: int = 1
) -> tuple[Preprocess, np.ndarray, np.ndarray]:
    made = images(channels=channels)
    blank = Preprocess(channels=channels, size=6, store_size=6, normalization=kind)
    preprocess = blank.fitted(iter(made), epsilon)
    outputs = np.stack([preprocess(image if channels == 3 else image[..., 0]) for image in made])
    return preprocess, made.transpose(0, 3, 1, 2).reshape(len(made), -1) / 255, outputs.reshape(len(made), -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_pca_is_that_of_scikit_learn(channels: int) -> None:
    _, flat, found = fitted("pca", 1e-9, channels)
    theirs = PCA(whiten=True, svd_solver="full").fit_transform(flat) * np.sqrt(len(flat) / (len(flat) - 1))
    signs = np.sign((found * theirs).sum(axis=0))
    np.testing.assert_allclose(found * signs, theirs, atol=2e-2)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_outputs_are_white(kind: str) -> None:
    _, _, found = fitted(kind)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(found.shape[1]), atol=0.02)


def test_zca_is_the_symmetric_whitening() -> None:
    """(C + ε)^−½ by scipy, and of all whitenings the nearest to the image."""
    from scipy.linalg import sqrtm

    preprocess, flat, found = fitted("zca", 0.01)
    centred = flat - flat.mean(axis=0)
    covariance = centred.T @ centred / len(flat)
    expected = centred @ np.linalg.inv(sqrtm(covariance + 0.01 * np.eye(len(covariance)))).real
    np.testing.assert_allclose(found, expected, atol=1e-3)
    matrix = np.asarray(preprocess.statistics["matrix"])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_it_travels_as_json(kind: str) -> None:
    preprocess, _, found = fitted(kind)
    again = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
    assert again == preprocess
    np.testing.assert_array_equal(again(images()[0][..., 0]).ravel(), found[0])


@pytest.mark.parametrize("kind", ["pca", "zca"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batches_are_whitened(kind: str, layout: torch.memory_format) -> None:
    preprocess, _, found = fitted(kind)
    data = from_arrays(images()[..., 0], ["a", "b"] * 300, name="noise")
    batches = Batches(
        open_pixels(data, preprocess),
        data.labels,
        np.arange(600),
        preprocess,
        batch_size=50,
        memory_format=layout,
    )
    seen = torch.cat([batch.images for batch in batches.epoch(0)])
    np.testing.assert_allclose(seen.reshape(600, -1).numpy(), found, atol=1e-4)


def test_what_cannot_be() -> None:
    large = Preprocess(channels=3, size=33, store_size=33, normalization="zca")
    with pytest.raises(OptionError, match=r"3072 numbers an input, got 3 × 33 × 33 = 3267: choose a smaller"):
        large.fitted(iter([np.zeros((33, 33, 3), np.uint8)] * 2))
    small = Preprocess(channels=1, size=6, store_size=6, normalization="pca")
    with pytest.raises(DataError, match="at least 2 training images, got 1"):
        small.fitted(iter(images(1)))
    with pytest.raises(OptionError, match="needs the mean"):
        small(np.zeros((6, 6), np.uint8))
    with pytest.raises(OptionError, match=r"matrix of zca must have shape \(36, 36\)"):
        Preprocess(channels=1, size=6, store_size=6, normalization="zca",
                   statistics={"mean": np.zeros((1, 6, 6)), "matrix": np.eye(3)})  # fmt: skip
