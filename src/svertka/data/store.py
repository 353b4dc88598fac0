"""The pixel store: every image decoded once, shrunk, and kept as uint8 in one memory-mapped file.

Input: a Dataset and the Preprocess that says how images are stored. Output: Pixels, item i being (h, w, c).
Images keep their aspect, so an entry is ragged: the pixels one after the other (`pixels.bin`), a table of
shapes (`shapes.npy`) and facts (`meta.json`). Its key is made of the contents, the settings, the version of
Pillow and of this format, so equal images in another place find the same entry, and nothing stale is ever
found. Rows of equal content are decoded once. A broken image has an empty entry and a message.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from svertka import progress
from svertka.data.cache import (
    InUse,
    cache_entries,
    clear_cache,
    describe_cache,
    gigabytes,
    make_room,
    open_entry,
)
from svertka.data.dataset import Dataset
from svertka.data.parallel import cores, in_order
from svertka.errors import DataError, ImageError
from svertka.images.preprocess import Preprocess

__all__ = ["Pixels", "cache_entries", "clear_cache", "describe_cache", "open_pixels"]

FORMAT = 1
SAMPLE = 16  # images that are timed before the others are decoded
LONG_SECONDS = 5.0  # work that is announced
GROUP = 8  # images a task
FLUSH_BYTES = 32_000_000


@dataclass(eq=False)
class Pixels:
    """Stored images of a dataset, in its order.

    Attributes:
        data: all pixels, (total,) uint8, one image after the other.
        shapes: (n, 2) int32 heights and widths; 0 0 where the image is broken.
        starts: (n,) int64, where each image begins in `data`.
        channels: 1 or 3.
        broken: index -> why this image could not be decoded; the message names it.
        seconds: what opening took, decoding included.
        reused: whether nothing had to be decoded.
        path: folder of the entry; None if the dataset's own array is used.
    """

    data: NDArray[np.uint8]
    shapes: NDArray[np.int32]
    starts: NDArray[np.int64]
    channels: int
    broken: dict[int, str]
    seconds: float = 0.0
    reused: bool = False
    path: Path | None = None
    in_use: InUse | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Image (h, w, c) without a copy; (0, 0, c) if it is broken."""
        height, width = self.shapes[index].tolist()
        start = int(self.starts[index])
        count = height * width * self.channels
        return self.data[start : start + count].reshape(height, width, self.channels)

    @cached_property
    def common_shape(self) -> tuple[int, int] | None:
        """The (h, w) that all images but the broken ones have, else None."""
        whole = self.shapes[self.shapes[:, 0] > 0]
        if not len(whole) or (whole != whole[0]).any():
            return None
        return int(whole[0, 0]), int(whole[0, 1])

    def uniform_array(self) -> NDArray[np.uint8] | None:
        """All images as one array (n, h, w, c) without a copy.

        None if they differ in size, or if some are broken or share one entry.
        """
        stacked = self._stacked
        if stacked is None or not np.array_equal(self._places, np.arange(len(self))):
            return None
        return stacked

    def gather(
        self,
        indices: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
        columns: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Images of a common shape copied into one array (n, h, w, c), of each its `rows` and `columns`."""
        stacked = self._stacked
        assert stacked is not None, "gather is for images of a common shape"
        places = self._places[indices]
        if rows is None or columns is None:
            return stacked[places]
        height, width = stacked.shape[1:3]
        lines = places[:, None] * height + rows  # (n, size)
        pixels = lines[:, :, None] * width + columns[:, None, :]  # (n, size, size)
        colours = stacked.reshape(-1, self.channels).view(f"V{self.channels}")  # one element a pixel
        taken: NDArray[np.uint8] = colours.reshape(-1).take(pixels).view(np.uint8)
        return taken.reshape(*pixels.shape, self.channels)

    @cached_property
    def _stacked(self) -> NDArray[np.uint8] | None:
        """All entries of a common shape, (m, h, w, c)."""
        if self.common_shape is None:
            return None
        return self.data.reshape(-1, *self.common_shape, self.channels)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Where each image is in `_stacked`, (n,)."""
        height, width = self.common_shape or (1, 1)
        return self.starts // (height * width * self.channels)


def open_pixels(dataset: Dataset, preprocess: Preprocess) -> Pixels:
    """The pixels of a dataset as `preprocess.shrink` gives them, decoded now or found in the cache.

    Safe to call in several processes at once (one decodes, the others wait) and to kill at any moment. An
    array whose images already have the right size is used as it is. The fit, size and normalization of
    `preprocess` make no difference here.

    Raises:
        DataError: a file vanished since the dataset was opened.
        StoreError: the disk is full, or the limit of the cache is too low.
    """
    began = time.monotonic()
    ready = _as_it_is(dataset, preprocess)
    if ready is not None:
        return ready
    _, firsts, rows = np.unique(dataset.digests, return_index=True, return_inverse=True)
    order = np.argsort(firsts)  # the order of the dataset, not of the digests
    firsts, rows = firsts[order], np.argsort(order)[rows.reshape(-1)]
    path, in_use, reused = open_entry(
        "pixels",
        _key(dataset.digests[firsts], preprocess),
        valid=_is_valid,
        build=partial(_build, dataset=dataset, indices=firsts.tolist(), preprocess=preprocess),
    )
    meta = json.loads((path / "meta.json").read_text())
    shapes = np.load(path / "shapes.npy")
    counts = shapes.prod(axis=1, dtype=np.int64) * preprocess.channels
    starts = np.cumsum(counts) - counts
    return Pixels(
        data=np.memmap(path / "pixels.bin", np.uint8, "c") if counts.sum() else np.zeros(0, np.uint8),
        shapes=shapes[rows],
        starts=starts[rows],
        channels=preprocess.channels,
        broken=_messages(dataset, rows, meta["broken"]),
        seconds=time.monotonic() - began,
        reused=reused,
        path=path,
        in_use=in_use,
    )


def _as_it_is(dataset: Dataset, preprocess: Preprocess) -> Pixels | None:
    """The dataset's own array, if storing would not change it."""
    images = dataset.images
    if not isinstance(images, np.ndarray) or not images.flags.c_contiguous or not len(images):
        return None
    channels = 1 if images.ndim == 3 else images.shape[3]
    shape = (images.shape[1], images.shape[2])
    blank = np.zeros((*shape, channels), dtype=np.uint8)
    if channels != preprocess.channels or preprocess.shrink(blank).shape != blank.shape:
        return None
    starts = np.arange(len(images), dtype=np.int64) * blank.size
    shapes = np.tile(np.array(shape, dtype=np.int32), (len(images), 1))
    return Pixels(images.reshape(-1), shapes, starts, channels, broken={})


def _key(digests: NDArray[np.void], preprocess: Preprocess) -> str:
    settings = (preprocess.channels, preprocess.store_size, preprocess.interpolation)
    digest = hashlib.sha256(repr((FORMAT, PIL.__version__, settings)).encode())
    digest.update(np.ascontiguousarray(digests).tobytes())
    return digest.hexdigest()[:32]


def _build(folder: Path, dataset: Dataset, indices: list[int], preprocess: Preprocess) -> None:
    """Decode the images at `indices` and write an entry."""
    began = time.monotonic()
    shapes = np.zeros((len(indices), 2), dtype=np.int32)
    broken: dict[int, str] = {}
    load = partial(_load, dataset, preprocess)
    with ThreadPoolExecutor(cores()) as pool, progress.track("Decoding", len(indices)) as step:
        timed = _estimate(pool, dataset, indices, preprocess)
        images = in_order(pool, lambda index: timed.get(index) or load(index), indices, group=GROUP)
        with open(folder / "pixels.bin", "wb") as file, ThreadPoolExecutor(1) as flusher:
            flushed = 0
            for row, (pixels, reason) in enumerate(images):
                if reason:
                    broken[row] = reason
                shapes[row] = pixels.shape[:2]
                file.write(pixels.data)
                step(1)
                if file.tell() - flushed > FLUSH_BYTES:  # the disk writes while the processors decode
                    flushed = file.tell()
                    flusher.submit(os.fsync, file.fileno())
            file.flush()
            os.fsync(file.fileno())
            total = file.tell()
    np.save(folder / "shapes.npy", shapes)
    facts = {
        "format": FORMAT,
        "images": len(indices),
        "bytes": total,
        "shapes": _digest((folder / "shapes.npy").read_bytes()),
        "broken": {str(row): reason for row, reason in broken.items()},
        "seconds": round(time.monotonic() - began, 3),
    }
    text = json.dumps(facts | {"checksum": _digest(json.dumps(facts).encode())})
    (folder / "meta.json").write_text(text)


def _load(dataset: Dataset, preprocess: Preprocess, index: int) -> tuple[NDArray[np.uint8], str]:
    """Stored pixels and no reason, or no pixels and the reason without the name of the image."""
    item, title = dataset.image(index), dataset.title(index)
    try:
        if isinstance(item, Path):
            return preprocess.load(item, name=title), ""
        return preprocess.shrink(np.ascontiguousarray(item)), ""
    except ImageError as error:
        if isinstance(item, Path) and not (item.is_file() and os.access(item, os.R_OK)):
            raise DataError(f"{error} It was there when the data were opened; start again.") from error
        return np.zeros((0, 0, preprocess.channels), np.uint8), str(error).removeprefix(title)


def _estimate(
    pool: ThreadPoolExecutor, dataset: Dataset, indices: list[int], preprocess: Preprocess
) -> dict[int, tuple[NDArray[np.uint8], str]]:
    """Decode a sample, make room for all, and say what is coming if it is much; returns the sample."""
    began = time.monotonic()
    spread = np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).astype(int)
    sample = [indices[position] for position in spread]
    decoded = dict(zip(sample, in_order(pool, partial(_load, dataset, preprocess), sample), strict=True))
    share = len(indices) / len(sample)
    total = share * sum(pixels.size for pixels, _ in decoded.values())
    seconds = share * (time.monotonic() - began)
    make_room(int(total * 1.1) + 64 * len(indices))
    if seconds > LONG_SECONDS:
        progress.say(
            f"decoding {len(indices):,} images once: about {seconds:.0f} s and {gigabytes(total)} of cache"
        )
    return decoded


def _is_valid(folder: Path) -> bool:
    """Whether an entry is whole; if not, that is said."""
    try:
        facts = json.loads((folder / "meta.json").read_text())
        checksum = facts.pop("checksum")
        whole = bool(
            checksum == _digest(json.dumps(facts).encode())
            and facts["format"] == FORMAT
            and facts["bytes"] == (folder / "pixels.bin").stat().st_size
            and facts["shapes"] == _digest((folder / "shapes.npy").read_bytes())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        progress.say(f"the cached pixels in {folder} are damaged and are made again")
    return whole


def _messages(dataset: Dataset, rows: NDArray[np.int64], reasons: dict[str, str]) -> dict[int, str]:
    if not reasons:
        return {}
    broken = np.flatnonzero(np.isin(rows, [int(row) for row in reasons]))
    return {index: dataset.title(index) + reasons[str(rows[index])] for index in broken.tolist()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
