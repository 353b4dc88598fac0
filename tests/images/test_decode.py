"""`decode` against pixels that were known before they were encoded."""

import io
import random
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from svertka.errors import ImageError
from svertka.images import decode as decode_module
from svertka.images.decode import MAX_PIXELS, decode, is_grey, read_size

Array = np.ndarray


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels() -> Array:
    """A smooth colour image (12, 20, 3) that JPEG keeps within a few levels."""
    y, x = np.mgrid[0:12, 0:20]
    return np.stack([x * 12, y * 20, 255 - x * 6 - y * 10], axis=2).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("as_file", [False, True])
def test_lossless_formats_give_the_exact_pixels(pixels: Array, format: str, as_file: bool, tmp_path: Path):
    content = encoded(Image.fromarray(pixels), format)
    if as_file:
        path = tmp_path / "image.bin"
        path.write_bytes(content)
        result = decode(path)
        np.testing.assert_array_equal(result, decode(str(path)))
    else:
        result = decode(content)
    assert result.dtype == np.uint8
    assert result.flags.writeable
    np.testing.assert_array_equal(result, pixels)


def test_lossless_webp_gives_the_exact_pixels(pixels: Array):
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), "WEBP", lossless=True)), pixels)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(pixels: Array, format: str):
    result = decode(encoded(Image.fromarray(pixels), format, quality=95))
    assert np.abs(result.astype(int) - pixels).mean() < 4


def test_of_an_animation_the_first_frame_is_taken():
    red, blue = (Image.new("RGB", (7, 5), colour) for colour in ("red", "blue"))
    for format in ("GIF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        content = encoded(red, format, save_all=True, append_images=[blue], duration=50, **options)
        np.testing.assert_array_equal(decode(content), np.asarray(red))


def test_grey_palette_and_bilevel_images(pixels: Array):
    grey = Image.fromarray(pixels).convert("L")
    for mode_image in (grey, grey.convert("1")):
        result = decode(encoded(mode_image, "PNG"))
        np.testing.assert_array_equal(result, np.asarray(mode_image.convert("RGB")))
        assert is_grey(result)
    palette = Image.fromarray(pixels).quantize(16)
    result = decode(encoded(palette, "PNG"))
    np.testing.assert_array_equal(result, np.asarray(palette.convert("RGB")))
    assert not is_grey(result)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_alpha_is_laid_over_white(mode: str, format: str):
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 256, (9, 8, len(mode)), dtype=np.uint8)
    result = decode(encoded(Image.fromarray(bands, mode), format))
    colour, alpha = bands[..., :-1].astype(float), bands[..., -1:] / 255
    truth = np.broadcast_to(colour * alpha + 255 * (1 - alpha), (9, 8, 3))
    assert np.abs(result - truth).max() <= 1


def test_transparent_palette_entries_and_colours_become_white():
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    white, red, blue = [255] * 3, [255, 0, 0], [0, 0, 255]
    for content in (
        encoded(palette, "PNG", transparency=1),
        encoded(palette, "PNG", transparency=b"\xff\x00\xff"),
        encoded(palette, "GIF", transparency=1),
        encoded(palette.convert("RGB"), "PNG", transparency=(0, 255, 0)),
    ):
        assert decode(content).tolist() == [[red, white], [blue, white]]


def test_16_bit_grey_is_scaled_not_clipped():
    samples = np.array([[0, 128, 257, 4096], [20000, 40000, 60000, 65535]], np.uint16)
    truth = np.rint(samples / 257)
    for content in (
        encoded(Image.fromarray(samples), "PNG"),
        encoded(Image.fromarray(samples), "TIFF"),
        encoded(Image.frombytes("I;16B", (4, 2), samples.astype(">u2").tobytes()), "TIFF"),
    ):
        result = decode(content)
        assert is_grey(result)
        np.testing.assert_array_equal(result[..., 0], truth)
    shown = decode(encoded(Image.fromarray(samples), "PNG", transparency=20000))
    assert shown[1, 0].tolist() == [255, 255, 255]


