"""From a network and batches to logits: the one loop that answers without learning."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from svertka import progress
from svertka.data.batches import Stream


def answer(network: nn.Module, batches: Stream, title: str | None = None) -> NDArray[np.float32]:
    """Logits (n, k) of all images of `batches`, in their order; leaves the network in the mode it had.

    With a `title` the work is shown as progress.
    """
    was_training = network.training
    network.eval()
    parts = []
    try:
        with torch.inference_mode(), progress.track(title, total=len(batches.indices)) as step:
            for batch in batches.epoch(0):
                parts.append(network(batch.images).float().cpu())
                step(len(batch.labels))
    finally:
        network.train(was_training)
    return torch.cat(parts).numpy()
