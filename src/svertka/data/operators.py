"""Random operators on uint8 batches (n, size, size, c): what `augment` applies after the crop.

Each is a row of `OPERATORS`: whether it acts, and a function of batch, settings and a generator of its own
that draws a fixed number of values an image, in the order of the batch. What torchvision also has gives its
values for the same parameters, to one grey level (it rounds down where this rounds to the nearest).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from svertka.augmentation import Augment
from svertka.data import trivial
from svertka.images.resize import channels_last

Images = NDArray[np.uint8]
Random = np.random.Generator

MID_GREY = 128
LUMA = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as torchvision rounds it
LEAST_SIGMA = 0.1  # px, of a blur
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def flip(batch: Images, settings: Augment, random: Random) -> Images:
    """Mirror each image left to right with probability 1/2; in place."""
    for place in np.flatnonzero(random.random(len(batch)) < 0.5).tolist():
        image = channels_last(batch[place])
        image.copy_(image.flip(3))
    return batch


def quarter_turns(batch: Images, settings: Augment, random: Random) -> Images:
    """Rotate each image by 0, 90, 180 or 270 degrees."""
    for place, turns in enumerate(random.integers(0, 4, len(batch)).tolist()):
        batch[place] = np.rot90(batch[place], turns).copy()
    return batch


def rotate(batch: Images, settings: Augment, random: Random) -> Images:
    """Rotate each image about its centre, bilinear, mid-grey outside; angles uniform."""
    degrees = random.uniform(-settings.rotation, settings.rotation, len(batch))
    return rotated(batch, np.radians(degrees))


def rotated(batch: Images, angles: NDArray[np.float64]) -> Images:
    """Images turned counter-clockwise by `angles` (n,) in radians."""
    cosine, sine = np.cos(angles), np.sin(angles)
    zero = np.zeros_like(angles)
    matrices = np.stack(
        [np.stack([cosine, -sine, zero], 1), np.stack([sine, cosine, zero], 1)], 1
    )  # (n, 2, 3)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() - MID_GREY  # zeros outside are mid-grey
    grid = F.affine_grid(
        torch.from_numpy(matrices.astype(np.float32)), list(images.shape), align_corners=False
    )
    turned = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return _bytes((turned + MID_GREY).permute(0, 2, 3, 1).numpy())


def brightness(batch: Images, settings: Augment, random: Random) -> Images:
    return _bytes(batch * _factors(batch, settings.brightness, random))


def contrast(batch: Images, settings: Augment, random: Random) -> Images:
    """Blend with the mean of the grey image."""
    factors = _factors(batch, settings.contrast, random)
    mean = np.floor(greys(batch)).mean(axis=(1, 2, 3), keepdims=True)
    return _bytes(mean + factors * (batch - mean))


def saturation(batch: Images, settings: Augment, random: Random) -> Images:
    """Blend with the grey image."""
    factors = _factors(batch, settings.saturation, random)
    grey = np.floor(greys(batch))
    return _bytes(grey + factors * (batch - grey))


def hue(batch: Images, settings: Augment, random: Random) -> Images:
    """Turn the hue of each image by a share of the colour circle."""
    return turned_hue(batch, random.uniform(-settings.hue, settings.hue, len(batch)))


def turned_hue(batch: Images, shares: NDArray[np.float64]) -> Images:
    """Through hue, saturation and value: V and the chroma stay, the hue moves by `shares` (n,)."""
    value, lowest = batch.max(axis=3).astype(np.float32), batch.min(axis=3).astype(np.float32)
    chroma = value - lowest
    scaled = batch.astype(np.float32) / np.maximum(chroma, 1)[..., None]
    red, green, blue = (scaled[..., channel] for channel in range(3))
    first, second = batch[..., 0] == value, batch[..., 1] == value
    sixth = np.where(first, green - blue, np.where(second, blue - red + 2, red - green + 4))  # of the circle
    sixth = sixth + 6 * shares.astype(np.float32)[:, None, None]
    made = np.empty(batch.shape, dtype=np.float32)
    for channel, offset in enumerate((5, 3, 1)):
        place = (offset + sixth) % 6
        made[..., channel] = value - chroma * np.clip(np.minimum(place, 4 - place), 0, 1)
    return _bytes(made)


def drop_colour(batch: Images, settings: Augment, random: Random) -> Images:
    chosen = random.random(len(batch)) < settings.grey
    batch[chosen] = np.floor(greys(batch[chosen])).astype(np.uint8)
    return batch


def greys(batch: Images) -> NDArray[np.float32]:
    """The grey images (n, h, w, 1)."""
    if batch.shape[3] == 1:
        return batch.astype(np.float32)
    grey: NDArray[np.float32] = (batch @ LUMA)[..., None]
    return grey


def blur(batch: Images, settings: Augment, random: Random) -> Images:
    """Gaussian blur of half the images, sigma uniform; the kernel reaches three of the largest sigma."""
    chosen = random.random(len(batch)) < 0.5
    sigmas = random.uniform(min(LEAST_SIGMA, settings.blur), settings.blur, len(batch))
    if chosen.any():
        batch[chosen] = blurred(batch[chosen], sigmas[chosen], kernel_size(settings.blur, batch.shape[1]))
    return batch


def kernel_size(sigma: float, side: int) -> int:
    """Odd, three sigma to each side, and small enough for reflection."""
    return 2 * min(math.ceil(3 * sigma), side - 1) + 1


def blurred(batch: Images, sigmas: NDArray[np.float64], size: int) -> Images:
    """Images blurred with `sigmas` (n,) px and kernels of `size` px, reflected at the borders."""
    count, height, width, channels = batch.shape
    places = torch.arange(size) - (size - 1) / 2
    kernels = torch.exp(-0.5 * (places / torch.from_numpy(sigmas.astype(np.float32))[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (n c, size)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).reshape(1, count * channels, height, width).float()
    for shape in ((size, 1), (1, size)):
        pad = [shape[1] // 2, shape[1] // 2, shape[0] // 2, shape[0] // 2]
        images = F.conv2d(
            F.pad(images, pad, mode="reflect"), kernels.view(-1, 1, *shape), groups=len(kernels)
        )
    return _bytes(images.view(count, channels, height, width).permute(0, 2, 3, 1).numpy())


def sobel(batch: Images, settings: Augment, random: Random) -> Images:
    chosen = random.random(len(batch)) < settings.sobel
    if chosen.any():
        batch[chosen] = edges(batch[chosen])
    return batch


def edges(batch: Images) -> Images:
    """√(gx² + gy²) / 4 of each channel by Sobel's kernels, borders repeated: a step of 255 gives 255."""
    count, height, width, channels = batch.shape
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).reshape(count * channels, 1, height, width).float()
    horizontal = torch.tensor(SOBEL)
    kernels = torch.stack([horizontal, horizontal.T])[:, None] / 4
    gradients = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernels)  # (n c, 2, h, w)
    strength = gradients.square().sum(1).sqrt().view(count, channels, height, width)
    return _bytes(strength.permute(0, 2, 3, 1).numpy())


