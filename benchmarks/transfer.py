"""A folder of ants and bees, whole processes: `svertka train FOLDER` against PyTorch's transfer tutorial.

    python benchmarks/transfer.py DATA [--seeds 5] [--peer-epochs 25] [--only ours frozen full] [--keep FILE]

DATA has `train` and `val`, each with class folders. The tutorial's recipe, with a frozen trunk and as a full
fine-tuning: RandomResizedCrop(224), flip, batches of 4, SGD 0.001 with momentum 0.9, StepLR(7, 0.1), 25
epochs, ImageFolder and DataLoader, accuracy on `val` after every epoch; network and weights are those that
Svertka uses, EfficientNet-Lite0. Svertka is timed three times a seed: first use on a machine (no cache at
all), new data (only the choice of engine is remembered), and the same command again. Each seed is a round in
which all take a turn. With fewer peer epochs than 25 the seconds are extrapolated and no accuracy is stated.
`--keep` stores every measurement: an interrupted benchmark goes on, and may be run in parts (`--only`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results

EPOCHS = 25
MODEL = "efficientnet_lite0"
IMPORTS = "import torch, onnxruntime, scipy.optimize, svertka.api.train"
OURS = {
    "first use": "Svertka, first use on a machine",
    "new data": "Svertka, new data",
    "repeat": "Svertka, the same again",
}
PEERS = {"frozen": "tutorial, frozen trunk", "full": "tutorial, full fine-tuning"}
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t for a 95 % interval of a mean of so many seeds."""


def tutorial(data: Path, frozen: bool, epochs: int, seed: int) -> dict[str, Any]:
    """The tutorial's recipe; accuracy on `val` after the last epoch and the seconds of each epoch.

    Source: https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html
    """
    import torch
    from torch import nn, optim
    from torchvision import datasets, transforms

    from svertka.models import build, weights
    from svertka.models.network import last_layer

    torch.manual_seed(seed)
    facts = weights.find(MODEL, "imagenet")
    normalize = [transforms.ToTensor(), transforms.Normalize(facts.mean, facts.std)]
    crop = [transforms.RandomResizedCrop(facts.size), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(facts.store_size), transforms.CenterCrop(facts.size)]
    loaders = {
        part: torch.utils.data.DataLoader(
            datasets.ImageFolder(str(data / part), transforms.Compose([*steps, *normalize])),
            batch_size=4, shuffle=True, num_workers=os.cpu_count() or 1,
        )
        for part, steps in (("train", crop), ("val", centre))
    }  # fmt: skip
    network = build(MODEL, classes=len(loaders["train"].dataset.classes), weights="imagenet", seed=seed)
    if frozen:
        network.requires_grad_(False)
        last_layer(network)[2].requires_grad_(True)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = optim.SGD(trained, lr=0.001, momentum=0.9)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        network.train()
        for images, labels in loaders["train"]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        network.eval()
        right = 0
        with torch.no_grad():
            for images, labels in loaders["val"]:
                right += int((network(images).argmax(1) == labels).sum())
        seconds.append(time.perf_counter() - began)
    return {"accuracy": right / len(loaders["val"].dataset), "epochs": seconds}


def timed(command: list[str], **environment: str) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return seconds, done.stdout


