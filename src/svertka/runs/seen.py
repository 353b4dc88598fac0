"""Which images a run has seen: short digests of the content of its training and validation images."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def digest_prefixes(digests: NDArray[np.void]) -> list[str]:
    """16 hex digits for each (n,) content digest; two different images share them with probability 2⁻⁶⁴."""
    return [digest.tobytes()[:8].hex() for digest in digests]


def seen_in_training(digests: NDArray[np.void], seen: Collection[str]) -> NDArray[np.bool_]:
    """For each of (n,) digests whether it is among those that a run has seen."""
    known = set(seen)
    return np.array([prefix in known for prefix in digest_prefixes(digests)], dtype=np.bool_)
