"""Progress: silent by default, sent to the reporter that is in use, closed when work fails."""

from __future__ import annotations

from typing import Any

import pytest

from svertka import progress


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def start(self, title: str, total: int | None, unit: str) -> progress.Step:
        self.events.append(("start", title, total, unit))
        return lambda amount=1, **facts: self.events.append(("step", title, amount, facts))

    def finish(self, title: str) -> None:
        self.events.append(("finish", title))

    def say(self, message: str) -> None:
        self.events.append(("say", message))


def test_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("Work", total=2) as step:
        step(2, loss=1.0)
        progress.say("hello")
    assert capsys.readouterr() == ("", "")


def test_a_reporter_hears_all_in_order() -> None:
    heard = Heard()
    with progress.using(heard), progress.track("Work", total=5, unit="steps") as step:
        step()
        step(4, loss=0.5)
        progress.say("done")
    assert heard.events == [
        ("start", "Work", 5, "steps"),
        ("step", "Work", 1, {}),
        ("step", "Work", 4, {"loss": 0.5}),
        ("say", "done"),
        ("finish", "Work"),
    ]


def test_work_without_a_title_is_not_shown() -> None:
    heard = Heard()
    with progress.using(heard), progress.track(None, total=3) as step:
        step(3)
    assert heard.events == []


def test_failed_work_is_closed_and_the_former_reporter_comes_back() -> None:
    outer, inner = Heard(), Heard()
    with progress.using(outer):
        with pytest.raises(ZeroDivisionError), progress.using(inner), progress.track("Work"):
            raise ZeroDivisionError
        progress.say("outside")
    progress.say("nobody hears")
    assert inner.events == [("start", "Work", None, "images"), ("finish", "Work")]
    assert outer.events == [("say", "outside")]
