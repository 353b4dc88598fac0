"""The verb `models`: the catalogue as rows, filtered and sorted. No network is built."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from svertka.errors import ModelError, OptionError, nearest
from svertka.models.catalog import ROWS
from svertka.models.published import published
from svertka.models.rows import Row

COLUMNS = ("name", "family", "year", "parameters", "macs", "depth", "input", "channels", "top1", "top5",
           "weights", "paper")  # fmt: skip
"""Keys of each entry, in the order to show."""


def list_models(pattern: str = "*", *, sort: str = "name") -> list[dict[str, Any]]:
    """The architectures whose name or family fits a pattern.

    Args:
        pattern: a shell pattern such as `resnet*`, or a part of the name; upper and lower case are alike.
        sort: a column, upwards; with a minus before it (`-top1`) downwards. Unknown values come last.

    Returns:
        For each model `name family year parameters macs depth input channels top1 top5 weights paper`: macs
        are multiply–accumulates for one image of side `input` px, top-1 and top-5 percent on ImageNet as
        published, weights the names of its published weights.

    Raises:
        OptionError: no such column.
        ModelError: no model fits.
    """
    column = sort.removeprefix("-")
    if column not in COLUMNS:
        raise OptionError(f"expected a column to sort by, got {sort!r}: {nearest(column, COLUMNS)}")
    found = [_entry(row) for row in ROWS.values() if _fits(row, pattern.casefold())]
    if not found:
        raise ModelError(f"no model fits {pattern!r}: {nearest(pattern, ROWS)}")
    found.sort(key=lambda entry: _natural(entry["name"]))
    known = [entry for entry in found if entry[column] not in (None, [])]
    known.sort(key=lambda entry: _natural(entry[column]), reverse=sort.startswith("-"))
    return known + [entry for entry in found if entry[column] in (None, [])]


def _fits(row: Row, pattern: str) -> bool:
    names = (row.name.casefold(), row.family.name.casefold())
    return any(pattern in name or fnmatchcase(name, pattern) for name in names)


def _entry(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "family": row.family.name,
        "year": row.year,
        "parameters": row.parameters,
        "macs": int(row.macs),
        "depth": row.depth,
        "input": row.input,
        "channels": row.channels,
        "top1": row.top1,
        "top5": row.top5,
        "weights": [weights.name for weights in published(row.name)],
        "paper": row.paper,
    }


def _natural(value: Any) -> Any:
    """resnet18 before resnet101."""
    if not isinstance(value, str):
        return value
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", value.casefold())]
