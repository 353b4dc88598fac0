"""Feature store: what a frozen trunk says of views of images, computed once and memory-mapped.

View 0 of an image is its evaluation view; view k ≥ 1 is a random one that depends on (seed, content, k).
Each view of a list of items is an entry of the cache: one file of float16 or float32 rows, keyed by the
images, the preprocessing, the augmentation, the weights and code of the trunk, the engine and the versions;
nothing stale is ever found. A pass that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from svertka import progress
from svertka.augmentation import Augment
from svertka.data.augment import augment, evaluation_views
from svertka.data.batches import Batch, Normalizer
from svertka.data.cache import InUse, make_room, open_entry
from svertka.data.dataset import Dataset
from svertka.data.order import Order
from svertka.data.parallel import cores, in_order
from svertka.data.store import Pixels
from svertka.engine.choose import fingerprint
from svertka.engine.kinds import Engine
from svertka.engine.trace import trace
from svertka.errors import StoreError
from svertka.files import write_json
from svertka.images.preprocess import Preprocess
from svertka.models.freezing import Trunk
from svertka.randomness import generator

FORMAT = 1
CHUNK = (
    32  # images a call of the engine; always from the same boundaries, so a resumed pass gives the same bits
)
FLUSH_CHUNKS = 16
Precision = Literal["float16", "float32"]


@dataclass(frozen=True)
class Source:
    """What features are made of; equal sources give equal features.

    Attributes:
        augment: of the views k ≥ 1.
        seed: of the views k ≥ 1.
    """

    dataset: Dataset
    pixels: Pixels
    preprocess: Preprocess
    trunk: Trunk
    engine: Engine
    augment: Augment
    seed: int
    precision: Precision = "float16"

    @cached_property
    def code(self) -> str:
        """Weights and structure of the trunk."""
        size, channels = self.preprocess.size, self.preprocess.channels
        return fingerprint(self.trunk, trace(self.trunk, (channels, size, size)))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the features of one image."""
        with torch.no_grad():
            image = torch.zeros(1, self.preprocess.channels, self.preprocess.size, self.preprocess.size)
            return tuple(self.trunk(image).shape[1:])

    def bytes_per_view(self, num_items: int) -> int:
        """What one view of so many items takes on disk."""
        return num_items * int(np.prod(self.shape)) * np.dtype(self.precision).itemsize


