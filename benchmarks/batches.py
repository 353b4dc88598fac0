"""Loading: our pixel store and batches against torchvision with a DataLoader, from the same files.

Each line is one way to get training batches; the contestants take turns for several rounds. A round of a
DataLoader is a whole epoch; its workers are kept from epoch to epoch, except in the first-epoch lines, where
starting them belongs to what the user waits for. Ours pays there for finding the files, digests, decoding,
writing the store and the first pass over it. Nothing but loading runs meanwhile.

    python benchmarks/batches.py [--rounds 5] [--photos FOLDER_OF_CLASS_FOLDERS] [--only arrays|photos|large]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command svertka does; before torch is imported

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import results
from svertka.data.batches import Batches
from svertka.data.dataset import Dataset
from svertka.data.items import from_arrays
from svertka.data.sources import open_dataset
from svertka.data.store import clear_cache, describe_cache, open_pixels
from svertka.images.preprocess import Preprocess
from svertka.recipe import Augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS = {"mean": MEAN, "std": STD}
Epoch = Callable[[], int]
"""Runs through one epoch and returns how many images came."""


class Arrays(TorchDataset[tuple[torch.Tensor, int]]):
    """Images in memory as torchvision's CIFAR10 gives them: Pillow images through a transform."""

    def __init__(self, images: np.ndarray, transform: v2.Compose) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def peer_transform(*crop: v2.Transform) -> v2.Compose:
    finish = (
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    )
    return v2.Compose([*crop, *finish])


def peer(data: TorchDataset[tuple[torch.Tensor, int]], batch_size: int, workers: int) -> Epoch:
    loader = DataLoader(
        data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=False
    )
    return lambda: sum(len(labels) for _, labels in loader)


def ours(dataset: Dataset, preprocess: Preprocess, augment: Augment, batch_size: int) -> Epoch:
    pixels = open_pixels(dataset, preprocess)
    every = np.arange(len(dataset))
    batches = Batches(
        pixels, dataset.labels, every, preprocess, batch_size=batch_size, augment=augment, shuffle=True
    )
    epochs = iter(range(1_000_000))
    return lambda: sum(len(batch) for batch in batches.epoch(next(epochs)))


def ours_from_nothing(folder: Path, preprocess: Preprocess, augment: Augment, batch_size: int) -> int:
    clear_cache()
    assert describe_cache()["bytes"] == 0
    return ours(open_dataset(folder), preprocess, augment, batch_size)()


