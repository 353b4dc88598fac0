"""Optimizers against the update rules of their papers, and the parameters that do not decay."""

import pytest
import torch
from torch import nn

from svertka import recipe
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
