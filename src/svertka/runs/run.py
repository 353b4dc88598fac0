"""Run: the directory that a training leaves, and the only thing it hands over.

    recipe.toml           all settings               history.jsonl         one line an epoch
    plan.json             what was measured          metrics.json          the result, with intervals
    data.json             classes, parts, digests    weights.safetensors   the weights that answer
    preprocess.json       from image to input        resume/               the last state, to go on from
    environment.json      machine and versions

Everything but the weights is read here without torch. Every write is atomic.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svertka import files
from svertka.errors import OptionError, RunError
from svertka.images.preprocess import Preprocess
from svertka.recipe import Recipe

WEIGHTS = "weights.safetensors"
CHECKPOINT = "resume/state.safetensors"


class Run:
    """A run directory; facts are read when asked for.

    Raises (from every property): RunError naming the file that is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run.

        Raises:
            RunError: nothing there, or it is not a run directory.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise RunError(f"no run at {path}: expected the directory that `svertka train` wrote.")
        if not run.file("recipe.toml").exists():
            raise RunError(
                f"{path} is not a run: it has no recipe.toml. Name the directory that `train` printed."
            )
        return run

    @classmethod
    def create(cls, path: str | Path) -> Run:
        """A new, empty run directory.

        Raises:
            OptionError: the place exists and is not empty.
        """
        run = cls(path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise OptionError(
                f"{path} exists. Name another --out, or add --resume to go on with the run that is there."
            )
        with files.disk_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        return run

    def file(self, name: str) -> Path:
        return self.path / name

    def snapshot(self, number: int) -> Path:
        """Where the weights at the end of cycle `number` (from 1) lie."""
        return self.path / "snapshots" / f"{number}.safetensors"

    def snapshots(self) -> list[Path]:
        """Weights at the ends of the cycles, in their order."""
        kept = (self.path / "snapshots").glob("*.safetensors")
        return sorted(kept, key=lambda path: int(path.stem) if path.stem.isdigit() else 0)

    @property
    def started(self) -> bool:
        """Whether all the facts that fix a run are written (a kill before that leaves nothing to resume)."""
        return self.file("plan.json").exists()

    @property
    def finished(self) -> bool:
        return self.file("metrics.json").exists()

    @property
    def recipe(self) -> Recipe:
        self._expect("recipe.toml")
        try:
            return Recipe.load(self.file("recipe.toml"))
        except (OptionError, UnicodeDecodeError) as error:
            raise RunError(f"{self.file('recipe.toml')} is damaged: {error}") from error

    @property
    def plan(self) -> dict[str, Any]:
        return self._json("plan.json", ("seed", "epochs", "device", "threads", "versions"))

    @property
    def data(self) -> dict[str, Any]:
        return self._json("data.json", ("classes", "fingerprint", "parts", "seen"))

    @property
    def metrics(self) -> dict[str, Any]:
        if not self.finished:
            raise RunError(
                f"{self.path} is not finished; go on with `svertka train … --out {self.path} --resume`."
            )
        return self._json("metrics.json", ("temperature", "test", "validation"))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.data["classes"])

    @property
    def preprocess(self) -> Preprocess:
        values = self._json("preprocess.json", ())
        try:
            return Preprocess.from_dict(values)
        except (KeyError, TypeError, ValueError, OptionError) as error:
            raise self._damaged("preprocess.json", error) from error

    @property
    def history(self) -> list[dict[str, Any]]:
        path = self.file("history.jsonl")
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise self._damaged("history.jsonl", error) from error

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON fact."""
        files.write_json(self.file(name), value)

    def write_recipe(self, recipe: Recipe) -> None:
        files.write_text(self.file("recipe.toml"), recipe.to_toml())

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
        files.write_text(self.file("history.jsonl"), "".join(lines))

    def clear_unstarted(self) -> None:
        """Remove what a kill before the start left (facts without `plan.json`); anything else stays.

        Raises:
            OptionError: the directory holds files that are not of a run.
        """
        known = {"recipe.toml", "data.json", "preprocess.json", "environment.json"}
        found = {file.name for file in self.path.iterdir()}
        strange = {name for name in found - known if not name.endswith(".part")}
        if strange:
            raise OptionError(f"{self.path} is not a run: it holds {', '.join(sorted(strange)[:5])}.")
        for name in found:
            self.file(name).unlink()

    def discard(self) -> None:
        """Remove a directory that holds no started run (the data turned out to be unusable)."""
        if not self.started:
            shutil.rmtree(self.path, ignore_errors=True)

    def _json(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        self._expect(name)
        try:
            value = json.loads(self.file(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._damaged(name, error) from error
        missing = [key for key in keys if not isinstance(value, dict) or key not in value]
        if missing or not isinstance(value, dict):
            raise self._damaged(name, f"it has no {', '.join(missing) or 'JSON object'}")
        return value

    def _expect(self, name: str) -> None:
        if not self.file(name).exists():
            raise RunError(
                f"{self.path} has no {name}: the run was stopped before it started, or files were lost."
            )

    def _damaged(self, name: str, error: object) -> RunError:
        return RunError(f"{self.file(name)} is damaged ({error}). Restore it from a copy, or train again.")


def next_free(name: str, parent: str | Path = "runs") -> Path:
    """`parent/name-N` with the smallest N from 1 that does not exist yet."""
    number = 1
    while (Path(parent) / f"{name}-{number}").exists():
        number += 1
    return Path(parent) / f"{name}-{number}"
