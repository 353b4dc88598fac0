"""Mixup and cutmix: a batch mixed with itself, moved on by one image.

    mixup    x = λ x₁ + (1 − λ) x₂                          Zhang et al. 2018, section 2
    cutmix   a box of area 1 − λ of x₂ is pasted into x₁    Yun et al. 2019, section 3.1

λ is drawn from Beta(α, α), once a batch, and the loss is λ of that for x₁'s label and 1 − λ of that for x₂'s.
Mixup takes any inputs, also the features of a frozen trunk. If both are on, each batch gets one of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from svertka.augmentation import Augment
from svertka.data.batches import Batch
from svertka.randomness import generator


def mixed(batch: Batch, settings: Augment, *place: int) -> Batch:
    """A batch mixed as the settings say, or as it was.

    Args:
        place: seed, epoch and step, on which alone the draw depends.
    """
    names = [name for name in ("mixup", "cutmix") if getattr(settings, name)]
    if not names or len(batch) < 2:
        return batch
    seed, *step = place
    random = generator(seed, "mix", *step)
    name = names[int(random.integers(len(names)))]
    alpha = getattr(settings, name)
    share = float(random.beta(alpha, alpha))
    images, others = batch.images, batch.images.roll(1, 0)
    if name == "mixup":
        images = others.mul_(1 - share).add_(images, alpha=share)
    else:
        height, width = images.shape[2:]
        top, bottom = span(height, share, random)
        left, right = span(width, share, random)
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return replace(batch, images=images, partners=batch.labels.roll(1, 0), share=share)


def span(length: int, share: float, random: np.random.Generator) -> tuple[int, int]:
    """Begin and end of the box on one side: centre anywhere, √(1 − λ) of the length, cut at the borders."""
    centre = int(random.integers(length))
    half = int(length * (1 - share) ** 0.5 / 2)
    return max(centre - half, 0), min(centre + half, length)
