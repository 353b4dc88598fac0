"""Dataset: an ordered table of labelled images, not yet decoded.

An item is a file or a row of a uint8 array; it has a label, a content digest, a group (images of one group
stay on one side of every split; identical bytes always share a group) and perhaps a declared part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
UNDECLARED = -1


@dataclass(frozen=True)
class Dataset:
    """An ordered table of n labelled images.

    Attributes:
        name: what the user called it, for messages.
        classes: class names in a stated order; labels index it.
        labels: (n,) int64.
        images: n file paths (relative to `root`), or a uint8 array (n, h, w) or (n, h, w, 3).
        root: the folder that the paths are relative to; None for arrays.
        digests: (n,) 16-byte digests of the content (file bytes, or pixels with their shape).
        groups: (n,) int64; equal numbers stay together in every split.
        declared: (n,) int8; index into `PARTS` where the data declares a part, else `UNDECLARED`.
        notes: what the user should know about how the data was read (skipped files and the like).
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    images: Sequence[str] | NDArray[np.uint8]
    root: Path | None
    digests: NDArray[np.void]
    groups: NDArray[np.int64]
    declared: NDArray[np.int8]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """A hex digest of all that defines the data: contents, order, labels, classes, declared parts.

        Where the files lie and what the set is called do not matter.
        """
        digest = hashlib.sha256()
        for part in (self.digests, self.labels, self.declared, self.groups):
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update("\0".join(self.classes).encode())
        return digest.hexdigest()

    def image(self, index: int) -> Path | NDArray[np.uint8]:
        """What item `index` is: the path of its file, or its pixels (h, w) or (h, w, 3)."""
        if isinstance(self.images, np.ndarray):
            pixels: NDArray[np.uint8] = self.images[index]
            return pixels
        return (self.root or Path()) / self.images[index]

    def title(self, index: int) -> str:
        """How to name item `index` to the user: its path, or its row."""
        if self.root is None:
            return f"row {index} of {self.name}"
        return str(self.image(index)).encode(errors="backslashreplace").decode()  # a name need not be UTF-8


def new_digest() -> hashlib.blake2b:
    """An empty digest of 16 bytes, to be fed with content."""
    return hashlib.blake2b(digest_size=16)


def content_digest(content: bytes) -> bytes:
    """16 bytes that stand for this content."""
    return hashlib.blake2b(content, digest_size=16).digest()
