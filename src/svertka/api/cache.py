"""The verb `cache`: where stores lie, how large they are, and emptying them."""

from __future__ import annotations

from typing import Any

from svertka.data.store import clear_cache, describe_cache


def cache(*, clear: bool = False) -> dict[str, Any]:
    """Say where the cache is and how large: `path bytes limit_bytes`; with `clear` empty it first."""
    if clear:
        clear_cache()
    return describe_cache()
