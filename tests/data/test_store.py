"""The pixel store: right pixels, shared between processes, safe against kills, damage and full disks."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svertka import progress
from svertka.data import cache, store
from svertka.data.dataset import Dataset, content_digest
from svertka.data.store import Pixels, cache_entries, clear_cache, describe_cache, open_pixels
from svertka.errors import DataError, OptionError, StoreError
from svertka.images.decode import decode
from svertka.images.preprocess import Preprocess

SMALL = Preprocess(size=8, store_size=10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SVERTKA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def said() -> list[str]:
    """What the user is told meanwhile."""
    messages: list[str] = []

    class Reporter(progress.Silent):
        def say(self, message: str) -> None:
            messages.append(message)

    with progress.using(Reporter()):
        yield messages


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = (12 + number % 5, 17 - number % 3, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number:04}.png")


def files_of(folder: Path) -> Dataset:
    names = sorted(path.name for path in folder.iterdir())
    digests = np.array([content_digest((folder / name).read_bytes()) for name in names], dtype="V16")
    return table(names, folder, digests)


def array_of(images: np.ndarray) -> Dataset:
    digests = np.array([content_digest(image.tobytes()) for image in images], dtype="V16")
    return table(images, None, digests)


def table(images: object, root: Path | None, digests: np.ndarray) -> Dataset:
    count = len(digests)
    labels = np.arange(count) % 2
    nothing = np.full(count, -1, np.int8)
    return Dataset("set", ("a", "b"), labels, images, root, digests, np.arange(count), nothing)


def test_every_item_is_what_preprocess_stores(tmp_path: Path):
    write_images(tmp_path / "data", 40)
    dataset = files_of(tmp_path / "data")
    for preprocess in (SMALL, Preprocess(channels=1, size=8, store_size=12, interpolation="bicubic")):
        pixels = open_pixels(dataset, preprocess)
        assert (len(pixels), pixels.reused, pixels.broken) == (40, False, {})
        for index in range(40):
            truth = preprocess.shrink(decode(dataset.image(index)))
            np.testing.assert_array_equal(pixels[index], truth)
            assert tuple(pixels.shapes[index]) == truth.shape[:2]
    assert pixels.common_shape is None
    assert pixels.uniform_array() is None


def test_equal_content_elsewhere_is_found_and_other_settings_are_not(tmp_path: Path):
    for name in ("here", "there"):
        write_images(tmp_path / name, 5)
    here, there = (open_pixels(files_of(tmp_path / name), SMALL) for name in ("here", "there"))
    assert (here.reused, there.reused) == (False, True)
    assert here.path == there.path
    np.testing.assert_array_equal(here.data, there.data)
    normalized = Preprocess(size=8, store_size=10, fit="squash", normalization="channel_mean")
    assert open_pixels(files_of(tmp_path / "here"), normalized).reused
    for other in (
        Preprocess(size=8, store_size=11),
        Preprocess(size=8, store_size=10, channels=1),
        Preprocess(size=8, store_size=10, interpolation="bicubic"),
    ):
        assert not open_pixels(files_of(tmp_path / "here"), other).reused
    write_images(tmp_path / "here", 5, seed=1)
    assert not open_pixels(files_of(tmp_path / "here"), SMALL).reused


def test_equal_contents_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path / "data", 4)
    for number in range(4):
        copy = (tmp_path / "data" / f"{number:04}.png").read_bytes()
        (tmp_path / "data" / f"{9 - number:04}.png").write_bytes(copy)
    decoded = []
    monkeypatch.setattr(store, "_load", lambda *args, old=store._load: decoded.append(args[-1]) or old(*args))
    pixels = open_pixels(files_of(tmp_path / "data"), SMALL)
    assert sorted(decoded) == [0, 1, 2, 3]
    for number in range(4):
        np.testing.assert_array_equal(pixels[number], pixels[7 - number])
        truth = SMALL.shrink(decode(tmp_path / "data" / f"{number:04}.png"))
        np.testing.assert_array_equal(pixels[number], truth)


def test_broken_images_are_empty_and_named_also_when_found_again(tmp_path: Path):
    for name in ("here", "there"):
        write_images(tmp_path / name, 6)
        (tmp_path / name / "0002.png").write_bytes(b"no image")
        (tmp_path / name / "0005.png").write_bytes(b"")
        pixels = open_pixels(files_of(tmp_path / name), SMALL)
        assert sorted(pixels.broken) == [2, 5]
        assert str(tmp_path / name / "0002.png") in pixels.broken[2]
        assert "begins with b'no image'" in pixels.broken[2]
        assert "it is empty" in pixels.broken[5]
        assert pixels[2].shape == (0, 0, 3)
        np.testing.assert_array_equal(pixels[3], SMALL.shrink(decode(tmp_path / name / "0003.png")))
    assert pixels.reused


def test_only_broken_images(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"x")
    pixels = open_pixels(files_of(tmp_path / "data"), SMALL)
    assert list(pixels.broken) == [0]
    assert pixels.common_shape is None


def test_a_file_that_vanished_is_an_error_and_not_remembered_as_broken(tmp_path: Path):
    write_images(tmp_path / "data", 3)
    dataset = files_of(tmp_path / "data")
    content = (tmp_path / "data" / "0001.png").read_bytes()
    (tmp_path / "data" / "0001.png").unlink()
    with pytest.raises(DataError, match=r"0001\.png .*no such file.*start again"):
        open_pixels(dataset, SMALL)
    assert cache_entries() == []
    (tmp_path / "data" / "0001.png").write_bytes(content)
    assert not open_pixels(dataset, SMALL).broken


def test_arrays_of_the_right_size_are_used_as_they_are(own_cache: Path):
    images = np.random.default_rng(0).integers(0, 256, (5, 10, 12, 3), dtype=np.uint8)
    pixels = open_pixels(array_of(images), SMALL)
    assert pixels.path is None
    assert np.shares_memory(pixels.uniform_array(), images)
    np.testing.assert_array_equal(pixels[3], images[3])
    grey = open_pixels(array_of(images[..., 0].copy()), Preprocess(channels=1, size=8, store_size=10))
    np.testing.assert_array_equal(grey.uniform_array()[..., 0], images[..., 0])
    assert not own_cache.exists()


def test_other_arrays_are_stored(own_cache: Path):
    images = np.random.default_rng(0).integers(0, 256, (5, 10, 12), dtype=np.uint8)
    pixels = open_pixels(array_of(images), SMALL)  # grey becomes RGB
    np.testing.assert_array_equal(pixels.uniform_array(), np.repeat(images[..., None], 3, axis=3))
    assert pixels.common_shape == (10, 12)
    np.testing.assert_array_equal(pixels.gather(np.array([4, 0]))[0], pixels[4])
    larger = open_pixels(array_of(images), Preprocess(channels=1, size=8, store_size=20))
    assert larger.uniform_array().shape == (5, 20, 24, 1)
    assert len(cache_entries()) == 2


def test_gather_skips_broken_entries_and_follows_doubles(tmp_path: Path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(
            tmp_path / "data" / f"{name}.png"
        )
    (tmp_path / "data" / "b.png").write_bytes(b"broken")
    (tmp_path / "data" / "e.png").write_bytes((tmp_path / "data" / "a.png").read_bytes())
    pixels = open_pixels(files_of(tmp_path / "data"), SMALL)
    assert pixels.common_shape == (10, 10)
    assert pixels.uniform_array() is None
    whole = np.array([0, 2, 3, 4])
    np.testing.assert_array_equal(pixels.gather(whole), np.stack([pixels[int(index)] for index in whole]))
    rows, columns = rng.integers(0, 10, (2, 4, 6))
    taken = pixels.gather(whole, rows, columns)
    for place, index in enumerate(whole):
        np.testing.assert_array_equal(taken[place], pixels[int(index)][rows[place]][:, columns[place]])


def test_tables_take_few_bytes_an_item(tmp_path: Path):
    write_images(tmp_path / "data", 30)
    pixels = open_pixels(files_of(tmp_path / "data"), SMALL)
    assert pixels.shapes.nbytes + pixels.starts.nbytes <= 30 * 16


def build_elsewhere(folder: Path, slow: float) -> subprocess.Popen[str]:
    """A process that opens the store and takes `slow` seconds for each image; it prints what it found."""
    command = [sys.executable, __file__, str(folder), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def print_what_is_found(folder: str, slow: str) -> None:
    original = store._load

    def load(*args: object) -> object:
        time.sleep(float(slow))
        return original(*args)

    store._load = load
    pixels = open_pixels(files_of(Path(folder)), SMALL)
    print(pixels.reused, content_digest(pixels.data.tobytes()).hex())


def test_two_processes_build_one_store(tmp_path: Path):
    write_images(tmp_path / "data", 30)
    builders = [build_elsewhere(tmp_path / "data", 0.02) for _ in range(2)]
    found = sorted(builder.communicate(timeout=60)[0].split() for builder in builders)
    content = content_digest(open_pixels(files_of(tmp_path / "data"), SMALL).data.tobytes()).hex()
    assert found == [["False", content], ["True", content]]
    assert len(cache_entries()) == 1


def test_a_killed_builder_leaves_nothing_in_the_way(tmp_path: Path, own_cache: Path):
    write_images(tmp_path / "data", 30)
    write_images(tmp_path / "other", 3, seed=5)
    builder = build_elsewhere(tmp_path / "data", 0.3)
    deadline = time.monotonic() + 60
    while not list(own_cache.glob("pixels/*.part")):
        assert time.monotonic() < deadline
        assert builder.poll() is None
        time.sleep(0.01)
    open_pixels(files_of(tmp_path / "other"), SMALL)  # leaves the living builder alone
    assert list(own_cache.glob("pixels/*.part"))
    builder.kill()
    builder.communicate()
    assert len(cache_entries()) == 1
    clear_cache()
    assert not list(own_cache.glob("pixels/*.part"))  # swept: its lock died with it
    pixels = open_pixels(files_of(tmp_path / "data"), SMALL)
    assert not pixels.reused
    np.testing.assert_array_equal(pixels[7], SMALL.shrink(decode(tmp_path / "data" / "0007.png")))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_a_number(path: Path) -> None:
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"images": facts["images"] + 1}))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("pixels.bin", shorten),
        ("pixels.bin", Path.unlink),
        ("shapes.npy", flip_a_bit),
        ("meta.json", shorten),
        ("meta.json", change_a_number),
        ("meta.json", Path.unlink),
    ],
)
def test_a_damaged_store_is_noticed_and_made_again(
    name: str, damage: object, tmp_path: Path, said: list[str]
):
    write_images(tmp_path / "data", 6)
    dataset = files_of(tmp_path / "data")
    first = open_pixels(dataset, SMALL)
    content, path = first.data.tobytes(), first.path
    del first
    damage(path / name)
    again = open_pixels(dataset, SMALL)
    assert not again.reused
    assert again.data.tobytes() == content
    assert said == [f"the cached pixels in {path} are damaged and are made again"]


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path / "data", 6)
    monkeypatch.setattr(cache, "_free", lambda: cache.SPARE_BYTES + 100)
    with pytest.raises(
        StoreError, match=r"must be cached, but the disk of .* set SVERTKA_CACHE to a folder on"
    ):
        open_pixels(files_of(tmp_path / "data"), SMALL)
    assert not list(tmp_path.glob("cache/pixels/*"))


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path / "data", 6)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StoreError, match=r"the disk is full.*svertka cache clear"):
        open_pixels(files_of(tmp_path / "data"), SMALL)
    assert not list(tmp_path.glob("cache/pixels/*"))


def limit(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    monkeypatch.setenv("SVERTKA_CACHE_LIMIT_GB", str(count / 1e9))


def test_the_least_recently_used_store_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = []
    for number in range(3):
        write_images(tmp_path / f"{number}", 12, seed=number)
        paths.append(open_pixels(files_of(tmp_path / f"{number}"), SMALL).path)
        os.utime(paths[-1], (number, number))
    one = cache_entries()[0].bytes
    open_pixels(files_of(tmp_path / "0"), SMALL)  # now 1 is the one not used for longest
    limit(monkeypatch, 3.9 * one)
    write_images(tmp_path / "new", 12, seed=9)
    new = open_pixels(files_of(tmp_path / "new"), SMALL)
    assert [path.exists() for path in paths] == [True, False, True]
    assert describe_cache()["bytes"] <= 3.9 * one
    assert new.path.exists()


def test_a_store_in_use_is_never_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]):
    write_images(tmp_path / "old", 12)
    write_images(tmp_path / "new", 12, seed=1)
    old = open_pixels(files_of(tmp_path / "old"), SMALL)
    limit(monkeypatch, 1.5 * cache_entries()[0].bytes)
    with pytest.raises(
        StoreError, match=r"are in use now; wait for that work, or allow more with SVERTKA_CACHE_LI"
    ):
        open_pixels(files_of(tmp_path / "new"), SMALL)
    assert clear_cache() == 0
    assert "is in use and stays" in said[-1]
    path = old.path
    del old
    assert not open_pixels(files_of(tmp_path / "new"), SMALL).reused
    assert not path.exists()


def test_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path / "data", 12)
    limit(monkeypatch, 1000)
    with pytest.raises(
        StoreError, match=r"the cache is limited to 0\.0 MB; allow more with SVERTKA_CACHE_LIMIT_GB="
    ):
        open_pixels(files_of(tmp_path / "data"), SMALL)


@pytest.mark.parametrize("value", ["much", "-1", "0", "inf", "nan"])
def test_a_senseless_limit_is_refused(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SVERTKA_CACHE_LIMIT_GB", value)
    with pytest.raises(OptionError, match=f"SVERTKA_CACHE_LIMIT_GB must be a number .* got '{value}'"):
        describe_cache()


def test_clearing_and_describing(tmp_path: Path, own_cache: Path):
    write_images(tmp_path / "data", 3)
    assert describe_cache() == {"path": str(own_cache), "bytes": 0, "limit_bytes": 20_000_000_000}
    open_pixels(files_of(tmp_path / "data"), SMALL)
    own_cache.joinpath("pixels", "notes").mkdir()  # not ours: stays
    size = describe_cache()["bytes"]
    assert size > 3 * 10 * 12 * 3
    assert clear_cache() == size
    assert describe_cache()["bytes"] == 0
    assert own_cache.joinpath("pixels", "notes").exists()


def test_long_work_is_announced(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path / "data", 20)
    monkeypatch.setattr(store, "LONG_SECONDS", 0.0)
    pixels: Pixels = open_pixels(files_of(tmp_path / "data"), SMALL)
    assert len(said) == 1
    assert said[0].startswith("decoding 20 images once: about 0 s and 0.0 MB")
    assert pixels.seconds > 0


if __name__ == "__main__":
    print_what_is_found(*sys.argv[1:])