def png(
    colour_type: int, bits: int, rows: list[bytes], width: int, height: int = 1, extra: bytes = b""
) -> bytes:
    """A PNG written by hand: Pillow writes no colour of 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    extra = chunk(b"tRNS", extra) if extra else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_16_bit_colour_is_scaled_not_clipped():
    samples = np.array([[[0, 30000, 65535], [256, 40000, 12345]]], ">u2")
    result = decode(png(2, 16, [samples.tobytes()], width=2))
    assert np.abs(result - samples / 257).max() <= 1
    with_alpha = np.concatenate([samples, np.full((1, 2, 1), 65535, ">u2")], axis=2).astype(">u2")
    np.testing.assert_array_equal(decode(png(6, 16, [with_alpha.tobytes()], width=2)), result)
    transparent_colour = samples[0, 0].astype(">u2").tobytes()
    assert decode(png(2, 16, [samples.tobytes()], 2, extra=transparent_colour)).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("samples", "truth"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 500000.0, 1000000.0]], np.float32), [0, 128, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 0.2]], np.float32), [0, 255, 51]),
        (np.array([[np.nan, np.nan, -np.inf]], np.float32), [0, 0, 0]),
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0, 1 << 29, 1 << 30]], np.int32), [0, 128, 255]),
        (np.array([[5, 5, 5]], np.int32), [5, 5, 5]),
    ],
)
def test_32_bit_samples_are_scaled_by_the_white_that_holds_them(samples: Array, truth: list[int]):
    assert decode(encoded(Image.fromarray(samples), "TIFF"))[0, :, 0].tolist() == truth


def test_unsigned_32_bit_samples_do_not_wrap():
    samples = np.array([[0, 1 << 31, (1 << 32) - 1]], np.uint32)
    image = Image.frombytes("I", (3, 1), samples.tobytes())
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, format, 0) for format in (2, 1))
    content = encoded(image, "TIFF").replace(signed, unsigned)
    assert decode(content)[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_becomes_the_colours_it_prints(pixels: Array):
    cmyk = Image.fromarray(pixels).convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF")), pixels)
    jpeg = encoded(cmyk, "JPEG", quality=97)  # Pillow writes Adobe's inverted form
    assert b"Adobe" in jpeg
    assert np.abs(decode(jpeg).astype(int) - pixels).mean() < 4


# EXIF 2.3, orientation: where row 0 and column 0 of the stored pixels are seen.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(pixels: Array, orientation: int, format: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    plain = decode(encoded(Image.fromarray(pixels), format, **options))
    turned = decode(encoded(Image.fromarray(pixels), format, exif=exif, **options))
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](plain))
    assert read_size(encoded(Image.fromarray(pixels), format, exif=exif, **options)) == turned.shape[:2]


def test_orientation_and_draft_together():
    exif = Image.Exif()
    exif[0x0112] = 6
    y, x = np.mgrid[0:400, 0:600]
    photo = Image.fromarray(np.stack([x // 3, y // 2, x // 4 + y // 4], axis=2).astype(np.uint8))
    result = decode(encoded(photo, "JPEG", exif=exif), at_least=50)
    assert result.shape == (150, 100, 3)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_a_senseless_orientation_is_ignored(pixels: Array, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(content), pixels)


def test_broken_exif_does_not_reject_the_pixels(pixels: Array):
    content = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(decode(content), pixels)


@pytest.mark.parametrize(
    ("at_least", "shape"),
    [
        (None, (480, 640)),
        (300, (480, 640)),
        (240, (480, 640)),
        (120, (240, 320)),
        (60, (120, 160)),
        (5, (60, 80)),
    ],
)
def test_a_jpeg_is_reduced_only_while_twice_the_size_is_left(at_least: int | None, shape: tuple[int, int]):
    y, x = np.mgrid[0:480, 0:640]
    photo = np.stack([x // 4, y // 4, (x + y) // 8], axis=2).astype(np.uint8)
    content = encoded(Image.fromarray(photo), "JPEG", quality=95)
    reduced = decode(content, at_least=at_least)
    assert reduced.shape == (*shape, 3)
    truth = np.asarray(Image.fromarray(photo).resize(shape[::-1], Image.Resampling.BOX))
    assert np.abs(reduced.astype(int) - truth).mean() < 2


def test_the_pixel_limit_acts_before_decoding(monkeypatch: pytest.MonkeyPatch):
    side = int(MAX_PIXELS**0.5) + 1
    bomb = png(0, 1, [], side, side)
    with pytest.raises(ImageError, match=rf"bomb\.png could not be decoded: its header says {side} x {side}"):
        decode(bomb, name="bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # the limit is ours, not Pillow's
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 100)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageError, match="at most 100 in all"):
        decode(encoded(Image.new("RGB", (11, 10)), "BMP"))


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP", "JPEG", "WEBP"])
def test_pillows_own_limits_are_reported_alike(format: str, monkeypatch: pytest.MonkeyPatch):
    content = encoded(Image.new("RGB", (40, 40)), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns: nothing leaks
    assert decode(content).shape == (40, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses
    with pytest.raises(ImageError, match="x could not be decoded: it is too large"):
        decode(content, name="x")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_rejected_by_name(pixels: Array, format: str, tmp_path: Path):
    content = encoded(Image.fromarray(np.tile(pixels, (8, 8, 1))), format)
    for share in (0.01, 0.3, 0.7):
        path = tmp_path / f"cut-{share}.img"
        path.write_bytes(content[: max(1, int(len(content) * share))])
        with pytest.raises(ImageError, match=rf"cut-{share}\.img could not be decoded"):
            decode(path)


def test_what_is_no_image_is_rejected_with_the_reason(tmp_path: Path):
    empty, text, folder = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "folder.jpg"
    empty.touch()
    text.write_text("<html>not found</html>")
    folder.mkdir()
    with pytest.raises(ImageError, match=r"empty\.jpg could not be decoded: it is empty"):
        decode(empty)
    with pytest.raises(
        ImageError, match=r"text\.jpg .* none of JPEG, PNG, WEBP, GIF, BMP, TIFF; it begins with"
    ):
        decode(text)
    with pytest.raises(ImageError, match=r"folder\.jpg .* a folder"):
        decode(folder)
    with pytest.raises(ImageError, match=r"nowhere\.jpg .* no such file"):
        decode(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="could not be decoded: there is no such file"):
        decode("a\0b.jpg")


def test_formats_beside_the_six_are_not_opened():
    with pytest.raises(ImageError, match="none of JPEG"):
        decode(encoded(Image.new("RGB", (4, 4)), "PPM"))
    with pytest.raises(ImageError, match="none of JPEG"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "large.png"
    path.write_bytes(b"x" * 101)
    monkeypatch.setattr(decode_module, "MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match=r"large\.png could not be decoded: it has 101 bytes"):
        decode(path)


def test_warning_filters_are_as_before_after_many_threads(pixels: Array):
    content = encoded(Image.fromarray(pixels), "PNG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(content) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def samples_of_all_formats() -> list[tuple[str, bytes]]:
    """Small valid images in every format and many modes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:24, 0:31]
    colour = np.stack([x * 8, y * 10, x * 3 + y * 4], axis=2) + rng.integers(0, 9, (24, 31, 3))
    rgb = Image.fromarray(colour.clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    real = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.float32) / 255)
    return [
        ("jpeg", encoded(rgb, "JPEG", exif=exif)),
        ("progressive", encoded(rgb, "JPEG", progressive=True)),
        ("cmyk", encoded(rgb.convert("CMYK"), "JPEG")),
        ("png", encoded(rgb, "PNG", exif=exif)),
        ("png-alpha", encoded(rgb.convert("RGBA"), "PNG")),
        ("png-palette", encoded(rgb.quantize(9), "PNG", transparency=3)),
        ("png-16", encoded(grey16, "PNG")),
        ("apng", encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])),
        ("webp", encoded(rgb, "WEBP", exif=exif)),
        ("webp-lossless", encoded(rgb.convert("RGBA"), "WEBP", lossless=True)),
        ("gif", encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)], duration=9)),
        ("bmp", encoded(rgb, "BMP")),
        ("bmp-palette", encoded(rgb.quantize(9), "BMP")),
        ("tiff", encoded(rgb, "TIFF", exif=exif)),
        ("tiff-lzw", encoded(rgb, "TIFF", compression="tiff_lzw")),
        ("tiff-deflate", encoded(grey16, "TIFF", compression="tiff_adobe_deflate")),
        ("tiff-float", encoded(real, "TIFF")),
        ("tiff-cmyk", encoded(rgb.convert("CMYK"), "TIFF")),
    ]


