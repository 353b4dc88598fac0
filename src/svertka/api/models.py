"""The verb `models`: the catalogue as rows, filtered and sorted. No network is built.

timm's models are listed when asked for (`timm:convnext*`); their figures are counted for a single one only,
which takes seconds.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from svertka.errors import ModelError, OptionError, nearest
from svertka.models.catalog import ROWS, find
from svertka.models.external import PREFIX, listed, outline
from svertka.models.published import published
from svertka.models.rows import Row

COLUMNS = ("name", "family", "year", "parameters", "macs", "depth", "input", "channels", "top1", "top5",
           "weights", "paper")  # fmt: skip
"""Keys of each entry, in the order to show."""


def list_models(pattern: str = "*", *, sort: str = "name") -> list[dict[str, Any]]:
    """The architectures whose name or family fits a pattern.

    Args:
        pattern: a shell pattern such as `resnet*`, or a part of the name; upper and lower case are alike.
            Patterns that begin with `timm:` look among the models of the package timm.
        sort: a column, upwards; with a minus before it (`-top1`) downwards. Unknown values come last.

    Returns:
        For each model `name family year parameters macs depth input channels top1 top5 weights paper`: macs
        are multiply–accumulates for one image of side `input` px, top-1 and top-5 percent on ImageNet as
        published, weights the names of its published weights; None: not known. Of timm's models those whose
        family can be used here are listed; a single one may still be refused.

    Raises:
        OptionError: no such column.
        ModelError: no model fits, timm is not installed, or its single model that fits is refused.
    """
    column = sort.removeprefix("-")
    if column not in COLUMNS:
        raise OptionError(f"expected a column to sort by, got {sort!r}: {nearest(column, COLUMNS)}")
    found = _found(pattern.casefold())
    found.sort(key=lambda entry: _natural(entry["name"]))
    known = [entry for entry in found if entry[column] not in (None, [])]
    known.sort(key=lambda entry: _natural(entry[column]), reverse=sort.startswith("-"))
    return known + [entry for entry in found if entry[column] in (None, [])]


def _found(pattern: str) -> list[dict[str, Any]]:
    if pattern.startswith(PREFIX):
        names = listed(pattern)
        found = [_entry(find(names[0]))] if len(names) == 1 else [_outline(name) for name in names]
    else:
        found = [_entry(row) for row in ROWS.values() if _fits(row, pattern)]
    if not found:
        names = listed(f"{PREFIX}*") if pattern.startswith(PREFIX) else list(ROWS)
        raise ModelError(f"no model fits {pattern!r}: {nearest(pattern, names)}")
    return found


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


def _outline(name: str) -> dict[str, Any]:
    """Of a model of timm, what is known before it is built."""
    family, side, channels = outline(name)
    known = {"name": name, "family": family, "input": side, "channels": channels}
    return dict.fromkeys(COLUMNS) | known | {"weights": [weights.name for weights in published(name)]}


def _natural(value: Any) -> Any:
    """resnet18 before resnet101."""
    if not isinstance(value, str):
        return value
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", value.casefold())]