def seconds_an_image(contestants: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """All contestants in turn, `rounds` times, after one turn that does not count."""
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, epoch in contestants.items():
            began = time.perf_counter()
            count = epoch()
            if number:
                measured[name].append((time.perf_counter() - began) / count)
        print(
            f"  round {number}: " + ", ".join(f"{k} {v[-1] * 1e6:.0f} µs" for k, v in measured.items() if v)
        )
    return measured


def line(title: str, measured: dict[str, list[float]], reach: str) -> list[str]:
    """A row of the table: ours, every peer, and the ratio to the best peer by the minimum and the median."""
    peers = {name: times for name, times in measured.items() if name != "ours"}
    ratios = [
        min(map(choose, peers.values())) / choose(measured["ours"]) for choose in (min, statistics.median)
    ]
    shown = [f"{min(times) * 1e6:.0f} / {statistics.median(times) * 1e6:.0f}" for times in peers.values()]
    own = f"{min(measured['ours']) * 1e6:.0f} / {statistics.median(measured['ours']) * 1e6:.0f}"
    names = ", ".join(f"{name}: {value}" for name, value in zip(peers, shown, strict=True))
    return [title, own, names, f"{ratios[0]:.1f}× / {ratios[1]:.1f}×", reach]


def arrays(rounds: int, count: int = 6_400, batch_size: int = 128) -> list[list[str]]:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    preprocess = Preprocess(size=32, store_size=32, normalization="channel_mean_std", statistics=STATISTICS)
    data = Arrays(images, peer_transform(v2.RandomCrop(32, padding=4)))
    contestants = {f"{workers} workers": peer(data, batch_size, workers) for workers in (0, 1, 2)}
    dataset = from_arrays(images, np.arange(count) % 10)
    contestants["ours"] = ours(dataset, preprocess, Augment(pad_crop=4, flip=True), batch_size)
    measured = seconds_an_image(contestants, rounds)
    return [line(f"32 px arrays, pad-crop + flip + normalize, batches of {batch_size}", measured, "≥ 10×")]


def files(
    folder: Path, name: str, rounds: int, reach: tuple[str, ...], batch_size: int = 64
) -> list[list[str]]:
    """Three lines of one folder of JPEGs: first epoch, later epochs with crops, later with resized crops."""
    preprocess = Preprocess(normalization="channel_mean_std", statistics=STATISTICS)
    crop, resized = Augment(pad_crop=1, flip=True), Augment(resized_crop=0.08, flip=True)
    resize_crop = peer_transform(v2.RandomResizedCrop(224, antialias=True))
    rows = []
    first = {
        "2 workers": lambda: peer(ImageFolder(str(folder), resize_crop), batch_size, 2)(),
        "ours": lambda: ours_from_nothing(folder, preprocess, resized, batch_size),
    }
    rows.append(line(f"{name}, first epoch, resized crop", seconds_an_image(first, rounds), reach[0]))
    dataset = open_dataset(folder)
    transforms = {
        "crop + flip": (crop, peer_transform(v2.Resize(256, antialias=True), v2.RandomCrop(224)), reach[1]),
        "resized crop + flip": (resized, resize_crop, reach[2]),
    }
    for title, (augment, transform, least) in transforms.items():
        data = ImageFolder(str(folder), transform)
        contestants = {f"{workers} workers": peer(data, batch_size, workers) for workers in (0, 1, 2)}
        contestants["ours"] = ours(dataset, preprocess, augment, batch_size)
        rows.append(line(f"{name}, later epochs, {title}", seconds_an_image(contestants, rounds), least))
    return rows


def make_photos(folder: Path, count: int, width: int, height: int) -> Path:
    """JPEGs with the spectrum of photos: noise of all sizes, the large ones strongest."""
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = np.zeros((height, width, 3), np.float32)
        for octave in range(2, 12):
            shape = (max(2, (height << octave) // 2048), max(2, (width << octave) // 2048), 3)
            noise = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            large = noise.resize((width, height), Image.Resampling.BICUBIC)
            picture += (np.asarray(large, np.float32) - 128) * 0.7**octave
        place = folder / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        picture = (picture * (60 / picture.std()) + 128).clip(0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(place / f"{number}.jpg", quality=90)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=Path, help="class folders of JPEGs, instead of made ones of 500 px")
    parser.add_argument("--only", choices=["arrays", "photos", "large"], help="one part, nothing is written")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="svertka-benchmark-"))
    os.environ["SVERTKA_CACHE"] = str(scratch / "cache")
    rows = []
    try:
        if options.only in (None, "arrays"):
            rows += arrays(options.rounds)
        if options.only in (None, "photos"):
            photos = options.photos or make_photos(scratch / "photos", 384, 500, 375)
            name = "photos of the given folder" if options.photos else "500 × 375 px JPEGs"
            rows += files(photos, name, options.rounds, ("≥ 1.0×, aim 1.3×", "≥ 15×", "≥ 8×"))
        if options.only in (None, "large"):
            large = make_photos(scratch / "large", 48, 4000, 3000)
            rows += files(large, "12 MP JPEGs", min(options.rounds, 3), ("≥ 1.7×", "–", "–"))
    finally:
        shutil.rmtree(scratch)
    columns = ["", "ours", "torchvision + DataLoader", "ratio to the best", "reach"]
    body = results.table(columns, rows)
    print(body)
    if options.only is None:
        notes = (
            "Microseconds an image, minimum / median over the rounds. The peer's resized crops see the whole "
            "photo, ours the stored one (short side 256 px): that is what the store buys."
        )
        results.write("Batches", body, notes)


if __name__ == "__main__":
    main()
