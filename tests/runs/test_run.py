"""Run: a directory that is made once, read without torch, and never taken over from somebody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svertka.errors import OptionError, RunError
from svertka.recipe import Recipe
from svertka.runs.environment import pick_device
from svertka.runs.run import Run, next_free
from svertka.runs.seen import digest_prefixes, seen_in_training


def test_create_takes_nothing_over(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a" / "run")
    assert run.path.is_dir()
    assert Run.create(run.path).path == run.path  # still empty
    run.write("plan.json", {})
    with pytest.raises(OptionError, match=r"run exists\. Name another --out, or add --resume"):
        Run.create(run.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="file exists"):
        Run.create(tmp_path / "file")


def test_the_next_free_name(tmp_path: Path) -> None:
    assert next_free("cats", tmp_path) == tmp_path / "cats-1"
    for name in ("cats-1", "cats-2", "cats-4"):
        (tmp_path / name).mkdir()
    assert next_free("cats", tmp_path) == tmp_path / "cats-3"


def test_facts_come_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    recipe = Recipe().set(["optimizer.clip=0.5"])
    run.write_recipe(recipe)
    rows = [{"epoch": 1, "train": {"loss": 0.1}}, {"epoch": 2, "train": {"loss": 1e-30}}]
    assert run.history == []
    run.write_history(rows)
    opened = Run.open(run.path)
    assert opened.recipe == recipe
    assert opened.history == rows
    assert not opened.started
    assert not opened.finished
    with pytest.raises(RunError, match="is not finished; go on with"):
        _ = opened.metrics
    with pytest.raises(RunError, match=r"has no plan\.json: the run was stopped before it started"):
        _ = opened.plan
    run.write("plan.json", {"seed": 1})
    with pytest.raises(RunError, match=r"plan\.json is damaged \(it has no epochs, device"):
        _ = opened.plan
    run.file("history.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(RunError, match=r"history\.jsonl is damaged"):
        _ = opened.history


def test_only_an_unstarted_run_is_removed(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.write_recipe(Recipe())
    (run.path / ".recipe.toml.abc.part").write_text("half")
    run.clear_unstarted()
    assert list(run.path.iterdir()) == []
    run.write_recipe(Recipe())
    run.file("photo.jpg").write_text("mine")
    with pytest.raises(OptionError, match=r"is not a run: it holds photo\.jpg"):
        run.clear_unstarted()
    assert run.file("photo.jpg").exists()
    run.write("plan.json", {})
    run.discard()
    assert run.started
    run.file("plan.json").unlink()
    run.discard()
    assert not run.path.exists()


def test_facts_are_read_without_torch(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.write_recipe(Recipe())
    script = f"""
import sys
from svertka.runs.run import Run
Run.open({str(run.path)!r}).recipe
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_seen_images_are_found_by_their_digest() -> None:
    digests = np.frombuffer(bytes(range(48)), "V16")
    known = digest_prefixes(digests[:2])
    assert known == ["0001020304050607", "1011121314151617"]
    assert seen_in_training(digests, known).tolist() == [True, True, False]
    assert seen_in_training(digests[:0], known).tolist() == []


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(OptionError, match="no device 'cdua'; did you mean 'cuda'"):
        pick_device("cdua")
