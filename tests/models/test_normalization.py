"""Normalisations against the definition: mean 0, variance 1 over the values that each shares them between."""

import pytest
import torch
from torch.nn import functional as F

from svertka.errors import OptionError
from svertka.models.normalization import NORMS, groups, normalization

X = 2 + 3 * torch.randn(4, 12, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SHARED = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}


def normalized(x: torch.Tensor, dims: tuple[int, ...], eps: float = 1e-5) -> torch.Tensor:
    mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps)


@pytest.mark.parametrize("name", SHARED)
def test_maps(name):
    layer = normalization(name, 12).double()
    torch.testing.assert_close(layer(X), normalized(X, SHARED[name]))
    assert layer.weight.shape == layer.bias.shape == (12,)  # one scale and shift a channel
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0))
    expected = normalized(X, SHARED[name]) * torch.arange(12.0, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(layer(X), expected)


def test_group():
    layer = normalization("group", 12, eps=1e-3).double()
    assert layer.num_groups == 6
    expected = normalized(X.view(4, 6, 2, 5, 6), (2, 3, 4), eps=1e-3).view_as(X)
    torch.testing.assert_close(layer(X), expected)


@pytest.mark.parametrize(("channels", "expected"), [(64, 32), (32, 16), (24, 12), (116, 29), (17, 1), (1, 1)])
def test_number_of_groups(channels, expected):
    assert groups(channels) == expected


@pytest.mark.parametrize(("name", "dims"), [("batch", (0,)), ("layer", (1,))])
def test_vectors(name, dims):
    vectors = X[:, :, 0, 0]
    layer = normalization(name, 12, vectors=True).double()
    torch.testing.assert_close(layer(vectors), normalized(vectors, dims))
    if name == "layer":
        torch.testing.assert_close(layer(vectors), F.layer_norm(vectors, (12,)))
    assert normalization("group", 12, vectors=True).double()(vectors).shape == vectors.shape


def test_batch_norm_answers_from_running_statistics():
    layer = normalization("batch", 12, momentum=0.5).double()
    layer(X)
    torch.testing.assert_close(layer.running_mean, 0.5 * X.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, 0.5 + 0.5 * X.var((0, 2, 3)))
    alone = layer.eval()(X[:1])
    torch.testing.assert_close(alone, layer(X)[:1])


@pytest.mark.parametrize("name", ["layer", "instance", "group"])
def test_the_others_know_no_batch(name):
    layer = normalization(name, 12).double()
    torch.testing.assert_close(layer(X)[:1], layer.eval()(X[:1]))


def test_none_and_refusals():
    assert normalization("none", 12) is None
    assert set(NORMS) == {*SHARED, "group", "none"}
    with pytest.raises(OptionError, match=r"no normalisation 'batchnorm': did you mean 'batch'\?"):
        normalization("batchnorm", 12)
    with pytest.raises(OptionError, match=r"a vector has one position.* Use layer or batch norm"):
        normalization("instance", 12, vectors=True)
