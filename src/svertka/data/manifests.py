"""A table of images becomes a Dataset: CSV (or with `;` or tabs), or Parquet through the extra `parquet`.

    path,label[,split,group]      paths relative to the manifest, or absolute

The separator is read off the header; UTF-8 with or without a byte order mark; spaces around values are cut.
Labels may be numbers. Several labels of one image are joined by `|`. Images of one `group` stay together in
every split. Other columns are ignored, with a note.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svertka.data.dataset import PARTS, UNDECLARED, Dataset
from svertka.data.folders import SPLIT_NAMES
from svertka.data.items import count, from_paths, natural_order, refuse, some, training_problems
from svertka.errors import DataError, nearest

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
_REQUIRED = ("path", "label")
_KNOWN = (*_REQUIRED, "split", "group")
_SEPARATORS = ",;\t"
_PART_CODES = {word: PARTS.index(part) for word, part in SPLIT_NAMES.items()}

Columns = dict[str, list[str]]


def read_manifest(file: Path, name: str, *, training: bool = True) -> Dataset:
    """Read the manifest `file`, called `name` in messages; `training` as for `folders.read_folder`.

    Raises:
        DataError: a damaged table, a missing column, values missing or not understood, files that are not
            there, several labels for one image, and what `training` forbids; all problems in one message.
    """
    read = _read_parquet if file.suffix.lower() in (".parquet", ".pq") else _read_csv
    columns, notes, problems = read(file, name)
    if not columns["path"]:
        refuse(name, [*problems, "it has a header but no rows; expected one row for each image."])
    problems += _missing_values(columns) + _several_labels(columns["label"])
    declared, words = _parts(columns.get("split"), len(columns["path"]))
    problems += words + _missing_files(file.parent, columns["path"])
    classes = natural_order(columns["label"])
    index = {label: number for number, label in enumerate(classes)}
    labels = np.fromiter((index[label] for label in columns["label"]), np.int64, len(columns["label"]))
    if training and not problems:
        problems += training_problems(classes, labels, declared)
    refuse(name, problems)
    return from_paths(
        columns["path"],
        labels,
        classes=classes,
        root=file.parent,
        groups=columns.get("group"),
        declared=declared,
        name=name,
        notes=notes,
    )


def _read_csv(file: Path, name: str) -> tuple[Columns, list[str], list[str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            separator = _separator(text.readline())
            text.seek(0)
            rows = csv.reader(text, delimiter=separator, skipinitialspace=separator != "\t", strict=True)
            return _csv_columns(rows, name)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from None
    except csv.Error as error:
        raise DataError(
            f"{name} is not a valid CSV file: {error}; look for a quote that is not closed."
        ) from None
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); mend its permissions.") from error


def _csv_columns(rows: Any, name: str) -> tuple[Columns, list[str], list[str]]:
    header = [cell.strip() for cell in next(rows, [])]
    places, notes = _find_columns(header, name)
    columns: Columns = {column: [] for column in places}
    ragged = []
    known: dict[str, str] = {}  # labels and parts repeat: keep each text once
    number = 0
    for row in rows:
        if not row:
            continue  # a blank line
        number += 1
        if len(row) != len(header):
            ragged.append(f"row {number} has {len(row)}")
            row += [""] * (len(header) - len(row))
        for column, place in places.items():
            cell = row[place].strip()
            columns[column].append(cell if column == "path" else known.setdefault(cell, cell))
    problems = []
    if ragged:
        problems.append(
            f"expected {len(header)} values in every row, as in the header, but {some(ragged)}; "
            "put quotes around a value that contains the separator."
        )
    return columns, notes, problems


def _separator(header: str) -> str:
    """The separator that splits the header into most known columns, or else into most cells."""

    def score(separator: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"').strip().lower() for cell in header.split(separator)]
        return sum(cell in _KNOWN for cell in cells), len(cells)

    return max(_SEPARATORS, key=score)


def _read_parquet(file: Path, name: str) -> tuple[Columns, list[str], list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{name}: reading Parquet needs pyarrow, which is not installed; "
            "run `pip install 'svertka[parquet]'`, or save the table as CSV."
        ) from None
    try:
        header = list(pyarrow.parquet.read_schema(file).names)
        places, notes = _find_columns(header, name)
        table = pyarrow.parquet.read_table(file, columns=[header[place] for place in places.values()])
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{name} is not a Parquet file that can be read: {error}; write it again.") from None
    columns: Columns = {}
    for column, place in places.items():
        values = table.column(header[place])
        if pyarrow.types.is_nested(values.type):
            what = "several labels for an image are not accepted; " if column == "label" else ""
            refuse(name, [f"{what}expected text or numbers in the column {column}, got {values.type}."])
        known: dict[str, str] = {}
        columns[column] = [known.setdefault(text, text) for text in map(_text, values.to_pylist())]
    return columns, notes, []


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # whole numbers beside a gap become floats in many tools
    return value.decode(errors="replace").strip() if isinstance(value, bytes) else str(value).strip()


def _find_columns(header: list[str], name: str) -> tuple[dict[str, int], list[str]]:
    """Where each known column stands, and a note on those ignored."""
    lower = [cell.strip().lower() for cell in header]
    there = ", ".join(map(repr, header)) if any(header) else "no header at all"
    problems = []
    for column in _REQUIRED:
        if column not in lower:
            guess = nearest(column, header) if any(header) else ""
            hint = f"; {guess}" if guess.startswith("did you mean") else ""
            problems.append(
                f"there is no column {column!r}; the columns there are: {there}{hint}"
                f"{'' if hint else '.'} Expected a first line like path,label[,split,group]."
            )
    problems += [
        f"the column {column!r} is there twice; rename one." for column in _KNOWN if lower.count(column) > 1
    ]
    refuse(name, problems)
    ignored = [cell for cell, low in zip(header, lower, strict=True) if low not in _KNOWN]
    notes = [f"ignored the {'column' if len(ignored) == 1 else 'columns'} {some(ignored)}"] if ignored else []
    return {column: lower.index(column) for column in _KNOWN if column in lower}, notes


def _missing_values(columns: Columns) -> list[str]:
    problems = []
    for column in _REQUIRED:
        rows = _where(columns[column], lambda value: not value)
        if rows:
            problems.append(f"no {column} in {_rows(rows)}; fill it in or remove the {_row_word(rows)}.")
    return problems


def _several_labels(labels: list[str]) -> list[str]:
    rows = _where(labels, lambda value: "|" in value)
    problem = (
        f"expected one label for each image, got several joined by '|' in {_rows(rows)} "
        f"(such as {labels[rows[0]]!r}); training with several labels per image is not available. "
        "Keep one label a row; class names cannot contain '|'."
        if rows
        else ""
    )
    return [problem] if problem else []


def _parts(words: list[str] | None, number: int) -> tuple[NDArray[np.int8], list[str]]:
    if words is None or not any(words):
        return np.full(number, UNDECLARED, np.int8), []
    lower = [word.lower() for word in words]
    problems = []
    gaps = _where(lower, lambda word: not word)
    if gaps:
        problems.append(
            f"no split in {_rows(gaps)}, but in others; fill in train, validation or test everywhere."
        )
    unknown = sorted({word for word in lower if word and word not in _PART_CODES})
    for word in unknown[:5]:
        problems.append(f"unknown split {word!r}; {nearest(word, _PART_CODES)}")
    return np.fromiter((_PART_CODES.get(word, UNDECLARED) for word in lower), np.int8, number), problems


def _missing_files(root: Path, paths: list[str]) -> list[str]:
    folder = str(root)
    missing = [path for path in paths if path and not os.path.isfile(os.path.join(folder, path))]
    if not missing:
        return []
    hint = "paths are relative to the manifest's own folder"
    if os.sep == "/" and any("\\" in path for path in missing):
        hint += "; write / and not \\ between folders"
    return [f"{count(len(missing), 'file')} of {len(paths):,} cannot be found: {some(missing)} ({hint})."]


def _where(values: Sequence[str], bad: Callable[[str], bool]) -> list[int]:
    return [row for row, value in enumerate(values) if bad(value)]


def _rows(rows: list[int]) -> str:
    return f"{_row_word(rows)} {some([str(row + 1) for row in rows])}"


def _row_word(rows: list[int]) -> str:
    return "row" if len(rows) == 1 else "rows"
