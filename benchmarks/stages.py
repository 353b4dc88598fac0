"""An epoch of the last stage from stored features, against an epoch of full fine-tuning from pixels.

    python benchmarks/stages.py DATA [NETWORK …] [--rounds 3]

Both by Svertka's own trainer, with its optimizer, batch size and augmentation: what is compared is where an
epoch begins. The features are those of one random view of each training image, in the store; the seconds
that filled it are stated. Networks start from random weights, which take the same time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import results
from svertka.api.train import prepared, requested
from svertka.data.batches import Batches, Stream
from svertka.engine import fastest
from svertka.models.freezing import cut
from svertka.models.network import Network
from svertka.runs.environment import prepare_cpu
from svertka.runs.run import Run
from svertka.training.session import Session
from svertka.training.trainer import Job, train
from svertka.transfer.features import FeatureBatches, Source, View, open_view

NETWORKS = ("resnet18", "resnet50")


def epoch(network: Network, made: Session, train_on: Stream, measure_on: Stream) -> float:
    """Seconds of one epoch of training, without the validation after it."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(made.recipe, made.seed, len(train_on), train_on, measure_on)
        (row,) = train(network, job, Run.create(Path(folder) / "run"))
    return len(train_on.indices) / float(row["images_per_second"])


def stored(made: Session, depth: int) -> tuple[list[View], float, str]:
    """The evaluation view of a few images, a random one of the training part, its seconds, and the engine."""
    trunk, _ = cut(made.network, depth)
    shape = (made.preprocess.channels, made.preprocess.size, made.preprocess.size)
    chosen = fastest(trunk, shape, batch_size=32, remember=False)
    source = Source(made.dataset, made.pixels, made.preprocess, trunk, chosen, made.recipe.augment, made.seed)
    few = made.splits.validation[:4]
    still = open_view(source, few, 0)
    began = time.perf_counter()
    random = open_view(source, made.splits.train, 1)
    return [still, random], time.perf_counter() - began, chosen.name


def measure(data: Path, name: str, rounds: int) -> list[str]:
    """The row of a network."""
    settings = ["data.size=224", "data.store_size=256", "data.interpolation=bilinear"]
    made = prepared(str(data), requested(model=name, weights="none", settings=settings), 0, "cpu")
    depth, labels, size = len(made.network.stages), made.dataset.labels, made.recipe.optimizer.batch_size
    (still, random), filled, engine = stored(made, depth)
    few = made.splits.validation[:4]
    cached, pixels = [], []
    for _ in range(rounds):
        _, tail = cut(made.network, depth)
        features = FeatureBatches([random], labels, made.splits.train, batch_size=size, shuffle=True)
        cached.append(epoch(tail, made, features, FeatureBatches([still], labels, few, batch_size=4)))
        cut(made.network, 0)
        last = Batches(made.pixels, labels, few, made.preprocess, batch_size=4)
        pixels.append(epoch(made.network, made, made.train, last))
        print(name, cached[-1], pixels[-1], flush=True)
    best, middle = min(pixels) / min(cached), statistics.median(pixels) / statistics.median(cached)
    return [
        f"{name}, {len(made.splits.train)} images, batches of {size}",
        *(f"{min(taken):.2f} / {statistics.median(taken):.2f}" for taken in (cached, pixels)),
        f"{best:.1f}× / {middle:.1f}×",
        f"{filled:.1f} ({engine})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    prepare_cpu()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SVERTKA_CACHE"] = cache
        rows = [measure(given.data, name, given.rounds) for name in given.networks]
    columns = [
        "network",
        "last stage from stored features",
        "all of it from pixels",
        "ratio",
        "a view stored",
    ]
    results.write(
        "Stages",
        results.table(columns, rows),
        "Seconds an epoch, minimum / median over the rounds, and seconds to store one random view of the "
        "training images. Reach: ≥ 4×. Input 224 px, weights random.",
    )


if __name__ == "__main__":
    main()
