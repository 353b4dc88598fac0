"""Optimizers: torch's own, over two groups of parameters: matrices and kernels decay, the rest do not."""

from __future__ import annotations

import torch
from torch import nn

from svertka import recipe


def build_optimizer(network: nn.Module, settings: recipe.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of the settings over the parameters that want a gradient.

    Weight decay acts on tensors of two or more dimensions (the weights of linear layers and convolutions)
    and spares norms, biases and learned activation slopes (He et al. 2018, "Bag of tricks", section 3.1).
    """
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in wanted if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in wanted if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )
