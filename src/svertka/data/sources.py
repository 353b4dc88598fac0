"""Where data comes from: a folder, a manifest, or a built-in name becomes a Dataset.

    given                                    read by
    a folder of class folders                `folders`, with or without train/val/validation/valid/test inside
    a .csv, .tsv, .parquet or .pq file       `manifests`: path,label[,split,group]
    a name of `BUILT_IN`                     here: looked for on this machine, else downloaded by torchvision
    paths or arrays in Python                `items`: `from_paths`, `from_arrays`

Built-in sets are looked for, in torchvision's own layout, below `$SVERTKA_DATA`, `./data` and the cache
folder, and where Debian puts them. The only download of data is in this file.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from svertka import files, progress
from svertka.data.archives import read_batch, read_idx
from svertka.data.dataset import UNDECLARED, Dataset
from svertka.data.folders import read_folder
from svertka.data.items import from_arrays, from_paths
from svertka.data.manifests import SUFFIXES as MANIFESTS
from svertka.data.manifests import read_manifest
from svertka.errors import DataError, DownloadError, nearest
from svertka.images.decode import SUFFIXES as IMAGES

__all__ = ["BUILT_IN", "from_arrays", "from_paths", "open_dataset"]

_DIGITS = tuple("0123456789")
_IDX_FILES = tuple(
    (f"{part}-{kind}-ubyte", "") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
ACCEPTED = (
    "a folder of class folders (with or without train/val/test inside), a CSV or Parquet manifest "
    "(path,label[,split,group]), or a built-in set"
)


@dataclass(frozen=True)
class BuiltIn:
    """A row of the table of built-in sets.

    Attributes:
        summary: what it is.
        kind: how its files are written: IDX, CIFAR's batches, or scikit-learn's own.
        classes: class names in the order of the published labels; empty: they stand in the file `meta`.
        torchvision: the name of torchvision's class, which downloads it.
        folder: where torchvision puts the files, below its root.
        files: names of all files (IDX: perhaps with `.gz`), with the published MD5 where that is needed.
        system: another folder that may hold the files.
    """

    summary: str
    kind: Literal["sklearn", "idx", "cifar"]
    classes: tuple[str, ...] = ()
    torchvision: str = ""
    folder: str = ""
    files: tuple[tuple[str, str], ...] = ()
    system: str = ""


BUILT_IN: dict[str, BuiltIn] = {
    "digits": BuiltIn("1,797 grey digits, 8 × 8 px, always there (scikit-learn)", "sklearn", _DIGITS),
    "mnist": BuiltIn(
        "70,000 grey digits, 28 × 28 px (LeCun et al., 1998)",
        "idx",
        _DIGITS,
        torchvision="MNIST",
        folder="MNIST/raw",
        files=_IDX_FILES,
    ),
    "fashion-mnist": BuiltIn(
        "70,000 grey pieces of clothing, 28 × 28 px (Xiao et al., 2017)",
        "idx",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        torchvision="FashionMNIST",
        folder="FashionMNIST/raw",
        files=_IDX_FILES,
        system="/usr/share/datasets/fashion-mnist",
    ),
    "cifar10": BuiltIn(
        "60,000 colour photos in 10 classes, 32 × 32 px (Krizhevsky, 2009)",
        "cifar",
        torchvision="CIFAR10",
        folder="cifar-10-batches-py",
        files=(
            ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            ("data_batch_4", "634d18415352ddfa80567beed471001a"),
            ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ("test_batch", "40351d587109b95175f43aff81a1287e"),
            ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        ),
    ),
    "cifar100": BuiltIn(
        "60,000 colour photos in 100 classes, 32 × 32 px (Krizhevsky, 2009)",
        "cifar",
        torchvision="CIFAR100",
        folder="cifar-100-python",
        files=(
            ("train", "16019d7e3df5f24257cddd939b257f8d"),
            ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            ("meta", "7973b15100ade9c7d40fb424638fde48"),
        ),
    ),
}


def open_dataset(data: str | Path, *, training: bool = True) -> Dataset:
    """Read labelled images from a folder, a manifest or a built-in set.

    Args:
        data: see the table above. A built-in name wins over a folder of that name; `./digits` or a `Path`
            means the folder.
        training: the data is to be trained on: two classes at least, each with training images. Without,
            any labelled images will do.

    Raises:
        DataError: nothing there, or nothing that can be used; all problems in one message.
        DownloadError: a built-in set is neither on this machine nor can it be fetched.
    """
    name = os.fspath(data)
    path = Path(data).expanduser()
    if name in BUILT_IN and (isinstance(data, str) or not path.exists()):
        dataset = _open_built_in(name)
        note = f"{name} is the built-in set; the {name} that lies here is ./{name}"
        return replace(dataset, notes=(*dataset.notes, note)) if path.exists() else dataset
    if name.startswith("hf:"):
        raise DataError(f"{name}: sets of the Hugging Face hub cannot be read yet; give {_accepted()}.")
    if isinstance(data, str) and not data.strip():
        raise DataError(f"expected the name of some data, got an empty text; give {_accepted()}.")
    if path.is_dir():
        return read_folder(path, name, training=training)
    if path.suffix.lower() == ".tar" or name.endswith((".tar.gz", ".tgz", ".zip")):
        raise DataError(f"{name}: shards and archives cannot be read; unpack it and give {_accepted()}.")
    if not path.exists():
        raise DataError(_nothing_there(name, path))
    if path.suffix.lower() in MANIFESTS:
        return read_manifest(path, name, training=training)
    if path.suffix.lower() in IMAGES:
        raise DataError(f"{name} is one image; give {_accepted()}.")
    raise DataError(f"{name} is a file that is no manifest; give {_accepted()}.")


def _accepted() -> str:
    return f"{ACCEPTED} ({', '.join(BUILT_IN)})"


def _nothing_there(name: str, path: Path) -> str:
    """What to say when there is no such path: the missing part of it, and the nearest name that exists."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    try:
        beside = sorted(each.name for each in missing.parent.iterdir() if not each.name.startswith("."))
    except OSError:
        beside = []
    known = {each: str(missing.parent / each) for each in beside}
    if path == missing and os.sep not in name:
        known |= {each: each for each in BUILT_IN}
        known |= {each.replace("-", ""): each for each in BUILT_IN}
    lower = {each.lower(): shown for each, shown in known.items()}
    guess = nearest(missing.name.lower(), lower)
    hint = ""
    if guess.startswith("did you mean"):
        hint = f" Did you mean {lower[guess.removeprefix('did you mean ')[1:-2]]!r}?"
    place = f" ({missing} is not there)" if missing != path else ""
    return f"there is no {name!r}{place}: expected {_accepted()}.{hint}"


