"""What all tests share: a cache of their own, real photos where they are, a command line in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PHOTOS = Path(os.environ.get("SVERTKA_PHOTOS", Path(__file__).parents[2] / "shared" / "data"))
"""The folder with `ants_bees`, `clothing` and `cifar10_jpeg.tar.gz`, for slow tests."""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stores and engines of tests never meet those of the user."""
    os.environ["SVERTKA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def photos() -> Callable[[str], Path]:
    """`photos("ants_bees")`: the place of real photos; the test is skipped where they are absent."""

    def find(name: str) -> Path:
        if not (PHOTOS / name).exists():
            pytest.skip(f"no photos at {PHOTOS / name}; set SVERTKA_PHOTOS to the folder that holds {name}")
        return PHOTOS / name

    return find


@dataclass(frozen=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def svertka_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answer]:
    """`svertka_command("train", "digits")` runs the command line in this process."""

    def run(*arguments: str | Path) -> Answer:
        from svertka.cli.main import main

        monkeypatch.setattr(sys, "argv", ["svertka", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return run
