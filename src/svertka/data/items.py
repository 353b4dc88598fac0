"""Labelled files or pixels become a Dataset: contents digested, equal contents grouped, labels checked.

    from_paths(["a.png", "b.png"], ["cat", "dog"])        from_arrays(images, labels)

Files are read once, in threads, for the digest of their bytes; images in memory are digested row by row.
Equal bytes share a group; groups given beside (all photos of one patient, say) are united with that.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svertka import progress
from svertka.data.dataset import PARTS, UNDECLARED, Dataset, content_digest, new_digest
from svertka.errors import DataError

_FILES_AT_ONCE = 64  # one job of a reading thread
_READERS = min(8, 4 + (os.cpu_count() or 1))


def from_paths(
    paths: Sequence[str | Path],
    labels: Sequence[Any] | NDArray[Any],
    *,
    classes: Sequence[str] | None = None,
    root: str | Path | None = None,
    groups: Sequence[str | None] | None = None,
    declared: ArrayLike | None = None,
    name: str = "the images",
    notes: Iterable[str] = (),
) -> Dataset:
    """A Dataset of n image files.

    Args:
        paths: n paths, relative to `root` (by default the current folder) or absolute.
        labels: n class names; or, if `classes` is given, n integers that index it.
        classes: class names in their order; by default the distinct labels in natural order.
        groups: n names; items of one name stay together in every split (None or "": no such group).
        declared: n integers, index into `PARTS` or `UNDECLARED` (the default for all).
        name: what to call the data in messages.
        notes: what the user should know about how the data was read.

    Raises:
        DataError: nothing given, lengths that differ, a label out of range, or files that cannot be read.
    """
    folder = Path.cwd() if root is None else Path(root).absolute()
    listed = [path if isinstance(path, str) else os.fspath(path) for path in paths]
    return _table(
        name, listed, folder, labels, classes, groups, declared, notes, lambda: _read(listed, folder, name)
    )


def from_arrays(
    images: ArrayLike,
    labels: Sequence[Any] | NDArray[Any],
    *,
    classes: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    declared: ArrayLike | None = None,
    name: str = "the images",
    notes: Iterable[str] = (),
) -> Dataset:
    """A Dataset of n images in memory: uint8, (n, h, w), (n, h, w, 1) or (n, h, w, 3); see `from_paths`.

    Raises:
        DataError: another type or shape, and what `from_paths` raises.
    """
    pixels = np.asarray(images)
    if pixels.ndim == 4 and pixels.shape[3] == 1:
        pixels = pixels[..., 0]
    good = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not good or 0 in pixels.shape[1:]:
        raise DataError(
            f"{name}: expected uint8 images of shape (n, h, w) or (n, h, w, 3), got {pixels.dtype} of shape "
            f"{pixels.shape}; scale to 0..255 and put the channels last before calling."
        )
    return _table(name, pixels, None, labels, classes, groups, declared, notes, lambda: _digest_rows(pixels))


def natural_order(names: Iterable[str]) -> list[str]:
    """Distinct names, numbers in them by value ("2" before "10"), all else by code point."""
    return sorted(set(names), key=_natural_key)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more:,} more" if more > 0 else "")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """ "1 image", "1,200 images"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise one DataError that holds all problems of the data called `name`; none: do nothing."""
    if len(problems) == 1:
        raise DataError(f"{name} cannot be used: {problems[0]}")
    if problems:
        raise DataError(f"{name} cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems))


def training_problems(
    classes: Sequence[str], labels: NDArray[np.int64], declared: NDArray[np.int8]
) -> list[str]:
    """What forbids to train on these labels: one class only, or a class that the training part lacks."""
    if len(classes) == 1:
        only = repr(classes[0])
        return [f"expected two or more classes, got only one, {only}; add images that are not {only}."]
    problems: list[str] = []
    trained = np.unique(labels[(declared == 0) | (declared == UNDECLARED)])
    if not len(trained):
        return problems  # nothing is declared for training: `split` says what to do
    for code, part in list(enumerate(PARTS))[1:]:
        unseen = [repr(classes[label]) for label in np.setdiff1d(labels[declared == code], trained)]
        if unseen:
            problems.append(
                f"every class needs training images, but got labels seen only in {part}: {some(unseen)}; "
                "add training images of that kind or take those out."
            )
    return problems


def _table(
    name: str,
    images: list[str] | NDArray[np.uint8],
    root: Path | None,
    labels: Sequence[Any] | NDArray[Any],
    classes: Sequence[str] | None,
    groups: Sequence[str | None] | None,
    declared: ArrayLike | None,
    notes: Iterable[str],
    digest: Callable[[], NDArray[np.void]],
) -> Dataset:
    """Check the columns, then digest the contents (the slow part) and put the Dataset together."""
    number = len(images)
    parts = np.full(number, UNDECLARED, np.int8) if declared is None else np.asarray(declared, np.int8)
    problems = [] if number else ["there are no images in it."]
    for column, length in (("labels", len(labels)), ("declared parts", len(parts))):
        if length != number:
            problems.append(f"expected as many {column} as images, got {length:,} for {number:,} images.")
    if groups is not None and len(groups) != number:
        problems.append(f"expected as many groups as images, got {len(groups):,} for {number:,} images.")
    refuse(name, problems)
    names, codes = _encode(name, labels, classes)
    digests = digest()
    contents = _numbered(digests)
    both = contents if groups is None else _united(contents, groups)
    warnings = [*notes, *_contradictions(contents, codes, names, images)]
    return Dataset(name, tuple(names), codes, images, root, digests, both, parts, tuple(warnings))


def _encode(
    name: str, labels: Sequence[Any] | NDArray[Any], classes: Sequence[str] | None
) -> tuple[Sequence[str], NDArray[np.int64]]:
    if classes is None:
        names = natural_order(map(str, labels))
        index = {label: code for code, label in enumerate(names)}
        return names, np.fromiter((index[str(label)] for label in labels), np.int64, len(labels))
    codes = np.asarray(labels)
    if codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= len(classes):
        refuse(name, [f"with classes given, expected labels from 0 to {len(classes) - 1}, got {codes[:5]} …"])
    return classes, codes.astype(np.int64)


def _read(paths: list[str], root: Path, name: str) -> NDArray[np.void]:
    """Digests (n,) of the bytes of all files, read in threads."""
    folder = str(root)
    unreadable: list[str] = []

    def job(start: int) -> bytes:
        digests = bytearray()
        for path in paths[start : start + _FILES_AT_ONCE]:
            full = os.path.join(folder, path)
            try:
                if not os.path.isfile(full):  # a named pipe would wait for ever
                    raise OSError("it is a folder" if os.path.isdir(full) else "there is no such file")
                with open(full, "rb", buffering=0) as file:
                    digests += hashlib.file_digest(file, new_digest).digest()
            except OSError as error:
                unreadable.append(f"{path} ({error.strerror or error})")
                digests += bytes(16)
        return bytes(digests)

    table = bytearray()
    with (
        progress.track("Reading files", total=len(paths)) as step,
        ThreadPoolExecutor(_READERS, thread_name_prefix="svertka-read") as pool,
    ):
        for digests in pool.map(job, range(0, len(paths), _FILES_AT_ONCE)):
            table += digests
            step(len(digests) // 16)
    if unreadable:
        many = count(len(unreadable), "file")
        refuse(
            name, [f"{many} cannot be read: {some(sorted(unreadable))}. Mend the list or the permissions."]
        )
    return np.frombuffer(table, "V16")


def _digest_rows(pixels: NDArray[np.uint8]) -> NDArray[np.void]:
    """Digests (n,) of each image's pixels with their shape."""
    shape = np.array(pixels.shape[1:], "<u4").tobytes()
    digests = b"".join(content_digest(shape + row.tobytes()) for row in pixels)
    return np.frombuffer(digests, "V16")


