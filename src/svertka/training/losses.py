"""The loss: cross-entropy with label smoothing, auxiliary classifiers added at their published share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from svertka.data.batches import Batch
from svertka.models.network import Outputs
from svertka.shapes import Int

AUXILIARY_SHARE = 0.3
"""Weight of each auxiliary classifier (Szegedy et al. 2014, "Going deeper with convolutions", section 5)."""


def loss(
    outputs: Tensor | Outputs, labels: Int[Tensor, " n"], label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch (a scalar, nats), and the main logits (n, k) without gradient.

    Smoothing spreads that share of the target evenly over all k classes (Szegedy et al. 2015, section 7).
    """
    logits, auxiliary = outputs if isinstance(outputs, Outputs) else (outputs, ())
    total = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    for other in auxiliary:
        total = total + AUXILIARY_SHARE * F.cross_entropy(other, labels, label_smoothing=label_smoothing)
    return total, logits.detach()


def batch_loss(
    outputs: Tensor | Outputs, batch: Batch, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """As `loss`, for a batch whose images may be mixed: each label's loss counts by its share."""
    own, logits = loss(outputs, batch.labels, label_smoothing)
    if batch.partners is None:
        return own, logits
    other, _ = loss(outputs, batch.partners, label_smoothing)
    return batch.share * own + (1 - batch.share) * other, logits


def num_correct(logits: Tensor, batch: Batch) -> float:
    """How many of a batch are right; of a mixed image each label counts by its share."""
    own = correct(logits, batch.labels)
    if batch.partners is None:
        return own
    return batch.share * own + (1 - batch.share) * correct(logits, batch.partners)


def correct(logits: Tensor, labels: Int[Tensor, " n"]) -> int:
    """How many of a batch are right."""
    return int((logits.argmax(dim=1) == labels).sum())


def chance(num_classes: int) -> float:
    """The loss of a network that knows nothing: ln k."""
    return float(torch.log(torch.tensor(float(num_classes))))
