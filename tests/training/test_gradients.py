"""The gradient of a step against torch, in pieces, with noise and L1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svertka.data.batches import Batch
from svertka.errors import TrainingError
from svertka.models.catalog import build
from svertka.recipe import Recipe
from svertka.training import memory
from svertka.training.gradients import gradient, noisy, regularize


def network(**options: str) -> nn.Module:
    return build("resnet20", classes=3, in_channels=1, size=16, seed=1, **options).double()


def batch(size: int = 12) -> Batch:
    images = torch.randn(size, 1, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Batch(images, torch.arange(size) % 3, torch.arange(size))


def gradients(net: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in net.parameters()]


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_pieces_add_up_to_the_whole_batch(pieces: int) -> None:
    """5 does not divide 12: pieces of 3 and 2 weigh by their size. Group norm knows no batch."""
    net, plain = network(norm="group"), network(norm="group")
    wanted = Recipe().set([f"optimizer.accumulate={pieces}", "regularization.label_smoothing=0.1"])
    value, logits = gradient(net, batch(), wanted)
    expected = F.cross_entropy(plain(batch().images), batch().labels, label_smoothing=0.1)
    expected.backward()
    assert value == pytest.approx(expected.item())
    torch.testing.assert_close(logits, plain(batch().images).detach())
    for found, right in zip(gradients(net), gradients(plain), strict=True):
        torch.testing.assert_close(found, right)


def test_a_short_batch_is_cut_into_fewer_pieces() -> None:
    value, logits = gradient(network(), batch(3), Recipe().set(["optimizer.accumulate=4"]))
    assert value > 0
    assert logits.shape == (3, 3)


def test_noise_on_weights_goes_as_it_came() -> None:
    net = network()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    torch.manual_seed(0)
    with noisy(net, 0.1):
        weight = net.stages[0][0].branch[0][0].weight
        index = next(i for i, p in enumerate(net.parameters()) if p is weight)
        change = weight.detach() - before[index]
        root = before[index].square().mean().sqrt()
        assert change.std().item() == pytest.approx(0.1 * root.item(), rel=0.1)
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_l1_noise_and_clipping_come_in_this_order() -> None:
    wanted = Recipe().set(
        ["regularization.l1=0.01", "regularization.gradient_noise=0.3", "optimizer.clip=0.5"]
    )
    net = network()
    gradient(net, batch(), wanted)
    before = gradients(net)
    torch.manual_seed(3)
    regularize(net, wanted, number=7)
    torch.manual_seed(3)
    expected = []
    for parameter, grad in zip(net.parameters(), before, strict=True):
        spared = parameter.ndim < 2
        noise = torch.randn_like(grad) * (0.3 / (1 + 7) ** 0.55) ** 0.5
        expected.append(grad + (0 if spared else 0.01 * parameter.detach().sign()) + noise)
    norm = torch.cat([grad.flatten() for grad in expected]).norm()
    assert norm > 0.5
    for found, right in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(found, right * 0.5 / (norm + 1e-6))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        RuntimeError("could not create a memory object"),
    ],
)
def test_out_of_memory_names_a_batch_that_fits(error: Exception) -> None:
    tried: list[int] = []

    def step(part: Batch) -> None:
        tried.append(len(part))
        if len(part) > 3:
            raise error

    with (
        pytest.raises(
            TrainingError,
            match=r"12 images of 1 × 16 × 16 a step\. 3 fit: .*batch_size=3, .*accumulate=4\. Kept\.",
        ),
        memory.explained(batch(), step, "Kept."),
    ):
        step(batch())
    assert tried == [12, 6, 3]


def test_out_of_memory_for_a_single_image() -> None:
    def step(part: Batch) -> None:
        raise MemoryError

    with (
        pytest.raises(TrainingError, match="Not even one fits: choose a smaller data"),
        memory.explained(batch(), step, "Kept."),
    ):
        step(batch())


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory.explained(batch(), print, "Kept."):
        raise RuntimeError("shapes do not match")
