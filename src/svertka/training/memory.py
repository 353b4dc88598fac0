"""Out of memory: caught, and answered with a batch size that fits, found by trying halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from svertka.data.batches import Batch
from svertka.errors import TrainingError

SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "could not create a memory object")
"""What torch says when memory runs out on the devices that have no error class of their own."""


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS))


@contextmanager
def explained(batch: Batch, step: Callable[[Batch], object], kept: str) -> Iterator[None]:
    """Turn running out of memory into an error that names a batch size that fits.

    Args:
        batch: the one that did not fit.
        step: does for another batch what failed for this one; its results are thrown away.
        kept: a sentence on what of the work is kept.

    Raises:
        TrainingError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        failed = error
    else:
        return
    del failed  # its traceback holds the tensors of the step
    raise TrainingError(_advice(batch, fitting(batch, step), kept))


def fitting(batch: Batch, step: Callable[[Batch], object]) -> int:
    """The largest half, quarter … of a batch for which `step` finds memory; 0: not even one image."""
    size = len(batch) // 2
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            step(Batch(batch.images[:size], batch.labels[:size], batch.indices[:size]))
        except (RuntimeError, MemoryError, ValueError) as error:
            if not (ran_out(error) or "more than 1 value per channel" in str(error)):
                raise
        else:
            return size
        size //= 2
    return 0


def _advice(batch: Batch, size: int, kept: str) -> str:
    side = " × ".join(map(str, batch.images.shape[1:]))
    began = f"memory ran out with {len(batch)} images of {side} a step. "
    if not size:
        return began + f"Not even one fits: choose a smaller data.size or a smaller model. {kept}"
    pieces = -(-len(batch) // size)
    return (
        f"{began}{size} fit: --set optimizer.batch_size={size}, or the same batch in pieces: "
        f"--set optimizer.accumulate={pieces}. {kept}"
    )
