"""From a network and batches to logits: the one loop that answers without learning.

A network as it stands answers bit for bit as in training. For many images an engine may answer in its place
(`answering`): the fastest on this machine that agrees with it (`svertka.engine.choose` states the tolerance).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from svertka import progress
from svertka.data.batches import Stream
from svertka.engine import Engine, engine, fastest

MACS_A_SECOND = 30e9  # of a network as it stands, on two cores of a laptop
SECONDS_TO_CHOOSE = 3.0  # tracing, building and measuring the engines, the first time
BATCH = 32  # images a call for which the engines are measured


def answer(network: nn.Module | Engine, batches: Stream, title: str | None = None) -> NDArray[np.float32]:
    """Logits (n, k) of all images of `batches`, in their order; leaves a network in the mode it had.

    With a `title` the work is shown as progress.
    """
    module = nn.Identity() if isinstance(network, Engine) else network  # an engine has no mode
    was_training = module.training
    module.eval()
    parts = []
    try:
        with torch.inference_mode(), progress.track(title, total=len(batches.indices)) as step:
            for batch in batches.epoch(0):
                parts.append(network(batch.images).float().cpu())
                step(len(batch.labels))
    finally:
        module.train(was_training)
    return torch.cat(parts).numpy()


def answering(network: nn.Module, shape: tuple[int, ...], macs: float, num_images: int) -> Engine:
    """What answers soonest for so many images of `shape` (c, h, w), of `macs` multiply–accumulates each.

    It is the network itself where it would be done before an engine could pay for being chosen: judged from
    the counts alone, so that the same command gives the same bits.

    Raises:
        ModelError: the network is in training mode.
        StoreError: the choice cannot be written (full disk).
    """
    eager_seconds = num_images * macs / MACS_A_SECOND
    if eager_seconds <= 2 * SECONDS_TO_CHOOSE:
        return engine(network, "eager", shape)
    chosen = fastest(network, shape, batch_size=BATCH)
    if chosen.name != "eager":
        progress.say(f"engine: {chosen.name}, {chosen.images_per_second[chosen.name]:,.0f} images/s")
    return chosen
