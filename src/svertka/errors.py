"""Every error a user can meet, as one tree (drawn at its root, `SvertkaError`).

A message says what was expected, what came (value, shape or path) and what to do next; all problems of
one input stand in one message. The command line prints the message without a traceback and ends with
`exit_code`: 2 for wrong usage (an option, a path, the data given), 1 for work that failed.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class SvertkaError(Exception):
    """Root of all errors meant for the user. `exit_code` is what the command line ends with.

    SvertkaError
    ├── UsageError              exit 2: what the user gave cannot be used
    │   ├── OptionError           an unknown option, a value out of range, options that cannot act together
    │   ├── DataError             the data cannot be used: nothing there, one class only, a column missing
    │   ├── ModelError            an unknown model, or one asked for what it does not have
    │   └── RunError              a run directory or file in it that is missing, damaged or of another run
    ├── ImageError              one image could not be decoded; names it
    ├── StoreError              a cache could not be written or read (full disk, damaged file)
    ├── DownloadError           something had to be fetched and could not be
    ├── WeightsError            a file of weights is damaged, hostile or does not fit
    ├── TrainingError           training cannot go on (loss not finite, out of memory)
    └── Interrupted             the user stopped the work; what was done is kept
    """

    exit_code: ClassVar[int] = 1


class UsageError(SvertkaError):
    """What the user gave cannot be used as it is."""

    exit_code = 2


class OptionError(UsageError):
    """An option is unknown, out of range, or has no effect with the others."""


class DataError(UsageError, ValueError):
    """The data named by the user cannot be used; a `ValueError` too, as scikit-learn wants it."""


class ModelError(UsageError):
    """A model is unknown, or is asked for something it does not have."""


class RunError(UsageError):
    """A run directory is missing, damaged, or does not belong to what it is used with."""


class ImageError(SvertkaError):
    """An image could not be decoded. The message names it."""


class StoreError(SvertkaError):
    """A cached store could not be written or read."""


class DownloadError(SvertkaError):
    """Something had to be fetched from the network and could not be."""


class WeightsError(SvertkaError):
    """A file of weights is damaged, unsafe or does not fit the model."""


class TrainingError(SvertkaError):
    """Training cannot go on; what was reached so far is kept."""


class Interrupted(SvertkaError):
    """The user stopped the work (Ctrl-C, SIGTERM). What was done can be resumed."""

    exit_code = 130


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause naming the known word nearest to `word`, or all of them if none is near and they are few.

    >>> nearest("optimzer", ["optimizer", "schedule"])
    "did you mean 'optimizer'?"
    """
    choices = [str(choice) for choice in known]
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(choices) <= 12:
        return "choose from " + ", ".join(choices) + "."
    return f"there are {len(choices)} to choose from, such as " + ", ".join(choices[:6]) + "."