def noise(batch: Images, settings: Augment, random: Random) -> Images:
    drawn = random.standard_normal(batch.shape, dtype=np.float32)
    return _bytes(batch + settings.noise * drawn)


def cutout(batch: Images, settings: Augment, random: Random) -> Images:
    """A mid-grey square whose centre is anywhere in the image (DeVries & Taylor 2017); in place."""
    size = batch.shape[1]
    side = round(settings.cutout * size)
    begins = random.integers(0, size, (len(batch), 2)) - side // 2
    for image, (top, left) in zip(batch, begins.tolist(), strict=True):
        image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = MID_GREY
    return batch


@dataclass(frozen=True)
class Operator:
    """A setting of `Augment` and what it does."""

    setting: str
    apply: Callable[[Images, Augment, Random], Images]


OPERATORS = (
    Operator("flip", flip),
    Operator("quarter_turns", quarter_turns),
    Operator("rotation", rotate),
    Operator("brightness", brightness),
    Operator("contrast", contrast),
    Operator("saturation", saturation),
    Operator("hue", hue),
    Operator("grey", drop_colour),
    Operator("blur", blur),
    Operator("sobel", sobel),
    Operator("trivial", lambda batch, settings, random: trivial.trivial_augment(batch, random)),
    Operator("noise", noise),
    Operator("cutout", cutout),
)
"""In the order in which they are applied. Each has the generator of its place, so new ones go to the end."""


def _factors(batch: Images, most: float, random: Random) -> NDArray[np.float32]:
    """One an image, uniform from 1 - most to 1 + most."""
    drawn = random.uniform(1 - most, 1 + most, len(batch))
    return drawn.astype(np.float32)[:, None, None, None]


def _bytes(values: NDArray[np.float32]) -> Images:
    """Rounded, clipped and contiguous."""
    rounded = np.rint(values)
    return np.ascontiguousarray(np.clip(rounded, 0, 255, out=rounded).astype(np.uint8))
