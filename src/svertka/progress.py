"""What long work reports to. Silent by default; the command line puts a display in.

    with progress.track("Decoding", total=len(paths), unit="images") as step:
        for path in paths:
            ...
            step(1)
    progress.say("3 broken images were skipped")

The reporter lives in a context variable: nobody passes it along, and tests can put their own in with
`progress.using(reporter)`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Step = Callable[..., None]
"""`step(amount=1, **facts)`: so much more is done; facts (loss=0.31, accuracy=0.9) stand beside the bar."""


class Reporter(Protocol):
    """What a display must offer."""

    def start(self, title: str, total: int | None, unit: str) -> Step:
        """Open a line of progress; the returned function moves it."""

    def finish(self, title: str) -> None:
        """Close the line of progress with this title."""

    def say(self, message: str) -> None:
        """Show one sentence that stays."""


class Silent:
    """The reporter that shows nothing."""

    def start(self, title: str, total: int | None, unit: str) -> Step:
        return lambda amount=1, **facts: None

    def finish(self, title: str) -> None:
        pass

    def say(self, message: str) -> None:
        pass


_reporter: ContextVar[Reporter] = ContextVar("reporter", default=Silent())  # noqa: B039 (it has no state)


@contextmanager
def using(reporter: Reporter) -> Iterator[None]:
    """Send the progress of the enclosed work to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def track(title: str | None, total: int | None = None, unit: str = "images") -> Iterator[Step]:
    """Report work of `total` units (None: unknown); yields the function that moves it on.

    Work without a title is not shown.
    """
    reporter = _reporter.get() if title else Silent()
    title = title or ""
    step = reporter.start(title, total, unit)
    try:
        yield step
    finally:
        reporter.finish(title)


def say(message: str) -> None:
    """Tell the user one sentence: a choice made and why, something skipped, an estimate."""
    _reporter.get().say(message)
