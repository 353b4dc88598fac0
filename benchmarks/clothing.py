"""Clothing photos in ten minutes: the whole ladder, its probe alone, and fastai's `fine_tune(2)`.

    python benchmarks/clothing.py DATA [--splits 5] [--minutes 10] [--only ladder probe fastai] [--keep FILE]
        [--fastai-python PYTHON]

All photos of DATA (with or without split folders) are divided into five parts, classes kept in proportion;
split i tests on part i and trains on the rest. Each is a whole process on the same list of files:
`svertka train LIST --minutes M`, the same with `transfer.rung=probe` (warm: the ladder has stored the same
features), and fastai with the same network and weights, its usual head, crops, transforms and
`fine_tune(2)`, given all the time it takes. Differences are paired over the test photos of all splits.
`--fastai-python` is a Python that can import both fastai and svertka (a separate environment, if need be).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import results

PARTS = 5
MODEL = "efficientnet_lite0"
WHO = {
    "ladder": "Svertka, the whole ladder",
    "probe": "Svertka, probe alone",
    "fastai": "fastai, fine_tune(2)",
}


def photos(data: Path) -> list[tuple[str, str]]:
    """Path and class of every image, whatever part it lies in."""
    from svertka.images.decode import SUFFIXES

    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [(str(path.resolve()), path.parent.name) for path in files]


def write_list(found: list[tuple[str, str]], split: int, file: Path) -> None:
    """The manifest of one split."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(PARTS, shuffle=True, random_state=0)
    _, test = list(folds.split(found, [label for _, label in found]))[split]
    tested = set(test.tolist())
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "label", "split"])
        for number, row in enumerate(found):
            writer.writerow([*row, "test" if number in tested else "train"])


def fastai(file: Path, split: int) -> dict[str, Any]:
    """fastai's recipe on a manifest; which test photos are right, by path.

    Source: https://docs.fast.ai/tutorial.vision.html, with the backbone exchanged.
    """
    import pandas as pd
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        ColSplitter,
        DataBlock,
        ImageBlock,
        Learner,
        Normalize,
        RandomResizedCrop,
        accuracy,
        aug_transforms,
        create_head,
        params,
        set_seed,
    )  # fmt: skip
    from torch import nn

    from svertka.models import build, weights

    set_seed(split, reproducible=True)
    facts = weights.find(MODEL, "imagenet")
    table = pd.read_csv(file)
    table["is_test"] = table["split"] == "test"
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_x=ColReader("path"), get_y=ColReader("label"),
        splitter=ColSplitter("is_test"), item_tfms=RandomResizedCrop(facts.size, min_scale=0.5),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(facts.mean, facts.std)],
    )  # fmt: skip
    loaders = block.dataloaders(table, bs=64, num_workers=os.cpu_count() or 1)
    network = build(MODEL, classes=loaders.c, weights="imagenet")
    body = nn.Sequential(network.stem, *network.stages)
    model = nn.Sequential(body, create_head(1280, loaders.c))
    learner = Learner(
        loaders, model, splitter=lambda parts: [params(parts[0]), params(parts[1])], metrics=accuracy
    )
    with learner.no_bar():
        learner.fine_tune(2)
        said, labels = learner.get_preds(ds_idx=1)
    right = (said.argmax(1) == labels).tolist()
    return dict(zip(table["path"][table["is_test"]], right, strict=True))


def svertka(file: Path, who: str, split: int, minutes: float, folder: Path) -> tuple[float, dict[str, bool]]:
    """Seconds of the process and which test photos are right, by path."""
    options = ["--minutes", str(minutes), "--seed", str(split), "--out", str(folder / who), "--json"]
    options += ["--set", "transfer.rung=probe"] if who == "probe" else []
    seconds = process([sys.executable, "-m", "svertka", "train", str(file), *options])[0]
    import svertka as library

    with open(file, encoding="utf-8", newline="") as given:
        tested = {row["path"]: row["label"] for row in csv.DictReader(given) if row["split"] == "test"}
    said = library.predict(folder / who, list(tested))["predictions"]
    named = {one["path"]: one["classes"][0]["name"] for one in said if one["classes"]}
    return seconds, {path: name == tested[path] for path, name in named.items()}


def process(command: list[str]) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def report(kept: list[dict[str, Any]]) -> list[list[object]]:
    """A row for each that ran: seconds, accuracy, and by how much the ladder is better on the same photos."""
    rows = []
    ladder = {row["split"]: row["right"] for row in kept if row["who"] == "ladder"}
    for who, title in WHO.items():
        mine = {row["split"]: row["right"] for row in kept if row["who"] == who}
        if not mine:
            continue
        seconds = [row["seconds"] for row in kept if row["who"] == who]
        accuracy = np.mean([right for one in mine.values() for right in one.values()])
        better = [
            float(ladder[split][path]) - float(right)
            for split, one in mine.items() if split in ladder
            for path, right in one.items() if path in ladder[split]
        ]  # fmt: skip
        half = 1.96 * np.std(better) / max(len(better), 1) ** 0.5
        gain = f"{100 * np.mean(better):+.1f} (± {100 * half:.1f})" if better and who != "ladder" else "–"
        cell = f"{min(seconds):.0f} / {statistics.median(seconds):.0f}"
        rows.append([title, len(mine), cell, f"{100 * accuracy:.1f} %", gain])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=PARTS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--keep", type=Path, help="where measurements are kept, a line each")
    parser.add_argument("--fastai-python", default=sys.executable)
    parser.add_argument("--as-peer", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_peer is not None:
        print(json.dumps(fastai(given.data, given.as_peer)))
        return
    there = given.keep is not None and given.keep.exists()
    kept = [json.loads(line) for line in given.keep.read_text().splitlines()] if there else []
    found = photos(given.data)
    for split in range(given.splits):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["SVERTKA_CACHE"] = str(folder / "cache")
            file = folder / "clothing.csv"
            write_list(found, split, file)
            for who in given.only:
                if any(row["split"] == split and row["who"] == who for row in kept):
                    continue
                if who == "fastai":
                    command = [given.fastai_python, __file__, str(file), "--as-peer", str(split)]
                    seconds, said = process(command)
                    right = json.loads(said.splitlines()[-1])
                else:
                    seconds, right = svertka(file, who, split, given.minutes, folder)
                kept.append({"who": who, "split": split, "seconds": seconds, "right": right})
                print(who, split, round(seconds, 1), np.mean(list(right.values())), flush=True)
                if given.keep:
                    with open(given.keep, "a", encoding="utf-8") as out:
                        out.write(json.dumps(kept[-1]) + "\n")
    columns = ["whole process", "splits", "seconds, minimum / median", "test accuracy"]
    columns += ["the ladder is better by, points"]
    results.write(
        "Clothing",
        results.table(columns, report(kept)),
        f"{len(found)} photos, {PARTS} disjoint test parts; points with their 95 % interval, paired over the "
        "test photos of all splits. Reach: the ladder better than the probe, and than fastai by 5 points.",
    )


if __name__ == "__main__":
    main()
