"""Batches: stored pixels become the batches that a network sees, in an order that the seed decides.

Which images a step gets and what happens to them is a function of (seed, epoch, step) alone, so training can
go on at any step without replaying the ones before. One background thread assembles the next batches while
the network works on this one, each in further threads that take a few images all the way to the input.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svertka.augmentation import Augment
from svertka.data.augment import augment, evaluation_views
from svertka.data.order import Order
from svertka.data.parallel import cores, for_each, in_order
from svertka.data.store import Pixels
from svertka.errors import DataError, OptionError
from svertka.images.preprocess import WHITENED, Preprocess
from svertka.randomness import generator
from svertka.shapes import Float, Int, UInt8

AHEAD = 2  # batches that are made before they are asked for
FREE = 3  # references to a buffer of a list in a loop over it, counted by sys.getrefcount
PIXELS_A_TASK = 1 << 20  # enough that drawing random numbers and taking turns cost little
NUMBERS_A_ROW = 1 << 12  # of float32 that scale and shift one pass of a loop


@dataclass(frozen=True)
class Batch:
    """Inputs with their labels, on the device, and which items of the dataset they are."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    indices: Int[Tensor, " n"]
    partners: Int[Tensor, " n"] | None = None  # labels of the images that were mixed in,
    share: float = 1.0  # and the share of the images' own labels

    def __len__(self) -> int:
        return len(self.labels)

    def pieces(self, count: int) -> list[Batch]:
        """`count` parts, of equal length or one apart."""
        cuts = np.array_split(np.arange(len(self)), count)
        parts = [slice(int(cut[0]), int(cut[-1]) + 1) for cut in cuts]
        partners = [None if self.partners is None else self.partners[part] for part in parts]
        return [
            Batch(self.images[part], self.labels[part], self.indices[part], partner, self.share)
            for part, partner in zip(parts, partners, strict=True)
        ]


