"""The gradient of a batch, and what is done to it before a step.

A batch may be cut into pieces whose gradients add up to its own (less memory; equal to the whole batch for
networks without batch normalization). Noise on weights is added for one forward and backward pass. Then come,
in this order, L1, noise on gradients and clipping. All noise is drawn from torch's generator, which the
trainer sets anew at each step from (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from svertka.data.batches import Batch
from svertka.models.network import Network
from svertka.recipe import Recipe
from svertka.training.losses import batch_loss

NOISE_DECAY = 0.55
"""Exponent of the annealing of gradient noise (Neelakantan et al. 2015, section 3)."""


def gradient(network: Network, batch: Batch, recipe: Recipe) -> tuple[float, Tensor]:
    """Add the gradient of the mean loss of a batch to the parameters; returns the loss and logits (n, k)."""
    pieces = min(recipe.optimizer.accumulate, max(1, len(batch) // 2))  # batch normalization needs two
    smoothing, noise = recipe.regularization.label_smoothing, recipe.regularization.weight_noise
    total, answers = 0.0, []
    with noisy(network, noise) if noise else nullcontext():
        for piece in batch.pieces(pieces):
            value, logits = batch_loss(network(piece.images), piece, smoothing)
            share = len(piece) / len(batch)
            (value * share if pieces > 1 else value).backward()  # type: ignore[no-untyped-call]
            total += value.item() * share
            answers.append(logits)
    return total, torch.cat(answers)


@contextmanager
def noisy(network: nn.Module, share: float) -> Iterator[None]:
    """Weights with Gaussian noise, `share` of the root mean square of each tensor, then as they were."""
    with torch.no_grad():
        weights: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kept = [weight.clone() for weight in weights]
        for weight in weights:
            weight.add_(torch.randn_like(weight) * (share * weight.square().mean().sqrt()))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)


def regularize(network: nn.Module, recipe: Recipe, number: int) -> None:
    """L1, noise and clipping of the gradients before step `number`, counted from 0.

    L1 adds the penalty times the sign of the weights that decay (two or more dimensions). The noise has the
    variance η / (1 + t)^0.55 (Neelakantan et al. 2015, equations 1 and 2).
    """
    settings = recipe.regularization
    learning = [parameter for parameter in network.parameters() if parameter.grad is not None]
    with torch.no_grad():
        for parameter in learning:
            assert parameter.grad is not None
            if settings.l1 and parameter.ndim >= 2:
                parameter.grad.add_(parameter.sign(), alpha=settings.l1)
            if settings.gradient_noise:
                deviation = (settings.gradient_noise / (1 + number) ** NOISE_DECAY) ** 0.5
                parameter.grad.add_(torch.randn_like(parameter.grad), alpha=deviation)
    if recipe.optimizer.clip:
        nn.utils.clip_grad_norm_(learning, recipe.optimizer.clip)
