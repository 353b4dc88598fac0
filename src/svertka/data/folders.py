"""A folder of class folders, perhaps inside split folders, becomes a Dataset.

    photos/cat/1.jpg                    photos/train/cat/1.jpg    photos/test/cat/7.jpg

Split folders count only if every folder at the top has the name of a split (in any case); else each is a
class. All images below a class folder belong to it, however deep; links are followed, loops are not. Hidden
files and folders are passed over in silence, other files and stray images with a note.
Classes stand in natural order, the images of a part and class in the order of their paths.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from svertka.data.dataset import PARTS, UNDECLARED, Dataset, Part
from svertka.data.items import count, from_paths, natural_order, refuse, some, training_problems
from svertka.errors import DataError
from svertka.images.decode import SUFFIXES

SPLIT_NAMES: dict[str, Part] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What split folders (and values of a `split` column) may be called, in lower case, and the part meant."""


@dataclass
class _Leftovers:
    """What was passed over: counts by suffix and an example each, stray images, links that lead nowhere."""

    suffixes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def other(self, name: str, path: str) -> None:
        suffix = os.path.splitext(name)[1].lower() or "no suffix"
        if not self.suffixes[suffix]:
            self.examples.append(path)
        self.suffixes[suffix] += 1

    def notes(self) -> list[str]:
        notes = []
        if self.suffixes:
            kinds = ", ".join(f"{number:,} × {suffix}" for suffix, number in self.suffixes.most_common(5))
            notes.append(
                f"skipped files that are no images by their suffix ({kinds}): {some(self.examples, 3)}"
            )
        if self.stray:
            notes.append(
                f"skipped {count(len(self.stray), 'image')} outside any class folder: {some(self.stray, 3)}"
            )
        if self.dead:
            notes.append(f"skipped links that lead to no file: {some(self.dead, 3)}")
        return notes


def read_folder(root: Path, name: str, *, training: bool = True) -> Dataset:
    """Read the folder `root`, called `name` in messages.

    With `training`, every class needs images in the training part and there must be two classes; without
    (to evaluate or predict), any labelled images will do.

    Raises:
        DataError: no class folders, an empty one, and what `training` forbids; all problems in one message.
    """
    left = _Leftovers()
    tops = _subfolders(root, "", left)
    declares = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)
    if not tops:
        refuse(name, [_no_folders(root, left)])
    problems: list[str] = []
    places: list[tuple[int, str, str]] = []  # code of the part, class, folder relative to root
    if declares:
        problems += _same_part_twice(tops)
        for top in tops:
            code = PARTS.index(SPLIT_NAMES[top.lower()])
            before = len(left.stray)
            inside = _subfolders(root / top, top + "/", left)
            if not inside:
                stray = count(len(left.stray) - before, "image")
                problems.append(
                    f"expected class folders in {top}, got {stray}; sort its images or move it away."
                )
            places += [(code, each, f"{top}/{each}") for each in inside]
    else:
        places = [(UNDECLARED, top, top) for top in tops]
    classes = natural_order(label for _, label, _ in places)
    index = {label: number for number, label in enumerate(classes)}
    places.sort(key=lambda place: (place[0], index[place[1]]))

    paths: list[str] = []
    sizes: list[int] = []
    around = {_identity(str(folder)) for folder in (root.resolve(), *root.resolve().parents)}
    for _, _, folder in places:
        found = _images_below(root, folder, set(around), left)
        paths += found
        sizes.append(len(found))
    labels = np.repeat(np.array([index[label] for _, label, _ in places], np.int64), sizes)
    declared = np.repeat(np.array([code for code, _, _ in places], np.int8), sizes)

    bare = [(code, folder) for (code, _, folder), size in zip(places, sizes, strict=True) if not size]
    empty = [folder for code, folder in bare if code <= 0]  # not declared, or of the training part
    if empty:
        them = "this class folder" if len(empty) == 1 else f"these {len(empty)} class folders"
        problems.append(f"expected images in {them}, got none: {some(empty)}; add images or remove it.")
    problems += _bad_names(classes)
    if training and not empty and len(paths):
        problems += training_problems(classes, labels, declared)
    refuse(name, problems)
    notes = left.notes()
    if bare:
        notes.append(f"no images in {some([folder for _, folder in bare])}")
    return from_paths(paths, labels, classes=classes, root=root, declared=declared, name=name, notes=notes)


def _subfolders(folder: Path, prefix: str, left: _Leftovers) -> list[str]:
    """Names of the visible folders directly in `folder`; its files are left over."""
    names = []
    for entry in _scan(str(folder)):
        if _is_folder(entry):
            names.append(entry.name)
        elif entry.name.lower().endswith(SUFFIXES):
            left.stray.append(prefix + entry.name)
        else:
            left.other(entry.name, prefix + entry.name)
    return names


def _images_below(root: Path, top: str, seen: set[tuple[int, int]], left: _Leftovers) -> list[str]:
    """Sorted paths, relative to `root`, of the images in `top` and below; no folder is entered twice."""
    found = []
    waiting = [top]
    for folder in waiting:  # grows while it is walked
        full = os.path.join(root, folder)
        identity = _identity(full)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in _scan(full):
            path = f"{folder}/{entry.name}"
            if _is_folder(entry):
                waiting.append(path)
            elif not entry.name.lower().endswith(SUFFIXES):
                left.other(entry.name, path)
            elif os.path.isfile(entry.path):
                found.append(path)
            else:
                left.dead.append(path)
    return sorted(found)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, but for hidden entries and the shadow folder of macOS zips."""
    try:
        with os.scandir(folder) as entries:
            visible = [
                entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"
            ]
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read ({error.strerror}); mend its permissions."
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # a link may lead to itself


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _no_folders(root: Path, left: _Leftovers) -> str:
    manifests = [path for path in left.examples if path.lower().endswith((".csv", ".tsv", ".parquet"))]
    if manifests:
        return f"expected class folders in it, got none; if {manifests[0]} lists the images, give that file."
    if left.stray:
        return (
            f"expected one folder for each class, got {count(len(left.stray), 'image')} without; "
            "sort them into folders named by class, or list them in a CSV file with the columns path,label."
        )
    got = "files that are no images" if left.suffixes else "an empty folder"
    return f"expected one folder for each class with images in it, got {got}."


def _same_part_twice(tops: list[str]) -> list[str]:
    problems = []
    for part in PARTS:
        same = [top for top in tops if SPLIT_NAMES[top.lower()] == part]
        if len(same) > 1:
            problems.append(f"{' and '.join(same)} both mean the {part} part; keep one of them.")
    return problems


def _bad_names(classes: list[str]) -> list[str]:
    problems = []
    for label in classes:
        if "|" in label:
            problems.append(
                f"class names must not contain '|' (it joins several labels), got {label!r}; rename it."
            )
        try:
            label.encode()
        except UnicodeEncodeError:
            problems.append(f"class names must be UTF-8, got {os.fsencode(label)!r}; rename the folder.")
    return problems
