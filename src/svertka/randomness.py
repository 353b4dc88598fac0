"""One seed gives every random decision a generator of its own, found by name.

A generator is a pure function of (seed, names): `generator(7, "order", epoch)` needs nothing remembered
between epochs, so a resumed run asks for the same names and continues with the same numbers, and a new
consumer of randomness changes no old one. Names in use: `split`, `order`, `augment`, `init`, `noise`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(seed: int, *names: str | int) -> int:
    """A 63-bit integer that depends on the seed and on every name."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator of its own for these names."""
    return np.random.Generator(np.random.PCG64(key(seed, *names)))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU torch generator of its own for these names."""
    import torch

    return torch.Generator().manual_seed(key(seed, *names))
