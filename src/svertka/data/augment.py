"""Random transforms of whole uint8 batches, between the stored pixels and the normalization.

A crop turns stored images, which may differ in size, into a batch (n, size, size, c), and the operators of
`operators.py` change such batches. The crop and every operator have generators of their own.
So what happens to an image depends on the generator given and the image's place in the batch, on no other
image, and not on which other operators are on. A new operator goes to the end of the table and changes no
old run. A batch here may be a part of what a step sees: each part has a generator of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from svertka.augmentation import Augment
from svertka.data.operators import OPERATORS
from svertka.data.store import Pixels
from svertka.images.preprocess import Preprocess
from svertka.images.resize import resize
from svertka.shapes import UInt8

Images = NDArray[np.uint8]

RATIO = (3 / 4, 4 / 3)  # of a random box, width to height, as in Inception's training
ATTEMPTS = 10  # to find a box that fits, as torchvision's RandomResizedCrop
SMALL = 64  # px: up to this size all crops of a batch are one gather, above it each is a copy of rows


def augment(
    pixels: Pixels,
    indices: NDArray[np.int64],
    preprocess: Preprocess,
    settings: Augment,
    generator: np.random.Generator,
) -> UInt8[np.ndarray, "n size size c"]:
    """Stored images as a randomly transformed batch, not yet normalized.

    With `resized_crop` a random box of each stored image is resized to the input size. With `pad_crop` a
    random square of the input size is cut from the stored image (fit crop) or the evaluation view (other
    fits), continued by reflection. With neither the evaluation view is the start.
    """
    crop_seed, *seeds = generator.bit_generator.seed_seq.spawn(1 + len(OPERATORS))  # type: ignore[attr-defined]
    crop_generator = np.random.default_rng(crop_seed)
    if settings.resized_crop:
        boxes = draw_boxes(pixels.shapes[indices], settings.resized_crop, crop_generator)
        batch = resized_crops(pixels, indices, boxes, preprocess.size)
    elif settings.pad_crop:
        batch = pad_crops(pixels, indices, preprocess, settings.pad_crop, crop_generator)
    else:
        batch = evaluation_views(pixels, indices, preprocess)
    for operator, seed in zip(OPERATORS, seeds, strict=True):
        if getattr(settings, operator.setting):
            batch = operator.apply(batch, settings, np.random.default_rng(seed))
    return batch


def evaluation_views(
    pixels: Pixels, indices: NDArray[np.int64], preprocess: Preprocess
) -> UInt8[np.ndarray, "n size size c"]:
    """The evaluation view of each stored image."""
    size = preprocess.size
    shape = pixels.common_shape
    if shape == (size, size):
        return pixels.gather(indices)
    views = np.empty((len(indices), size, size, pixels.channels), dtype=np.uint8)
    for place, index in enumerate(indices.tolist()):
        views[place] = preprocess.fit_image(pixels[index])
    return views


def draw_boxes(
    shapes: NDArray[np.int32], least_area: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """A random box (top, left, height, width) in each image, (n, 4), as in RandomResizedCrop.

    Its share of the area is uniform from `least_area` to 1, the logarithm of its ratio between those of
    `RATIO`. Of ten boxes the first that fits is taken; if none does, the largest centred one of the nearest
    allowed ratio.
    """
    draws = generator.random((len(shapes), 2 * ATTEMPTS + 2))
    height, width = shapes[:, :1].astype(np.float64), shapes[:, 1:].astype(np.float64)  # (n, 1)
    area = height * width * (least_area + (1 - least_area) * draws[:, :ATTEMPTS])  # (n, attempts)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = np.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    box_width, box_height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits: NDArray[np.bool_] = (
        (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    )
    found = np.any(fits, axis=1)
    first = np.argmax(fits, axis=1)[:, None]
    box_width = np.take_along_axis(box_width, first, axis=1)
    box_height = np.take_along_axis(box_height, first, axis=1)
    top = np.floor(draws[:, -2:-1] * (height - box_height + 1))
    left = np.floor(draws[:, -1:] * (width - box_width + 1))
    fallback_width = np.minimum(width, np.rint(height * RATIO[1]))
    fallback_height = np.minimum(height, np.rint(width / RATIO[0]))
    centred = (height - fallback_height) // 2, (width - fallback_width) // 2, fallback_height, fallback_width
    drawn = top, left, box_height, box_width
    boxes = np.where(found[:, None], np.hstack(drawn), np.hstack(centred))
    return boxes.astype(np.int64)


def resized_crops(
    pixels: Pixels, indices: NDArray[np.int64], boxes: NDArray[np.int64], size: int
) -> UInt8[np.ndarray, "n size size c"]:
    """Each image's box, resized to size × size (antialiased bilinear)."""
    batch = np.empty((len(indices), size, size, pixels.channels), dtype=np.uint8)
    for place, index in enumerate(indices.tolist()):
        top, left, height, width = boxes[place].tolist()
        batch[place] = resize(pixels[index][top : top + height, left : left + width], size, size)
    return batch


def pad_crops(
    pixels: Pixels,
    indices: NDArray[np.int64],
    preprocess: Preprocess,
    pad: int,
    generator: np.random.Generator,
) -> UInt8[np.ndarray, "n size size c"]:
    """A random square of the input size from each image, continued by `pad` reflected pixels on all sides."""
    size, whole = preprocess.size, preprocess.fit == "crop"
    shapes = pixels.shapes[indices] if whole else np.full((len(indices), 2), size)
    room = shapes + 2 * pad - size + 1  # places where a crop may begin
    begins = np.floor(generator.random((len(indices), 2)) * room).astype(np.int64) - pad
    rows, columns = (reflected(begins[:, axis], shapes[:, axis], size) for axis in (0, 1))
    if whole and size <= SMALL and pixels.common_shape:
        return pixels.gather(indices, rows, columns)
    crops = np.empty((len(indices), size, size, pixels.channels), dtype=np.uint8)
    for place, index in enumerate(indices.tolist()):
        image = pixels[index] if whole else preprocess.fit_image(pixels[index])
        top, left = begins[place].tolist()
        if min(top, left) >= 0 and top + size <= image.shape[0] and left + size <= image.shape[1]:
            crops[place] = image[top : top + size, left : left + size]
        else:
            pixel = image.view(f"V{pixels.channels}")[..., 0]  # (h, w), a pixel as one element: moves faster
            crops[place] = pixel.take(rows[place], 0).take(columns[place], 1)[..., None].view(np.uint8)
    return crops


def reflected(begin: NDArray[np.int64], length: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Which pixel of a line of `length` stands at each place from `begin` on, (n, size).

    Outside, the line is reflected without repeating its ends, as torch's mode "reflect" does.
    """
    places: NDArray[np.int64] = np.abs(begin[:, None] + np.arange(size))
    last = length[:, None].astype(np.int64) - 1
    inside: NDArray[np.int64] = np.minimum(places, 2 * last - places)
    return inside
