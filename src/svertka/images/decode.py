"""One image: a file or its bytes in, uint8 RGB pixels out, or an error that names the image and the reason.

Pillow decodes; this file decides what is accepted and what the pixels mean. JPEG, PNG, WebP, GIF (first
frame), BMP and TIFF (first page) are opened and nothing else. The EXIF orientation is applied, transparency
is laid over white, 16- and 32-bit samples are scaled to 8 bits and not clipped. The size in the header is
checked before any pixel is decoded. Whatever a damaged or hostile file makes Pillow raise, the caller sees
`ImageError`, and no warning of Pillow's. No torch here: a bundle reads images with this file alone.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from svertka.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")

MAX_PIXELS = 150_000_000
"""Larger images are refused by their header (as RGB they would take more than 450 MB)."""

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused unread."""

_ORIENTATION = 0x0112  # EXIF 2.3, 4.6.4 A; the same number is a TIFF tag
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # TIFF 6.0
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    source: str | Path | bytes, *, at_least: int | None = None, name: str | None = None
) -> NDArray[np.uint8]:
    """Pixels (h, w, 3) uint8 RGB of an image file or of its bytes.

    Args:
        source: path, or the content of a file.
        at_least: the caller will shrink the image until its short side has so many pixels. A JPEG may then
            be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps 2 x `at_least` pixels.
        name: how errors call the image; default: the path.

    Raises:
        ImageError: missing, unreadable, empty, truncated, too large, or no image of the six formats.
    """
    return np.array(open_rgb(source, at_least=at_least, name=name))


def open_rgb(
    source: str | Path | bytes, *, at_least: int | None = None, name: str | None = None
) -> Image.Image:
    """As `decode`, but a Pillow image of mode RGB, for callers that go on with Pillow."""
    with _opened(source, name) as image:
        if at_least is not None:
            image.draft(None, (2 * at_least, 2 * at_least))
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def read_size(source: str | Path | bytes, *, name: str | None = None) -> tuple[int, int]:
    """Height and width in pixels of the upright image, from its header; the pixels are not decoded.

    Raises:
        ImageError: as `decode`, as far as the header tells.
    """
    with _opened(source, name) as image:
        upright = image.format == "TIFF" or _orientation(image) < 5  # Pillow turns a TIFF by itself
        return (image.height, image.width) if upright else (image.width, image.height)


def is_grey(image: NDArray[np.uint8]) -> bool:
    """Whether an (h, w, 3) image holds no colour: its three channels are equal everywhere."""
    first = image[..., 0]
    return bool(np.array_equal(first, image[..., 1]) and np.array_equal(first, image[..., 2]))


@contextmanager
def _opened(source: str | Path | bytes, name: str | None) -> Iterator[Image.Image]:
    """The image with its header read; whatever goes wrong with it inside becomes `ImageError`."""
    name = name or ("an image given as bytes" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else _read(Path(source), name)
    if not content:
        raise ImageError(f"{name} could not be decoded: it is empty (0 bytes).")
    try:
        with _pillow_is_quiet(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.width, image.height, name)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} could not be decoded: {_no_format(content)}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} could not be decoded: it is too large ({error}).") from None
    except MemoryError:
        raise ImageError(f"{name} could not be decoded: there is not enough memory for it.") from None
    except Exception as error:  # a hostile file may raise any type: struct.error, KeyError, SyntaxError, …
        reason = str(error).strip() or type(error).__name__
        raise ImageError(f"{name} could not be decoded: the file is damaged ({reason}).") from error


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{name} could not be decoded: it is a folder, not a file.")
        if not path.exists():
            raise ImageError(f"{name} could not be decoded: there is no such file.")
        if not path.is_file():
            raise ImageError(f"{name} could not be decoded: it is a device or a pipe, not a file.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageError(
                f"{name} could not be decoded: it has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read."
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{name} could not be read: {error}.") from error


def _no_format(content: bytes) -> str:
    known = ", ".join(FORMATS)
    start = content[:12]
    return f"it is damaged or none of {known}; it begins with {start!r}."


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} could not be decoded: its header says {width} x {height} pixels.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} could not be decoded: its header says {width} x {height} pixels; at most "
            f"{MAX_PIXELS:,} in all are decoded. Shrink it first if it is a real image."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data do not make the pixels unreadable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode that the six formats come in, as RGB; transparent parts over white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey samples of 16 or 32 bits, or floating point, scaled to 0..255 (h, w).

    Of 16 bits 65535 is white (of 12, in a TIFF: 4095). The others state no white; it is the smallest of 1
    (floating point only), 255 and 65535 that holds all samples, else the largest sample; black is 0, or the
    smallest sample if that is negative. NaN becomes black, infinities black or white.
    """
    samples = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    low = 0.0
    if image.mode == "F":
        finite = samples[np.isfinite(samples)].astype(np.float64)
        if finite.size:
            low, high = _range(finite, (1.0, 255.0, 65535.0))
        else:
            high = 1.0
    elif image.mode == "I" and image.format == "TIFF":
        if tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
            samples = samples.view(np.uint32)
        low, high = _range(samples, (255.0, 65535.0))
    else:
        high = float((1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1)
    scaled = (samples.astype(np.float64) - low) * (255 / (high - low))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    grey = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a PNG may name one grey as transparent
        grey[samples == transparent] = 255
    return grey


def _range(samples: NDArray[np.generic], whites: tuple[float, ...]) -> tuple[float, float]:
    """Black and white of samples that do not state them."""
    low, high = min(0.0, float(samples.min())), float(samples.max())
    if low == 0:
        high = next((white for white in whites if high <= white), high)
    return low, high if high > low else low + 1.0


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters = warnings.catch_warnings()


@contextmanager
def _pillow_is_quiet() -> Iterator[None]:
    """Ignore Pillow's warnings meanwhile.

    Warning filters belong to the whole process: of all threads that decode at once the first one in sets
    them and the last one out puts the old ones back.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|svertka\.images)\b")
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_filters.__exit__(None, None, None)
