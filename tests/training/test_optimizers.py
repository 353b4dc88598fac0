"""Optimizers against the update rules of their papers, and the parameters that do not decay."""

import pytest
import torch
from torch import nn

from svertka import optimization as recipe
from svertka.runs.checkpoint import fill_optimizer, optimizer_tensors
from svertka.training.optimizers import build_optimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.PReLU(4), nn.Linear(4, 2)).double()


def test_norms_biases_and_slopes_are_spared() -> None:
    settings = recipe.Optimizer(learning_rate=0.1, weight_decay=0.5, momentum=0, nesterov=False)
    module = network()
    optimizer = build_optimizer(module, settings)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in module.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in ("0.weight", "3.weight") else 1.0
        torch.testing.assert_close(value.detach(), before[name] * factor)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_follows_sutskever(nesterov: bool) -> None:
    """v ← μ v + g; w ← w − η (g + μ v) with Nesterov's form, w − η v without (Sutskever et al. 2013)."""
    settings = recipe.Optimizer(learning_rate=0.2, momentum=0.7, nesterov=nesterov, weight_decay=0.1)
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    holder = nn.ParameterList([weight])
    optimizer = build_optimizer(holder, settings)
    w, v = weight.detach().clone(), torch.zeros_like(weight)
    for step in range(10):
        gradient = torch.sin(w * (step + 1))
        weight.grad = gradient.clone()
        optimizer.step()
        g = gradient + 0.1 * w
        v = 0.7 * v + g
        w = w - 0.2 * (g + 0.7 * v if nesterov else v)
        torch.testing.assert_close(weight.detach(), w)


def test_adamw_follows_loshchilov() -> None:
    """Decoupled decay, bias-corrected moments (Loshchilov & Hutter 2019, algorithm 2)."""
    settings = recipe.Optimizer(name="adamw", learning_rate=0.01, weight_decay=0.1)
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    optimizer = build_optimizer(nn.ParameterList([weight]), settings)
    w, m, s = weight.detach().clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 11):
        gradient = torch.sin(w * step)
        weight.grad = gradient.clone()
        optimizer.step()
        m, s = 0.9 * m + 0.1 * gradient, 0.999 * s + 0.001 * gradient**2
        w = w - 0.01 * 0.1 * w
        w = w - 0.01 * (m / (1 - 0.9**step)) / ((s / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(weight.detach(), w)


NAMED = {
    "adagrad": lambda groups: torch.optim.Adagrad(groups, 0.02, eps=1e-6),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, 0.02, alpha=0.95, eps=1e-6, momentum=0.8),
    "adam": lambda groups: torch.optim.Adam(groups, 0.02, (0.8, 0.95), 1e-6),
    "adamw": lambda groups: torch.optim.AdamW(groups, 0.02, (0.8, 0.95), 1e-6),
}
SETTINGS = {
    "adagrad": {},
    "rmsprop": {"smoothing": 0.95, "momentum": 0.8},
    "adam": {"beta1": 0.8, "beta2": 0.95},
    "adamw": {"beta1": 0.8, "beta2": 0.95},
}


def follow(
    first: nn.Module, one: torch.optim.Optimizer, second: nn.Module, two: torch.optim.Optimizer
) -> None:
    """Ten steps on the same made-up gradients; the parameters stay equal."""
    for step in range(1, 11):
        for module, optimizer in ((first, one), (second, two)):
            optimizer.zero_grad()
            for index, parameter in enumerate(module.parameters()):
                parameter.grad = torch.sin(parameter.detach() * step + index)
            optimizer.step()
        for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NAMED)
def test_the_adaptive_ones_are_those_of_torch(name: str) -> None:
    """Every setting reaches torch's own optimizer, over ten steps, with decay for matrices only."""
    ours, theirs = network(), network()
    settings = recipe.Optimizer(
        name=name, learning_rate=0.02, epsilon=1e-6, weight_decay=0.3, **SETTINGS[name]
    )
    decayed = [p for p in theirs.parameters() if p.ndim >= 2]
    spared = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": spared, "weight_decay": 0.0}]
    follow(ours, build_optimizer(ours, settings), theirs, NAMED[name](groups))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_sees_kernels_as_matrices(layout: torch.memory_format) -> None:
    """torch.optim.Muon on (out, in · k · k) matrices beside AdamW for the rest and the last layer.

    With channels last the columns are permuted, on which an orthogonalisation does not depend.
    """

    def convolutional() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.Linear(4, 2))

    ours = convolutional().to(memory_format=layout)
    settings = recipe.Optimizer(
        name="muon", learning_rate=0.02, momentum=0.9, weight_decay=0.1, rest_learning_rate=0.003
    )
    optimizer = build_optimizer(ours, settings)
    theirs = convolutional()
    kernels = [theirs[0].weight, theirs[2].weight]
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    muon = torch.optim.Muon(matrices, 0.02, weight_decay=0.1, momentum=0.9, nesterov=True)
    others = [p for p in theirs.parameters() if not any(p is kernel for kernel in kernels)]
    decays = [{"params": [p], "weight_decay": 0.1 if p.ndim >= 2 else 0.0} for p in others]
    adamw = torch.optim.AdamW(decays, 0.003)
    for step in range(1, 11):
        for index, (mine, their) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            their.grad = torch.cos(torch.arange(their.numel()) * 0.7 + step + index).view_as(their)
            mine.grad = their.grad.clone()
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        optimizer.step()
        muon.step()
        adamw.step()
        with torch.no_grad():
            for matrix, kernel in zip(matrices, kernels, strict=True):
                kernel.copy_(matrix.view_as(kernel))
        for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-3, atol=2e-4)  # Muon works in bfloat16


def test_a_state_of_muon_put_back_goes_on_bitwise() -> None:
    settings = recipe.Optimizer(name="muon", learning_rate=0.02)
    torch.manual_seed(1)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    second = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    one = build_optimizer(first, settings)
    for parameter in first.parameters():
        parameter.grad = torch.ones_like(parameter)
    one.step()
    one.param_groups[0]["lr"] = 0.5
    second.load_state_dict(first.state_dict())
    two = build_optimizer(second, settings)
    tensors, groups = optimizer_tensors(one)
    fill_optimizer(two, {name: tensor.clone() for name, tensor in tensors.items()}, groups)
    assert two.param_groups[0]["lr"] == 0.5
    for module, optimizer in ((first, one), (second, two)):
        for parameter in module.parameters():
            parameter.grad = torch.sin(parameter.detach())
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_lower_modules_train_at_the_lower_rate() -> None:
    module = network()
    optimizer = build_optimizer(module, recipe.Optimizer(learning_rate=0.5), [module[0]], 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in module[0].parameters()] == pytest.approx([0.05, 0.05])
    assert {rates[id(p)] for p in [*module[1].parameters(), *module[3].parameters()]} == {0.5}