class Stream(Protocol):
    """What a training loop asks of a part of a dataset: inputs (pixels or features) in batches."""

    labels: NDArray[np.int64]  # of the whole dataset
    indices: NDArray[np.int64]  # the items of this part
    batch_size: int

    def __len__(self) -> int:
        """Steps an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""


class Batches:
    """The batches of one part of a dataset, epoch by epoch.

    Args:
        pixels: the stored images of the whole dataset.
        labels: (num_items,) int64 of the whole dataset.
        indices: (n,) the items of this part.
        preprocess: fitted; gives the views and the normalization.
        batch_size: images a step; see `Order` for the last one.
        seed: of order and augmentation.
        augment: random transforms; None: the evaluation views.
        shuffle: a new order each epoch; else that of `indices`.
        device: where the batches go.
        memory_format: of the images, such as `torch.channels_last`.

    Raises:
        DataError: no items, or one that could not be decoded.
        OptionError: a batch size below 1, or padding that reflection cannot fill.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int = 0,
        augment: Augment | None = None,
        shuffle: bool = False,
        device: str | torch.device = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int64)
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self._order = Order(self.indices, batch_size, seed, shuffle)
        self.device = torch.device(device)
        self._check()
        self._normalize = Normalizer(preprocess, self.device, memory_format)

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self._order)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` from step `start` on, whether earlier ones were asked for or not."""
        items = self._order.epoch(number)
        with ThreadPoolExecutor(cores()) as pool, ThreadPoolExecutor(1) as assembler:

            def assemble(step: int) -> Batch:
                return self._batch(number, step, self._order.step(items, step), pool)

            yield from in_order(assembler, assemble, range(start, len(self)), ahead=AHEAD)

    def _batch(self, epoch: int, step: int, indices: NDArray[np.int64], pool: ThreadPoolExecutor) -> Batch:
        def views(part: slice) -> UInt8[np.ndarray, "n size size c"]:
            if self.augment is None:
                return evaluation_views(self.pixels, indices[part], self.preprocess)
            random = generator(self.seed, "augment", epoch, step, part.start)
            return augment(self.pixels, indices[part], self.preprocess, self.augment, random)

        return Batch(
            self._normalize(views, len(indices), pool),
            torch.from_numpy(self.labels[indices]).to(self.device),
            torch.from_numpy(indices.copy()),
        )

    def _check(self) -> None:
        if self.batch_size < 1:
            raise OptionError(f"a batch has at least 1 image, got {self.batch_size}.")
        if not len(self.indices):
            raise DataError("there are no images to make batches of; expected at least one.")
        shapes = self.pixels.shapes[self.indices]
        broken = self.indices[shapes[:, 0] == 0]
        if len(broken):
            example = self.pixels.broken[int(broken[0])]
            raise DataError(f"{len(broken)} of these images could not be decoded, such as: {example}")
        colours = self.augment.colours() if self.augment and self.preprocess.channels == 1 else []
        if colours:
            raise OptionError(
                f"{', '.join(f'augment.{name}' for name in colours)} changes colours, and these images are "
                "read with 1 channel; leave it out, or set data.channels = 3."
            )
        pad = self.augment.pad_crop if self.augment else 0
        shortest = int(shapes.min()) if self.preprocess.fit == "crop" else self.preprocess.size
        if pad >= shortest:
            raise OptionError(
                f"augment.pad_crop reflects at most {shortest - 1} pixels of these images, got {pad}."
            )


class Normalizer:
    """Inputs from views: `Preprocess.normalize` for batches, the same to the bit.

    That is x * scale - shift in float32. On the CPU it works in NumPy and the threads of the batch, so as not
    to disturb the threads that torch trains with; for other devices it sends the bytes there and works there.
    """

    def __init__(
        self, preprocess: Preprocess, device: torch.device, memory_format: torch.memory_format
    ) -> None:
        self.device = device
        self.shape = (preprocess.size, preprocess.size, preprocess.channels)
        self.most = max(1, PIXELS_A_TASK // preprocess.size**2)  # images a task
        self._buffers: list[NDArray[np.float32]] = []
        self.scale, self.shift = preprocess.affine()
        self.whiten, self.whitens = preprocess.whiten, preprocess.normalization in WHITENED
        self.last = memory_format == torch.channels_last and not self.whitens
        if self.last:  # NumPy is fast only where the innermost axis is long: as many pixels as repeat
            self.scale, self.shift = (_rows(part, self.shape) for part in (self.scale, self.shift))

    def __call__(
        self, views: Callable[[slice], NDArray[np.uint8]], count: int, pool: ThreadPoolExecutor
    ) -> Float[Tensor, "n c h w"]:
        """Views (size, size, c) of `count` images, asked for part by part in the threads, on the device."""
        tasks = -(-count // self.most)
        step = -(-count // tasks)
        made: NDArray[Any] = (
            self._buffer(count) if self.device.type == "cpu" else np.empty((count, *self.shape), np.uint8)
        )

        def fill(task: int) -> None:
            part = slice(task * step, min((task + 1) * step, count))
            if made.dtype == np.float32:
                self._normalize(views(part), made[part])
            else:
                made[part] = views(part)

        for_each(pool, fill, tasks)
        if made.dtype != np.float32:
            return self.on_device(made)
        inputs = torch.from_numpy(made)
        inputs = inputs.permute(0, 3, 1, 2) if self.last else inputs
        return torch.from_numpy(self.whiten(inputs.numpy())) if self.whitens else inputs

    def on_device(self, views: NDArray[np.uint8]) -> Float[Tensor, "n c h w"]:
        """Views (n, size, size, c) as inputs on the device."""
        if self.whitens:
            centred = views.transpose(0, 3, 1, 2) * self.scale - self.shift
            return torch.from_numpy(self.whiten(centred)).to(self.device)
        moved = torch.from_numpy(views).to(self.device)
        scale, shift = (torch.tensor(part, device=self.device) for part in (self.scale, self.shift))
        if self.last:
            rows = moved.float().view(-1, scale.numel()).mul_(scale).sub_(shift)
            return rows.view(moved.shape).permute(0, 3, 1, 2)
        return moved.permute(0, 3, 1, 2).contiguous().float().mul_(scale).sub_(shift)

    def _normalize(self, views: NDArray[np.uint8], target: NDArray[np.float32]) -> None:
        """Fill a part of the inputs, laid out as the memory format wants."""
        for image, place in zip(views, target, strict=True):  # one fits the cache
            if self.last:
                image, place = (whole.reshape(-1, self.scale.size) for whole in (image, place))
            else:
                image = image.transpose(2, 0, 1)
            np.copyto(place, image)
            place *= self.scale
            place -= self.shift

    def _buffer(self, count: int) -> NDArray[np.float32]:
        """An array to fill: one of an earlier batch that nobody holds any more, else a new one.

        New memory comes page by page from the system, which takes as long as all the rest. A tensor holds
        its array as long as anything shares its storage, so the count of references tells. It is torch that
        allocates, at multiples of 64 bytes: on other addresses some kernels sum in another order, and the
        same batch would not give the same bits.
        """
        height, width, channels = self.shape
        shape = (count, *self.shape) if self.last else (count, channels, height, width)
        self._buffers = [buffer for buffer in self._buffers if buffer.shape == shape][: AHEAD + 3]
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == FREE:
                return buffer
        self._buffers.append(torch.empty(shape, dtype=torch.float32).numpy())
        return self._buffers[-1]


def _rows(part: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Statistics (c, 1, 1) or (c, size, size) as a row that repeats along an image (size, size, c)."""
    height, width, channels = shape
    if part.size != channels:
        return np.ascontiguousarray(part.transpose(1, 2, 0)).reshape(-1)
    row = width * channels
    repeats = math.gcd(height, 1 << max(0, (NUMBERS_A_ROW // row).bit_length() - 1))
    return np.tile(part.reshape(-1), width * repeats)