def _open_built_in(name: str) -> Dataset:
    if BUILT_IN[name].kind == "sklearn":
        return _digits(name)
    images, labels, num_train, classes = _read(BUILT_IN[name], _locate(name))
    declared = np.where(np.arange(len(labels)) < num_train, 0, 2).astype(np.int8)  # train, then test
    return from_arrays(images, labels, classes=classes, declared=declared, name=name)


def _digits(name: str) -> Dataset:
    from sklearn.datasets import load_digits

    table = load_digits()
    pixels = np.rint(table.images * (255 / 16)).astype(np.uint8)  # grey levels are 0 to 16
    declared = np.full(len(pixels), UNDECLARED, np.int8)
    return from_arrays(pixels, table.target, classes=BUILT_IN[name].classes, declared=declared, name=name)


Table = tuple[NDArray[np.uint8], NDArray[np.int64], int, tuple[str, ...]]


def _read(row: BuiltIn, folder: Path) -> Table:
    """Images and labels of a published set, training part first; the size of that part; class names."""
    if row.kind == "idx":
        paths = [folder / name for name, _ in row.files]
        train, train_labels, test, test_labels = (
            read_idx(path, 3 if "images" in path.name else 1) for path in paths
        )
        classes = row.classes
    else:
        batches = {name: read_batch(folder / name, md5) for name, md5 in row.files}
        meta = batches.pop(next(name for name in batches if name.endswith("meta")))
        classes = tuple(meta["fine_label_names" if "fine_label_names" in meta else "label_names"])
        key = "fine_labels" if "fine_label_names" in meta else "labels"
        rows = [np.asarray(batch["data"], np.uint8) for batch in batches.values()]
        columns = [np.asarray(batch[key]) for batch in batches.values()]
        train, test = (_photos(part) for part in (np.concatenate(rows[:-1]), rows[-1]))
        train_labels, test_labels = np.concatenate(columns[:-1]), columns[-1]
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    if len(train) != len(train_labels) or len(test) != len(test_labels) or labels.max() >= len(classes):
        raise DataError(
            f"the files in {folder} do not fit together; delete them, so that they are fetched anew."
        )
    return np.concatenate([train, test]), labels, len(train), classes


def _photos(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """CIFAR's rows (n, 3072), one colour plane after the other, as (n, 32, 32, 3)."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _lacking(folder: Path, row: BuiltIn) -> list[str]:
    """The files of a set that are not in `folder` (an IDX file may also be there gzipped)."""
    ends = ("", ".gz") if row.kind == "idx" else ("",)
    return [name for name, _ in row.files if not any((folder / (name + end)).is_file() for end in ends)]


def _locate(name: str) -> Path:
    """The folder that holds all files of a built-in set; fetches them if there is none."""
    row = BUILT_IN[name]
    cache = files.cache_folder() / "data"
    roots = [Path(os.environ["SVERTKA_DATA"])] if os.environ.get("SVERTKA_DATA") else []
    places = [root / row.folder for root in (*roots, Path("data"), cache)]
    if row.system:
        places.append(Path(row.system))
    looked = []
    for place in places:
        lacking = _lacking(place, row)
        if not lacking:
            return place
        looked.append(f"{place} (lacks {', '.join(lacking)})" if place.is_dir() else str(place))
    progress.say(f"{name} is not on this machine; downloading it to {cache}")
    try:
        _download(row, cache)
    except Exception as error:  # whatever the network makes torchvision raise
        reason = " ".join(str(error).split())
        raise DownloadError(
            f"{name} is not on this machine and could not be downloaded ({reason}). Looked in: "
            f"{'; '.join(looked)}. Connect and start again, or put torchvision's files below a folder and "
            "name it in $SVERTKA_DATA; `digits` needs no download."
        ) from error
    return cache / row.folder


def _download(row: BuiltIn, cache: Path) -> None:
    """Fetch a set beside its place, checked by torchvision, then move it there whole."""
    from filelock import FileLock
    from torchvision import datasets

    cache.mkdir(parents=True, exist_ok=True)
    target = cache / Path(row.folder).parts[0]
    with FileLock(cache / f".{row.torchvision}.lock"), tempfile.TemporaryDirectory(dir=cache) as part:
        if not _lacking(cache / row.folder, row):
            return  # another process was faster
        with (
            progress.track(f"Downloading {row.torchvision}", unit="files"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            getattr(datasets, row.torchvision)(part, download=True)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(Path(part) / target.name, target)
