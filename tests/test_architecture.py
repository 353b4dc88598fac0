"""The map is the disk, imports go downwards, files stay short: checked on the source text alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "svertka"
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
FILES = sorted(path for path in SOURCE.rglob("*.py"))

LINES = [
    {"__main__"},
    {"cli"},
    {"api"},
    {"serve", "report"},
    {"lab", "audit"},
    {"doctor"},
    {"transfer"},
    {"training"},
    {"explain", "export", "monitor"},
    {"evaluation"},
    {"engine", "runs"},
    {"data", "models", "runtime"},
    {"images"},
    {"recipe"},
    {"augmentation", "optimization"},
    {"errors", "shapes", "randomness", "progress", "files", "settings"},
]
"""Highest first; a package imports from lower lines only, and packages of one line do not know each other."""


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """All modules a file imports, at any depth of its code, as dotted names; typing-only imports too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def rank(name: str) -> int:
    return next(index for index, line in enumerate(LINES) if name in line)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    own = package(path)
    if own == "__init__":
        return  # the list of public names, imported lazily
    for module in imported(path):
        parts = module.split(".")
        if parts[0] != "svertka" or len(parts) < 2 or parts[1] in (own, "__version__"):
            continue
        if not ((SOURCE / parts[1]).is_dir() or (SOURCE / f"{parts[1]}.py").exists()):
            continue
        if own in LINES[-1] and parts[1] in LINES[-1]:
            continue  # the ground line: small modules that may use one another
        assert rank(parts[1]) > rank(own), f"{own} must not import {parts[1]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in {"utils", "helpers", "common", "base"}
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "no module docstring"
        assert len(docstring.splitlines()) <= 15


def top_level_names(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_what_never_imports_torch() -> None:
    torchless = [
        SOURCE / "images" / "decode.py",
        SOURCE / "images" / "preprocess.py",
        SOURCE / "runs" / "run.py",
    ]
    torchless += [*(SOURCE / "runtime").rglob("*.py"), SOURCE / "recipe.py", SOURCE / "optimization.py"]
    for path in torchless:
        assert not top_level_names(path) & {"torch", "torchvision"}, path


def test_reading_a_run_and_help_need_no_torch() -> None:
    code = (
        "import sys, svertka.cli.main, svertka.runs.run, svertka.images.decode\n"
        "assert not {'torch', 'sklearn', 'scipy', 'onnxruntime'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_edges_print_and_only_two_files_download_or_unpickle() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        place = path.relative_to(SOURCE).as_posix()
        if package(path) not in {"cli", "serve"}:
            assert "print" not in calls, f"{place} prints"
        if package(path) != "models":
            assert "torch.load" not in calls, f"{place} unpickles"
        if package(path) not in {"data", "models"}:
            assert not top_level_names(path) & {"urllib", "requests", "pickle"}, place


def test_public_names_exist() -> None:
    import svertka

    for name in svertka.__all__:
        assert getattr(svertka, name) is not None


def mapped() -> dict[str, str]:
    """Path to gloss, from the tree in ARCHITECTURE.md."""
    block = re.search(r"```tree\n(.*?)```", ARCHITECTURE.read_text(encoding="utf-8"), re.DOTALL)
    assert block, "docs/ARCHITECTURE.md has no ```tree block"
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, gloss = line.strip().partition("  ")
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            found["".join(folders) + name] = gloss.strip()
    return found


def test_the_map_is_the_disk() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    real = {
        name
        for name in tracked.splitlines()
        if name.startswith(("src/svertka/", "benchmarks/"))
        and name.endswith(".py")
        and not name.endswith("__init__.py")
    }
    real |= {"src/svertka/__init__.py"}
    real = {name for name in real if (ROOT / name).exists()}
    assert set(mapped()) == real


def test_glosses_are_short() -> None:
    for path, gloss in mapped().items():
        assert 1 <= len(gloss.split()) <= 8, f"{path}: {gloss!r}"