def ours(data: Path, seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Svertka with an empty cache, with a remembered engine, and again."""
    cache = folder / "cache"
    measured = {}
    for number, name in enumerate(OURS):
        if name == "new data":
            for kind in cache.iterdir():
                if kind.name != "engines":
                    shutil.rmtree(kind) if kind.is_dir() else kind.unlink()
        out = ["--seed", str(seed), "--out", str(folder / f"run-{number}"), "--json"]
        command = [sys.executable, "-m", "svertka", "train", str(data), *out]
        seconds, said = timed(command, SVERTKA_CACHE=str(cache))
        measured[name] = {"seconds": seconds, "accuracy": json.loads(said)["test"]["accuracy"]["value"]}
    seconds, _ = timed([sys.executable, "-c", IMPORTS])
    measured["imports"] = {"seconds": seconds}
    return measured


def peer(data: Path, kind: str, epochs: int, seed: int) -> dict[str, dict[str, Any]]:
    """The tutorial as a process; epochs that did not run count as the median of those that ran."""
    asked = ["--as-peer", kind, "--peer-epochs", str(epochs), "--seed", str(seed)]
    seconds, said = timed([sys.executable, __file__, str(data), *asked])
    found = json.loads(said)
    seconds += (EPOCHS - epochs) * statistics.median(found["epochs"])
    return {
        kind: {"seconds": seconds, "accuracy": found["accuracy"] if epochs == EPOCHS else None, "ran": epochs}
    }


def report(kept: list[dict[str, Any]]) -> list[str]:
    """The table, whose ratios are of medians, and what the repetition costs."""
    names = {**OURS, **PEERS}
    taken = {name: [row["seconds"] for row in kept if row["name"] == name] for name in [*names, "imports"]}
    middle = {name: statistics.median(seconds) for name, seconds in taken.items() if seconds}
    rows = []
    for name, title in names.items():
        if name not in middle:
            continue
        ran = sorted({row.get("ran", EPOCHS) for row in kept if row["name"] == name})
        how = "" if ran == [EPOCHS] else f" (extrapolated from {ran[0]} epochs)"
        ratios = [
            f"{middle[kind] / middle[name]:.0f}×" if name in OURS and kind in middle else "–"
            for kind in PEERS
        ]
        found = [row["accuracy"] for row in kept if row["name"] == name and row["accuracy"] is not None]
        cell = f"{min(taken[name]):.1f} / {middle[name]:.1f}{how}"
        rows.append([title, len(taken[name]), cell, *ratios, mean(found)])
    columns = ["whole process", "seeds", "seconds, minimum / median"]
    columns += [f"faster than the {title}" for title in PEERS.values()]
    columns += ["test accuracy, mean of the seeds (95 % interval)"]
    paragraphs = [results.table(columns, rows)]
    if "repeat" in middle:
        beyond = middle["repeat"] - middle["imports"]
        paragraphs.append(f"The same again: {beyond:.1f} s beyond its imports of {middle['imports']:.1f} s.")
    return paragraphs


def mean(found: list[float]) -> str:
    if not found:
        return "–"
    value = f"{100 * statistics.mean(found):.1f} %"
    if len(found) not in T95:
        return value
    half = T95[len(found)] * statistics.stdev(found) / len(found) ** 0.5
    return f"{value} (± {100 * half:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-epochs", type=int, default=EPOCHS, help="fewer are extrapolated")
    parser.add_argument("--only", nargs="+", choices=["ours", *PEERS], default=["ours", *PEERS])
    parser.add_argument("--keep", type=Path, help="where measurements are kept, a line each")
    parser.add_argument("--as-peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_peer:
        print(json.dumps(tutorial(given.data, given.as_peer == "frozen", given.peer_epochs, given.seed)))
        return
    there = given.keep is not None and given.keep.exists()
    kept = [json.loads(line) for line in given.keep.read_text().splitlines()] if there else []
    for seed in range(given.seeds):
        for who in given.only:
            if any(
                row["seed"] == seed and row["name"] in (who, *(OURS if who == "ours" else ())) for row in kept
            ):
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = (
                    ours(given.data, seed, Path(folder))
                    if who == "ours"
                    else peer(given.data, who, given.peer_epochs, seed)
                )
            for name, row in found.items():
                kept.append({"name": name, "seed": seed, **row})
                print(json.dumps(kept[-1]), flush=True)
                if given.keep:
                    with open(given.keep, "a", encoding="utf-8") as file:
                        file.write(json.dumps(kept[-1]) + "\n")
    results.write(
        "Transfer",
        *report(kept),
        "Reach: 40× (new data) and 30× (first use) over the frozen trunk, 80× and 45× over full fine-tuning, "
        "the same again below 2 s beyond imports, a mean accuracy at most 1 point below the tutorial's last "
        "epoch. The test images are the folder `val`; the tutorial trains on all of `train`, Svertka keeps "
        "15 % of it to choose by.",
    )


if __name__ == "__main__":
    main()
