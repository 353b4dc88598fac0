"""The effective receptive field: how much each pixel of the window really counts.

The gradient of a unit in the middle of the maps with respect to the image, averaged over random images: in
the middle large, towards the borders of the window nearly nothing, roughly a Gaussian.

Source: Luo, Li, Urtasun, Zemel 2016, arXiv:1701.04128, section 3. Here all maps at the middle position count
together, and the mean is over absolute values and input channels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from svertka.errors import ModelError
from svertka.models.anatomy import eval_mode
from svertka.models.network import Network
from svertka.randomness import torch_generator

BATCH = 4
"""Images at a time."""


def effective_receptive_field(
    network: Network, stage: int = -1, *, size: int, channels: int = 3, images: int = 16, seed: int = 0
) -> NDArray[np.float32]:
    """The mean absolute gradient of the middle unit of `stages[stage]`, (size, size), largest value 1.

    The images are standard normal noise from `seed`; the network, in eval mode, is left as it was. `size` is
    the side of the images in pixels.

    Raises:
        ModelError: the network has no such stage, or nothing of the image reaches its middle unit.
    """
    count = len(network.stages)
    if not count:
        raise ModelError("this network has no stages, so no maps whose effective field could be measured.")
    if not -count <= stage < count:
        raise ModelError(f"expected a stage from 0 to {count - 1}, or counted back from -1; got {stage}.")
    if images < 1:
        raise ModelError(f"the mean needs at least one image; got images={images}.")
    generator = torch_generator(seed, "noise")
    weights = next(network.parameters())
    total = torch.zeros(size, size, dtype=torch.float64)
    with eval_mode(network):
        for start in range(0, images, BATCH):
            shape = (min(BATCH, images - start), channels, size, size)
            batch = torch.randn(shape, generator=generator).to(weights).requires_grad_()
            maps = network.stem(batch)
            for module in network.stages[: stage % count + 1]:
                maps = module(maps)
            middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]  # (n, c)
            gradient = torch.autograd.grad(middle.sum(), batch)[0]
            total += gradient.abs().sum((0, 1)).cpu()
    if not total.max() > 0:
        raise ModelError("no gradient comes from the middle unit to the image; the activations may be dead.")
    return np.asarray(total / total.max(), dtype=np.float32)
