"""Optimizers: torch's own, over two groups of parameters: matrices and kernels decay, the rest do not."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from svertka import recipe


def build_optimizer(
    network: nn.Module,
    settings: recipe.Optimizer,
    lower: Iterable[nn.Module] = (),
    lower_rate: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer of the settings over the parameters that want a gradient.

    The parameters of the modules `lower` train at `lower_rate` times the learning rate.

    Weight decay acts on tensors of two or more dimensions (the weights of linear layers and convolutions)
    and spares norms, biases and learned activation slopes (He et al. 2018, "Bag of tricks", section 3.1).
    """
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    below = {id(parameter) for module in lower for parameter in module.parameters()}
    groups = []
    for is_lower, factor in ((False, 1.0), (True, lower_rate)):
        part = [p for p in wanted if (id(p) in below) == is_lower]
        rate = settings.learning_rate * factor
        matrices, vectors = [p for p in part if p.ndim >= 2], [p for p in part if p.ndim < 2]
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "lr": rate})
        groups.append({"params": vectors, "weight_decay": 0.0, "lr": rate})
    groups = [group for group in groups if group["params"]]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )
