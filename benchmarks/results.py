"""RESULTS.md: what the benchmark scripts measured, one section a script, replaced when it runs again.

results.write("Batches", table, notes)        the machine, versions, command and date are added here
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from svertka.files import write_text
from svertka.runs.environment import environment

FILE = Path(__file__).with_name("RESULTS.md")
TITLE = "# Results\n\nWritten by the scripts in this folder; run one to replace its section.\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(section: str, *paragraphs: str, file: Path = FILE) -> None:
    """Put a section into RESULTS.md, in place of an older one of the same name; others stay as they are."""
    old = file.read_text(encoding="utf-8") if file.exists() else TITLE
    parts = re.split(r"(?m)^(?=## )", old)
    new = "\n\n".join([f"## {section}", *paragraphs, conditions()]) + "\n"
    names = [part.splitlines()[0] for part in parts[1:]]
    if f"## {section}" in names:
        parts[1 + names.index(f"## {section}")] = new
    else:
        parts.append(new)
    write_text(file, "\n".join(part.strip() + "\n" for part in parts))


def conditions() -> str:
    """Machine, threads, how busy it was (1 is one core's worth), versions, command and date."""
    facts = environment()
    named = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    command = " ".join(["python", *map(str, [Path("benchmarks") / Path(sys.argv[0]).name, *sys.argv[1:]])])
    load = (
        f"load average {os.getloadavg()[2]:.1f} over the last 15 minutes, "
        if hasattr(os, "getloadavg")
        else ""
    )
    return (
        f"*{facts['processor']}, {facts['cores']} cores, {torch.get_num_threads()} threads, {load}"
        f"{facts['platform']}; {named}; {today}; `{command}`*"
    )
