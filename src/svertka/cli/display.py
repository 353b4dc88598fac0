"""What the command line shows: progress and sentences on stderr, results on stdout.

A bar appears only on a terminal and only for work that takes over two seconds; elsewhere (a log file) long
work writes a line now and then. `--quiet` shows errors alone, `--json` one JSON value on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from svertka import progress
from svertka.errors import SvertkaError, UsageError

SECONDS_BEFORE_SHOWN = 2.0
SECONDS_BETWEEN_LINES = 20.0

Show = Callable[[Any, Callable[[Any], None]], None]
"""`show(result, table)`: print the result, as JSON if asked for, else with `table`."""


@contextmanager
def shown(as_json: bool, quiet: bool) -> Iterator[Show]:
    """Report progress of the enclosed verb, and print what it hands to the function yielded.

    An error meant for the user is printed (with `--json` as `{"error": …}`) and ends the process.
    """

    def show(result: Any, table: Callable[[Any], None]) -> None:
        if as_json:
            print(json.dumps(result, ensure_ascii=False, allow_nan=False))
        elif not quiet:
            table(result)

    reporter: progress.Reporter = progress.Silent() if quiet else Terminal()
    try:
        with progress.using(reporter):
            yield show
    except SvertkaError as error:
        fail(error, as_json)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None


def run(app: Callable[..., Any]) -> None:
    """Run the command line and end the process; with `--json` wrong usage is a JSON value on stdout too."""
    if "--json" not in sys.argv:
        app()
        return
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # the parser's own class is private to typer
            raise
        fail(UsageError(error.format_message()), as_json=True)
    raise SystemExit(code or 0)


def fail(error: SvertkaError, as_json: bool = False) -> NoReturn:
    """Print an error and end the process with its exit code."""
    if as_json:
        print(json.dumps({"error": str(error)}, ensure_ascii=False))
    print(f"svertka: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


class Terminal:
    """A reporter that writes to stderr."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def say(self, message: str) -> None:
        if self._bars is not None:
            self._bars.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def start(self, title: str, total: int | None, unit: str) -> progress.Step:
        began = written = time.monotonic()
        done, latest = 0, ""

        def step(amount: int = 1, **facts: Any) -> None:
            nonlocal done, latest, written
            done += amount
            latest = " ".join(f"{name} {_short(value)}" for name, value in facts.items()) or latest
            now = time.monotonic()
            if now - began < SECONDS_BEFORE_SHOWN:
                return
            if sys.stderr.isatty():
                self._move(title, done, total, unit, latest)
            elif now - written > SECONDS_BETWEEN_LINES:
                written = now
                self.say(f"{title}: {done:,}{f' of {total:,}' if total else ''} {unit} {latest}".rstrip())

        return step

    def finish(self, title: str) -> None:
        task = self._tasks.pop(title, None)
        if task is not None:
            self._bars.remove_task(task)
        if self._bars is not None and not self._tasks:
            self._bars.stop()
            self._bars = None

    def _move(self, title: str, done: int, total: int | None, unit: str, latest: str) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=total, unit=unit, facts="", completed=done)
        self._bars.update(self._tasks[title], completed=done, facts=latest)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
