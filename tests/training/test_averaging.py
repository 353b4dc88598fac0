"""Averages of weights against the equations of their papers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from svertka.models.catalog import build
from svertka.optimization import Averaging
from svertka.training.averaging import Average


def network() -> nn.Module:
    return build("resnet20", classes=3, in_channels=1, size=16, seed=1)


def moved(net: nn.Module, number: int) -> dict[str, Tensor]:
    """Move weights and statistics somewhere; returns copies."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def close(found: dict[str, Tensor], expected: dict[str, Tensor], names: list[str]) -> None:
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_none_is_the_network_itself() -> None:
    net = network()
    average = Average(net, Averaging())
    average.after_step(net, 1)
    assert average.answering(net) is net
    assert average.tensors() == {}


def test_ema_over_ten_steps() -> None:
    """a ← d a + (1 − d) w from the first weights on, statistics of norms as well."""
    net = network()
    average = Average(net, Averaging(name="ema", decay=0.8))
    assert average.answering(net) is net
    expected: dict[str, Tensor] = {}
    for number in range(1, 11):
        now = moved(net, number)
        average.after_step(net, number)
        expected = {k: 0.8 * expected[k] + 0.2 * v if expected else v for k, v in now.items()}
    names = [name for name, tensor in now.items() if tensor.is_floating_point()]
    found = average.answering(net).state_dict()
    close(found, expected, names)
    assert not torch.allclose(found[names[0]], now[names[0]])


def test_swa_is_the_mean_of_late_epochs_with_fresh_statistics() -> None:
    """Epochs 3 and 4 of 4 after `start` 0.5; the statistics are those of one pass, as torch counts them."""
    net = network()
    average = Average(net, Averaging(name="swa", start=0.5))
    images = [torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    kept = []
    for number in range(1, 5):
        kept.append(moved(net, number))
        average.after_step(net, number)
        average.after_epoch(net, number / 4, iter(images))
        assert (average.answering(net) is net) == (number <= 2)
    names = [name for name, _ in net.named_parameters()]
    answering = average.answering(net)
    close(answering.state_dict(), {k: (kept[2][k] + kept[3][k]) / 2 for k in names}, names)
    seen = torch.cat([torch.nn.functional.conv2d(x, answering.stem[0].weight, padding=1) for x in images])
    torch.testing.assert_close(answering.stem[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_lookahead_over_ten_steps() -> None:
    """slow ← slow + α (fast − slow) every k steps, and fast ← slow (Zhang et al. 2019, algorithm 1)."""
    net = network()
    names = [name for name, _ in net.named_parameters()]
    slow = {name: net.state_dict()[name].clone() for name in names}
    average = Average(net, Averaging(name="lookahead", sync_steps=3, slow_rate=0.5))
    for number in range(1, 11):
        fast = moved(net, number)
        average.after_step(net, number)
        if number % 3 == 0:
            slow = {name: slow[name] + 0.5 * (fast[name] - slow[name]) for name in names}
            close(net.state_dict(), slow, names)
        else:
            close(net.state_dict(), fast, names)
        close(average.answering(net).state_dict(), slow, names)


@pytest.mark.parametrize("name", ["ema", "swa", "lookahead"])
def test_a_state_put_back_goes_on_bitwise(name: str) -> None:
    net = network()
    settings = Averaging(name=name, **({"start": 0.0} if name == "swa" else {}))
    average, other = Average(net, settings), Average(net, settings)
    for number in range(1, 6):
        moved(net, number)
        average.after_step(net, number)
        average.after_epoch(net, number / 10, [torch.randn(4, 1, 16, 16)])
    other.fill({key: tensor.clone() for key, tensor in average.tensors().items()})
    for number in range(6, 11):
        now = moved(net, number)
        images = [torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(number))]
        for one in (average, other):
            net.load_state_dict(now)  # lookahead moves it
            one.after_step(net, number)
            one.after_epoch(net, number / 10, images)
    first, second = average.answering(net).state_dict(), other.answering(net).state_dict()
    assert first
    assert all(torch.equal(first[key], second[key]) for key in first)
