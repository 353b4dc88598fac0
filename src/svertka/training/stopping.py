"""Ctrl-C and SIGTERM as a polite question: the training finishes its step, saves, and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from svertka import progress


@contextmanager
def watch() -> Iterator[Callable[[], bool]]:
    """Catch the first Ctrl-C or SIGTERM; yields a function that says whether there was one.

    A second Ctrl-C ends the process at once. Outside the main thread no signal can be caught, and none is.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        progress.say("stopping after this step (once more: at once)")

    former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
