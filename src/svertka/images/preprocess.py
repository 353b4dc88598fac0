"""Preprocess: how a decoded image of any size becomes the input of a network; it travels with the weights.

Three steps, the same in training, evaluation, export and service:

    shrink      grey or RGB; short side to `store_size`, aspect kept      -> uint8 (h, w, c), what is stored
    fit_image   crop | letterbox | squash to a square                     -> uint8 (size, size, c)
    normalize   x/255, centred and scaled by the statistics of training   -> float32 (c, size, size)

Resampling is antialiased (`resize.py`). `shrink` and the centre crop take the sizes and offsets that
torchvision's Resize and CenterCrop take. The third step is `x * scale - shift` in float32, two correctly
rounded operations for each number, so that NumPy and torch, one image and a batch give the same bits.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from svertka.errors import DataError, OptionError, nearest
from svertka.images.decode import open_rgb
from svertka.images.resize import INTERPOLATIONS, Interpolation, resize
from svertka.images.whitening import Kind, Moments

Fit = Literal["crop", "letterbox", "squash"]
Normalization = Literal["none", "mean_image", "channel_mean", "channel_mean_std", "pca", "zca"]

FITS: tuple[Fit, ...] = ("crop", "letterbox", "squash")
NORMALIZATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "mean_image": ("mean",),  # AlexNet: the mean of every input pixel
    "channel_mean": ("mean",),  # VGG
    "channel_mean_std": ("mean", "std"),  # ResNet
    "pca": ("mean", "matrix"),
    "zca": ("mean", "matrix"),
}
"""Each normalization and the statistics it needs; all are of pixels as fractions, 0 to 1."""

WHITENED = ("pca", "zca")
MAX_ASPECT = 8
"""Of an image longer than 8 x its width the middle is kept: its short side decides how large it is stored."""

PADDING = 128
"""The grey level beside a letterboxed image."""

_PIXELS_AT_ONCE = 1 << 20
_MOST_NUMBERS_IN_PLAIN = 64  # larger statistics are written in base64


@dataclass(frozen=True, eq=False)
class Preprocess:
    """From uint8 images to network inputs.

    Attributes:
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        fit: crop: the centre; letterbox: all of it, padded with grey; squash: all of it, stretched.
        size: height and width of the input in pixels.
        store_size: short side in pixels that images are first brought to, smaller ones too; at least `size`.
        interpolation: bilinear or bicubic, antialiased.
        normalization: none, mean_image, channel_mean, channel_mean_std, pca or zca (`whitening.py`).
        statistics: what the normalization needs, by name: `mean` (c,) or (c, size, size), `std` (c,),
            `matrix` (numbers, numbers) with numbers = c · size²; empty until `fitted`.

    Raises:
        OptionError: values that are unknown, out of range or do not fit together; all in one message.
    """

    channels: int = 3
    fit: Fit = "crop"
    size: int = 224
    store_size: int = 256
    interpolation: Interpolation = "bilinear"
    normalization: Normalization = "none"
    statistics: Mapping[str, ArrayLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise OptionError("this preprocessing cannot be: " + "; ".join(problems))
        arrays = {name: np.array(value, dtype=np.float32) for name, value in self.statistics.items()}
        for name, array in arrays.items():
            self._check_statistic(name, array)
            array.flags.writeable = False
        object.__setattr__(self, "statistics", arrays)

    def shrink(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The first step: an image (h, w), (h, w, 1) or (h, w, 3) as it is stored, (h, w, c).

        Raises:
            DataError: not uint8, or of another shape.
        """
        return self._shrink(_as_pillow(image))

    def load(self, source: str | Path | bytes, *, name: str | None = None) -> NDArray[np.uint8]:
        """A file or its bytes as it is stored (h, w, c); large JPEGs are decoded no larger than needed.

        Raises:
            ImageError: the image cannot be decoded.
        """
        return self._shrink(open_rgb(source, at_least=self.store_size, name=name))

    def fit_image(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The second step: a stored image (h, w, c) as the evaluation view (size, size, c)."""
        height, width = stored.shape[:2]
        if self.fit == "crop":
            top, left = centre(height, self.size), centre(width, self.size)
            return stored[top : top + self.size, left : left + self.size]
        if height == width == self.size:
            return stored
        if self.fit == "squash":
            return resize(stored, self.size, self.size, self.interpolation)
        longer = max(height, width)
        inner = [max(1, round(self.size * side / longer)) for side in (height, width)]
        top, left = ((self.size - side) // 2 for side in inner)
        view = np.full((self.size, self.size, self.channels), PADDING, dtype=np.uint8)
        view[top : top + inner[0], left : left + inner[1]] = resize(
            stored, inner[0], inner[1], self.interpolation
        )
        return view

    def normalize(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The third step: uint8 views (…, c, size, size) as float32 inputs of the same shape."""
        scale, shift = self.affine()
        result = views * scale
        result -= shift
        return self.whiten(result)

    def whiten(self, centred: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last part of the third step, for pca and zca: centred inputs times the matrix; else nothing."""
        if self.normalization not in WHITENED:
            return centred
        matrix = np.asarray(self.statistics["matrix"], dtype=np.float32)
        return (centred.reshape(-1, len(matrix)) @ matrix.T).reshape(centred.shape)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """All three steps: an image (h, w) or (h, w, 3) as a network input (c, size, size)."""
        view = self.fit_image(self.shrink(image))
        return self.normalize(np.ascontiguousarray(view.transpose(2, 0, 1)))  # (c, h, w)

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`scale` and `shift` of the third step, `x * scale - shift`; they broadcast against (c, size, size).

        Raises:
            OptionError: the statistics have not been fitted.
        """
        for name in NORMALIZATIONS[self.normalization]:
            if name not in self.statistics:
                raise OptionError(
                    f"the normalization {self.normalization} needs the {name} of the training images; "
                    "use the Preprocess that `fitted(images)` returns."
                )
        mean, std = (self._statistic(name, default) for name, default in (("mean", 0.0), ("std", 1.0)))
        return (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)

    def fitted(self, stored: Iterable[NDArray[np.uint8]], epsilon: float = 0.01) -> Preprocess:
        """A copy with its statistics taken from the evaluation views of stored training images.

        The standard deviation is that of the population; where it is 0 (a constant channel) 1 is taken.
        `epsilon` is added to the variances of whitening.

        Raises:
            DataError: there are no images.
            OptionError: whitening of inputs that are too large for it.
        """
        if self.normalization == "none":
            return self
        if self.normalization in WHITENED:
            moments = Moments(self.channels, self.size)
            for views in self._chunks(stored):
                moments.add(views)
            mean, matrix = moments.whitening(cast(Kind, self.normalization), epsilon)
            shaped = mean.reshape(self.channels, self.size, self.size)
            return replace(self, statistics={"mean": shaped, "matrix": matrix})
        counts = _Counts(self.channels, self.size)
        for views in self._chunks(stored):
            counts.add(views, self.normalization)
        return replace(self, statistics=counts.statistics(self.normalization))

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back to an equal Preprocess."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"statistics": {name: _to_json(array) for name, array in self._arrays().items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Read what `to_dict` wrote.

        Raises:
            OptionError: a key is missing or unknown, or a value cannot be.
        """
        known = [item.name for item in fields(cls)]
        problems = [f"{name} is unknown; {nearest(name, known)}" for name in values if name not in known]
        problems += [f"{name} is missing" for name in known if name not in values]
        if problems:
            raise OptionError("this is no preprocessing: " + "; ".join(problems))
        try:
            statistics = {name: _from_json(value) for name, value in values["statistics"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise OptionError(f"this is no preprocessing: the statistics are damaged ({error})") from error
        return cls(**{**values, "statistics": statistics})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocess) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.channels, self.fit, self.size, self.store_size, self.normalization))

    def _problems(self) -> Iterator[str]:
        if self.channels not in (1, 3):
            yield f"channels must be 1 or 3, got {self.channels!r}"
        for name, known in (
            ("fit", FITS),
            ("interpolation", INTERPOLATIONS),
            ("normalization", NORMALIZATIONS),
        ):
            if getattr(self, name) not in known:
                yield f"unknown {name} {getattr(self, name)!r}; {nearest(str(getattr(self, name)), known)}"
        for name in ("size", "store_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                yield f"{name} must be a whole number of pixels above 0, got {value!r}"
                return
        if self.store_size < self.size:
            yield f"store_size must be at least size, got {self.store_size} below {self.size}"

    def _check_statistic(self, name: str, array: NDArray[np.float32]) -> None:
        known = NORMALIZATIONS[self.normalization]
        if name not in known:
            raise OptionError(
                f"the normalization {self.normalization} has no {name!r}; {nearest(name, known)}"
            )
        image = self.normalization in ("mean_image", *WHITENED)
        shape: tuple[int, ...] = (self.channels, self.size, self.size) if image else (self.channels,)
        if name == "matrix":
            shape = (self.channels * self.size**2,) * 2
        if array.shape != shape:
            raise OptionError(
                f"the {name} of {self.normalization} must have shape {shape}, got {array.shape}."
            )
        if not np.isfinite(array).all() or (name == "std" and array.min() <= 0):
            raise OptionError(
                f"the {name} of {self.normalization} must be finite and a std above 0, got {array}."
            )

    def _shrink(self, image: Image.Image) -> NDArray[np.uint8]:
        mode = "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        width, height = image.size
        longest = MAX_ASPECT * min(width, height)
        if max(width, height) > longest:
            left, top = (centre(side, min(side, longest)) for side in image.size)
            width, height = min(width, longest), min(height, longest)
            image = image.crop((left, top, left + width, top + height))
        pixels = np.array(image).reshape(height, width, self.channels)
        short, long = min(width, height), max(width, height)
        if short == self.store_size:
            return pixels
        length = int(self.store_size * long / short)
        size = (length, self.store_size) if width <= height else (self.store_size, length)
        return resize(pixels, *size, self.interpolation)

    def _arrays(self) -> dict[str, NDArray[np.float32]]:
        return {name: np.asarray(value, dtype=np.float32) for name, value in self.statistics.items()}

    def _statistic(self, name: str, default: float) -> NDArray[np.float64]:
        """As float64 and with the shape (c, 1, 1) or (c, size, size)."""
        value = np.asarray(self.statistics.get(name, np.full(self.channels, default)), dtype=np.float64)
        return value if value.ndim == 3 else value[:, None, None]

    def _chunks(self, stored: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Evaluation views of many images at once, (n, size, size, c)."""
        views = []
        for image in stored:
            views.append(self.fit_image(image))
            if len(views) * self.size * self.size >= _PIXELS_AT_ONCE:
                yield np.stack(views)
                views = []
        if views:
            yield np.stack(views)


class _Counts:
    """What statistics are computed from, in whole numbers: neither order nor chunks change the result."""

    def __init__(self, channels: int, size: int) -> None:
        self.images = 0
        self.sums = np.zeros((size, size, channels), dtype=np.int64)
        self.levels = np.zeros((channels, 256), dtype=np.int64)  # how often each grey level occurs

    def add(self, views: NDArray[np.uint8], normalization: str) -> None:
        self.images += len(views)
        if normalization == "mean_image":
            self.sums += views.sum(axis=0, dtype=np.int64)
        else:
            for channel, levels in enumerate(self.levels):
                levels += np.bincount(views[..., channel].ravel(), minlength=256)

    def statistics(self, normalization: str) -> dict[str, NDArray[np.float64]]:
        if not self.images:
            raise DataError(
                "there are no training images to fit the normalization on; expected at least one."
            )
        if normalization == "mean_image":
            return {"mean": self.sums.transpose(2, 0, 1) / (255 * self.images)}
        level = np.arange(256) / 255
        share = self.levels / self.levels.sum(axis=1, keepdims=True)
        mean = share @ level
        std = np.sqrt((share * (level - mean[:, None]) ** 2).sum(axis=1))
        both = {"mean": mean, "std": np.where((share == 1).any(axis=1), 1.0, std)}
        return {name: both[name] for name in NORMALIZATIONS[normalization]}


def centre(length: int, part: int) -> int:
    """Where the middle `part` of `length` begins, rounded as torchvision's CenterCrop rounds."""
    return round((length - part) / 2.0)


def _as_pillow(image: NDArray[np.uint8]) -> Image.Image:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if (
        image.dtype != np.uint8
        or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
        or not image.size
    ):
        raise DataError(
            f"expected an image as uint8 (h, w) or (h, w, 3), got {image.dtype} {image.shape}; "
            "`svertka.decode(path)` reads a file as one."
        )
    return Image.fromarray(image)


def _to_json(array: NDArray[np.float32]) -> Any:
    if array.size <= _MOST_NUMBERS_IN_PLAIN:
        return array.tolist()
    content = base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")
    return {"shape": list(array.shape), "float32": content}


def _from_json(value: Any) -> NDArray[np.float32]:
    if not isinstance(value, dict):
        return np.array(value, dtype=np.float32)
    return np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4").reshape(value["shape"])