def _numbered(values: NDArray[Any]) -> NDArray[np.int64]:
    """Equal values get equal numbers, counted from 0 in the order in which they first come."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _united(contents: NDArray[np.int64], groups: Sequence[str | None]) -> NDArray[np.int64]:
    """Groups in which items are together that share content or a given group, in any chain of the two."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    index: dict[str, int] = {}
    given = np.fromiter(
        (
            -1 if group is None or group == "" else index.setdefault(str(group), len(index))
            for group in groups
        ),
        np.int64,
        len(groups),
    )
    num_contents = int(contents.max()) + 1
    size = num_contents + len(index)
    edges = given >= 0
    pairs = (contents[edges], given[edges] + num_contents)
    graph = coo_array((np.ones(int(edges.sum()), np.int8), pairs), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return _numbered(component[contents])


def _contradictions(
    contents: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    images: list[str] | NDArray[np.uint8],
) -> list[str]:
    """A note if equal contents have different labels."""
    _, first = np.unique(contents, return_index=True)
    differ = np.flatnonzero(labels != labels[first][contents])
    if not len(differ):
        return []
    copy = int(differ[0])
    original = int(first[contents[copy]])

    def titled(index: int) -> str:
        title = images[index] if isinstance(images, list) else f"row {index}"
        return f"{title} ({classes[labels[index]]})"

    many = count(len(differ), "image repeats", "images repeat")
    example = f"{titled(copy)} and {titled(original)}"
    return [
        f"{many} the content of another image under a different label, such as {example}; one must be wrong"
    ]


def _natural_key(name: str) -> tuple[Any, ...]:
    pieces: list[Any] = re.split(r"([0-9]+)", name)
    for place in range(1, len(pieces), 2):
        digits = pieces[place].lstrip("0")
        pieces[place] = (len(digits), digits)
    return tuple(pieces), name