@dataclass(frozen=True)
class View:
    """One view of a list of items: `values` (rows, *shape), and the row of each item of the dataset."""

    values: NDArray[np.floating]
    rows: NDArray[np.int64]
    in_use: InUse
    reused: bool

    def of(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features (n, *shape) float32 of some items."""
        return self.values[self.rows[items]].astype(np.float32)


def open_view(source: Source, items: NDArray[np.int64], number: int) -> View:
    """View `number` of these items, from the cache or computed now.

    Raises:
        StoreError: the disk is full, or the cache's limit is too low.
    """
    path, in_use, reused = open_entry(
        "features",
        _key(source, items, number),
        valid=lambda folder: _is_valid(folder, source, len(items)),
        build=lambda folder: _build(folder, source, items, number),
    )
    rows = np.full(len(source.dataset), -1, dtype=np.int64)
    rows[items] = np.arange(len(items))
    return View(_mapped(path, source, len(items), "r"), rows, in_use, reused)


class FeatureBatches:
    """Batches of stored features: epoch e shows view e of the list, and begins anew after the last.

    Args:
        views: at least one, all with the items of this part.
        labels: of the whole dataset.
        indices: the items of this part.
        batch_size, seed, shuffle: see `Order`.
    """

    def __init__(
        self,
        views: list[View],
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        device: str = "cpu",
    ) -> None:
        self.views = views
        self.labels = labels
        self.indices = indices
        self.batch_size = batch_size
        self.device = device
        self._order = Order(indices, batch_size, seed, shuffle)

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self._order)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""
        items = self._order.epoch(number)
        view = self.views[number % len(self.views)]

        def assemble(step: int) -> Batch:
            chosen = self._order.step(items, step)
            features = torch.from_numpy(view.of(chosen)).clone().to(self.device)  # aligned as torch aligns
            labels = torch.from_numpy(self.labels[chosen]).to(self.device)
            return Batch(features, labels, torch.from_numpy(chosen.copy()))

        with ThreadPoolExecutor(1) as assembler:
            yield from in_order(assembler, assemble, range(start, len(self)), ahead=2)


def _key(source: Source, items: NDArray[np.int64], number: int) -> str:
    versions = [version(name) for name in ("svertka", "torch", "onnxruntime", "pillow")]
    view = [source.seed, source.augment.model_dump(), number] if number else []
    settings = [FORMAT, source.code, source.engine.name, source.precision, versions]
    facts = [*settings, source.preprocess.to_dict(), view]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(source.dataset.digests[items]).tobytes())
    return digest.hexdigest()[:32]


def _build(folder: Path, source: Source, items: NDArray[np.int64], number: int) -> None:
    """Fill an entry, from where an earlier process was killed."""
    file, total = folder / "features.bin", source.bytes_per_view(len(items))
    done = _done(folder, len(items))
    if not file.exists() or file.stat().st_size != total:
        done = 0
        make_room(total)
        with open(file, "wb") as empty:
            empty.truncate(total)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(
                    empty.fileno(), 0, max(total, 1)
                )  # a full disk is found now, not in the map
    values = _mapped(folder, source, len(items), "r+")
    normalize = Normalizer(source.preprocess, torch.device("cpu"), torch.contiguous_format)
    title = "Features" if number == 0 else f"Features of view {number}"
    with (
        ThreadPoolExecutor(1) as assembler,
        ThreadPoolExecutor(cores()) as pool,
        progress.track(title, len(items)) as step,
    ):
        step(done)
        starts = range(done, len(items), CHUNK)

        def inputs(start: int) -> torch.Tensor:
            chosen = items[start : start + CHUNK]
            return normalize(lambda part: _views(source, chosen[part], number), len(chosen), pool)

        for count, (start, batch) in enumerate(
            zip(starts, in_order(assembler, inputs, starts, ahead=2), strict=True), 1
        ):
            outputs = source.engine(batch)
            values[start : start + len(batch)] = outputs.numpy()
            step(len(batch))
            if count % FLUSH_CHUNKS == 0:
                values.flush()
                write_json(folder / "done.json", {"rows": start + len(batch)})
    values.flush()
    if not np.isfinite(values).all():
        raise StoreError(
            f"the features of {source.dataset.name} do not fit {source.precision}; use --set "
            "transfer.precision=float32."
        )
    facts = {"format": FORMAT, "rows": len(items), "sha256": _checksum(file)}
    write_json(folder / "meta.json", facts)


def _views(source: Source, items: NDArray[np.int64], number: int) -> NDArray[np.uint8]:
    """Views (n, size, size, c) of some items."""
    if number == 0:
        return evaluation_views(source.pixels, items, source.preprocess)
    views = []
    for item in items:
        content = source.dataset.digests[item].tobytes().hex()
        own = generator(source.seed, "view", content, number)
        views.append(augment(source.pixels, np.array([item]), source.preprocess, source.augment, own))
    return np.concatenate(views)


def _mapped(
    folder: Path, source: Source, num_rows: int, mode: Literal["r", "r+"]
) -> np.memmap[tuple[int, ...], np.dtype[np.floating]]:
    return np.memmap(folder / "features.bin", source.precision, mode, shape=(num_rows, *source.shape))


def _done(folder: Path, num_rows: int) -> int:
    """Rows that an earlier process has finished."""
    try:
        rows = json.loads((folder / "done.json").read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return rows if isinstance(rows, int) and 0 <= rows <= num_rows and rows % CHUNK == 0 else 0


def _is_valid(folder: Path, source: Source, num_rows: int) -> bool:
    """Whether an entry is whole; if not, that is said."""
    try:
        facts = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        file = folder / "features.bin"
        whole = bool(
            facts["format"] == FORMAT
            and facts["rows"] == num_rows
            and file.stat().st_size == source.bytes_per_view(num_rows)
            and facts["sha256"] == _checksum(file)
        )
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        progress.say(f"the cached features in {folder} are damaged and are computed again")
    return whole


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