def mutated(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One or more of: bits flipped, header bytes overwritten, cut off, replaced, spliced with others."""
    result = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not result:
            break
        kind = rng.randrange(6)
        place = rng.randrange(len(result))
        if kind == 0:
            for _ in range(rng.randint(1, 12)):
                result[rng.randrange(len(result))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[rng.randrange(min(64, len(result)))] = rng.choice(
                [0, 1, 127, 128, 255, rng.randrange(256)]
            )
        elif kind == 2:
            del result[place:]
        elif kind == 3:
            result[place : place + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        elif kind == 4:
            other = rng.choice(others)
            result[place:] = other[rng.randrange(len(other)) :]
        else:
            width = rng.choice([1, 2, 4])
            number = rng.choice([0, 1, (1 << (8 * width)) - 1, 1 << (8 * width - 1)])
            result[place : place + width] = number.to_bytes(width, rng.choice(["little", "big"]))
    return bytes(result)


def decode_mutants(count: int, seed: int) -> None:
    rng = random.Random(seed)
    originals = samples_of_all_formats()
    contents = [content for _, content in originals]
    accepted = unnamed = 0
    for number in range(count):
        kind, content = originals[number % len(originals)]
        name = f"mutant-{number}-{kind}"
        try:
            result = decode(mutated(content, contents, rng), name=name, at_least=rng.choice([None, 8]))
        except ImageError as error:
            unnamed += not str(error).startswith(f"{name} could not be decoded: ")
        else:
            accepted += 1
            assert result.dtype == np.uint8
            assert result.ndim == 3
            assert result.shape[2] == 3
            assert result.size > 0
    assert unnamed == 0
    assert count / 20 < accepted < count * 19 / 20


def test_mutated_images_are_decoded_or_rejected_by_name():
    decode_mutants(2000, seed=1)


@pytest.mark.slow
def test_many_more_mutated_images():
    decode_mutants(20_000, seed=2)
