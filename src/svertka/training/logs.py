"""TensorBoard logs on request: the rows of the history as scalars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from svertka.errors import OptionError
from svertka.runs.run import Run


@contextmanager
def tensorboard(run: Run | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields what writes a row of the history into `RUN/tensorboard`; without a run it does nothing.

    A resumed run hides what was logged after its last checkpoint.

    Raises:
        OptionError: the extra `tensorboard` is not installed.
    """
    if run is None:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise OptionError(
            "TensorBoard logs need the extra `tensorboard`: pip install 'svertka[tensorboard]'."
        ) from None
    with SummaryWriter(run.file("tensorboard"), purge_step=len(run.history) + 1) as writer:

        def log(row: dict[str, Any]) -> None:
            for name, value in _scalars(row):
                writer.add_scalar(name, value, row["epoch"])
            writer.flush()

        yield log


def _scalars(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{kind}/{name}", number) for kind, number in value.items())
        elif name != "epoch":
            yield name, value
