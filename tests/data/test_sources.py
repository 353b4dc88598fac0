"""Every form of data that is accepted, and every mistake in it that must be named."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svertka.data import archives, items, sources
from svertka.data.dataset import PARTS
from svertka.data.items import natural_order
from svertka.data.sources import BUILT_IN, from_arrays, from_paths, open_dataset
from svertka.errors import DataError, DownloadError


def picture(path: Path, shade: int = 0) -> None:
    """A 2 × 2 image that differs by shade; its suffix says its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), shade % 256, np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue() + shade.to_bytes(4, "little"))


def folder(root: Path, *names: str) -> Path:
    for shade, name in enumerate(names):
        picture(root / name, shade)
    return root


def manifest(root: Path, text: str | bytes, name: str = "list.csv", images: int = 4) -> Path:
    for number in range(images):
        picture(root / f"{number}.png", number)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / name


def listed(dataset):
    """(path, class, part) of every item."""
    return [
        (path, dataset.classes[label], PARTS[part] if part >= 0 else None)
        for path, label, part in zip(dataset.images, dataset.labels, dataset.declared, strict=True)
    ]


# ---------------------------------------------------------------- folders


def test_class_folders_in_natural_order_with_nested_images_and_all_suffixes(tmp_path):
    folder(
        tmp_path, "10/a.PNG", "2/b.jpeg", "2/deep/er/c.tif", "2/.hidden.png", ".git/d.png", "__MACOSX/2/e.png"
    )
    (tmp_path / "2" / "notes.txt").write_text("not an image")
    (tmp_path / "LICENSE").write_text("not an image")
    dataset = open_dataset(tmp_path)
    assert listed(dataset) == [
        ("2/b.jpeg", "2", None),
        ("2/deep/er/c.tif", "2", None),
        ("10/a.PNG", "10", None),
    ]
    assert dataset.image(0) == tmp_path / "2/b.jpeg"
    assert "1 × .txt" in dataset.notes[0]
    assert "2/notes.txt" in dataset.notes[0]
    assert ".hidden" not in str(dataset.notes)


def test_all_suffixes_that_can_be_decoded_are_images(tmp_path):
    names = ["a.jpg", "a.JPEG", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.TIFF"]
    folder(tmp_path, *(f"x/{name}" for name in names), "y/a.heic", "y/b.png")
    assert len(open_dataset(tmp_path)) == len(names) + 1


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "VAL"])
def test_split_folders_declare_parts(tmp_path, validation):
    folder(tmp_path, "train/a/1.png", "train/b/2.png", f"{validation}/a/3.png", "test/b/4.png")
    assert listed(open_dataset(tmp_path)) == [
        ("train/a/1.png", "a", "train"),
        ("train/b/2.png", "b", "train"),
        (f"{validation}/a/3.png", "a", "validation"),
        ("test/b/4.png", "b", "test"),
    ]


def test_a_class_may_be_called_train(tmp_path):
    folder(tmp_path, "train/1.png", "test/2.png", "car/3.png")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("car", "test", "train")
    assert set(dataset.declared) == {-1}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_are_followed_but_loops_and_dead_links_are_not(tmp_path):
    outside = folder(tmp_path / "outside", "9.png")
    root = folder(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "higher").symlink_to(tmp_path)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "a" / "gone.png").symlink_to(root / "nothing.png")
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    (root / "b" / "out").symlink_to(outside)
    (root / "b" / "again").symlink_to(outside)
    (root / "c").symlink_to(outside)
    dataset = open_dataset(root)
    assert list(dataset.images) == ["a/1.png", "b/2.png", "b/again/9.png", "c/9.png"]
    assert any("links that lead to no file: a/gone.png, a/self.png" in note for note in dataset.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes on Windows")
def test_a_pipe_called_like_an_image_does_not_hang(tmp_path):
    folder(tmp_path, "a/1.png", "b/2.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert len(open_dataset(tmp_path)) == 2
    with pytest.raises(DataError, match=r"1 file cannot be read: pipe\.png \(there is no such file\)"):
        from_paths(["1.png", "pipe.png"], ["x", "y"], root=tmp_path / "a")


def test_one_broken_rule_each(tmp_path):
    cases = {
        "one": (["cat/1.png"], "expected two or more classes, got only one, 'cat'"),
        "stray": (["1.png", "2.png"], "expected one folder for each class, got 2 images without"),
        "unseen": (["train/a/1.png", "train/b/2.png", "test/c/3.png"], "seen only in test: 'c'"),
        "unsorted": (
            ["train/a/1.png", "train/b/2.png", "test/3.png"],
            "expected class folders in test, got 1 image",
        ),
        "twice": (
            ["train/a/1.png", "train/b/2.png", "val/a/3.png", "valid/a/4.png"],
            "val and valid both mean",
        ),
        "joined": (["a|b/1.png", "a/2.png"], "must not contain '|'"),
    }
    for name, (names, message) in cases.items():
        if "|" in names[0] and sys.platform == "win32":
            continue
        folder(tmp_path / name, *names)
        with pytest.raises(DataError) as caught:
            open_dataset(str(tmp_path / name))
        assert message in str(caught.value), name
        assert str(tmp_path / name) in str(caught.value)


def test_empty_folders_are_named_together(tmp_path):
    folder(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="expected images in these 2 class folders, got none: b, c"):
        open_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got an empty folder"):
        open_dataset(tmp_path / "empty")


def test_an_empty_class_of_the_test_part_is_only_noted(tmp_path):
    folder(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    (tmp_path / "test/b").mkdir()
    assert "no images in test/b" in open_dataset(tmp_path).notes


def test_all_problems_of_a_folder_in_one_message(tmp_path):
    folder(tmp_path, "train/a/1.png", "val/a/2.png", "valid/a/3.png", "test/4.png")
    (tmp_path / "train/b").mkdir()
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    for part in ("both mean", "expected class folders in test", "got none: train/b"):
        assert part in str(caught.value)


def test_what_is_not_trained_on_may_have_one_class(tmp_path):
    folder(tmp_path, "test/cat/1.png")
    assert open_dataset(tmp_path, training=False).classes == ("cat",)


def test_a_folder_with_a_manifest_in_it_points_to_the_manifest(tmp_path):
    manifest(tmp_path, "path,label\n0.png,a\n")
    with pytest.raises(DataError, match=r"if list\.csv lists the images, give that file"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------- names that are not there


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            r"there is no 'nowhere': expected a folder of class folders.*digits, mnist, fashion-mnist",
        ),
        ("fashion_mnist", "Did you mean 'fashion-mnist'"),
        ("FashionMNIST", "Did you mean 'fashion-mnist'"),
        ("phots", "Did you mean 'photos'"),
        ("nowhere/a/b", r"there is no 'nowhere/a/b' \(nowhere is not there\)"),
        ("hf:owner/name", "hub cannot be read yet; give a folder"),
        ("shard.tar", "unpack it and give a folder"),
        ("photos/a/1.png", "is one image; give a folder"),
        ("photos/a/x.txt", "a file that is no manifest; give a folder"),
        (" ", "got an empty text"),
    ],
)
def test_names_that_lead_nowhere(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, "photos/a/1.png")
    (tmp_path / "photos/a/x.txt").write_text("")
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(name)
    assert caught.value.exit_code == 2


# ---------------------------------------------------------------- manifests


def test_manifest_with_byte_order_mark_quotes_numbers_and_other_columns(tmp_path):
    picture(tmp_path / "in, out.png", 9)
    rows = ["Path, Label ,split,size", "0.png,10,train,3", '"1.png",9,Train,3', "", '"in, out.png", 9 ,VAL,3']
    text = "\n".join([*rows, "2.png,10,test,3"])
    dataset = open_dataset(manifest(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert listed(dataset) == [
        ("0.png", "10", "train"),
        ("1.png", "9", "train"),
        ("in, out.png", "9", "validation"),
        ("2.png", "10", "test"),
    ]
    assert dataset.classes == ("9", "10")
    assert dataset.notes == ("ignored the column size",)


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_manifest_separators(tmp_path, separator):
    rows = ["path,label,remark", "0.png,a,x y", "1.png,b,"]
    dataset = open_dataset(manifest(tmp_path, "\r\n".join(rows).replace(",", separator)))
    assert dataset.classes == ("a", "b")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("file,label\n0.png,a\n", ["there is no column 'path'; the columns there are: 'file', 'label'"]),
        (
            "0.png,a\n1.png,b\n",
            ["no column 'path'", "no column 'label'", "the columns there are: '0.png', 'a'"],
        ),
        ("path,labels\n0.png,a\n", ["no column 'label'", "did you mean 'labels'?"]),
        ("", ["no header at all"]),
        ("path,label\n", ["a header but no rows"]),
        ("path,label,label\n0.png,a,b\n", ["the column 'label' is there twice"]),
        ("path,label\n0.png,a\n8.png,b\n9.png,b\n", ["2 files of 3 cannot be found: 8.png, 9.png"]),
        ("path,label\n0.png,a\nx\\9.png,b\n", ["write / and not"]),
        ("path,label\n0.png,a\n1.png,\n,b\n", ["no path in row 3", "no label in row 2"]),
        ("path,label\n0.png,a\n1.png,b,c\n2.png\n", ["row 2 has 3, row 3 has 1", "no label in row 3"]),
        ("path,label\n0.png,a|b\n1.png,b\n", ["several joined by '|' in row 1", "'a|b'", "is not available"]),
        ("path,label\n0.png,a|\n1.png,b\n", ["got several joined by '|' in row 1"]),
        (
            "path,label,split\n0.png,a,trian\n1.png,b,\n",
            ["unknown split 'trian'; did you mean 'train'", "row 2"],
        ),
        ("path,label,split\n0.png,a,train\n1.png,b,train\n2.png,c,test\n", ["seen only in test: 'c'"]),
        ("path,label\n0.png,a\n1.png,a\n", ["got only one, 'a'"]),
        ('path,label\n"0.png,a\n', ["not a valid CSV file"]),
        ("path,label\n0.png,ä\n".encode("latin1"), ["is not UTF-8 text"]),
        ("path,label\n0.png,a\n".encode("utf-16"), ["is not UTF-8 text"]),
    ],
)
def test_mistakes_in_a_manifest(tmp_path, text, messages):
    file = manifest(tmp_path, text)
    with pytest.raises(DataError) as caught:
        open_dataset(file)
    for message in messages:
        assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_groups_of_a_manifest_are_united_with_equal_bytes(tmp_path):
    text = "path,label,group\n0.png,a,x\n1.png,b,x\n2.png,a,\n3.png,b,y\ncopy.png,a,y\n5.png,b,\n"
    file = manifest(tmp_path, text, images=6)
    (tmp_path / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    dataset = open_dataset(file)  # 0–1 by x, 1–copy by bytes, copy–3 by y
    assert dataset.groups.tolist() == [0, 0, 1, 0, 0, 2]
    assert "1 image repeats the content of another image under a different label" in dataset.notes[0]
    assert "copy.png (a) and 1.png (b)" in dataset.notes[0]


def test_parquet_manifest(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    manifest(tmp_path, "")
    file = tmp_path / "list.parquet"
    columns = {
        "path": ["0.png", "1.png", "2.png"],
        "label": [1.0, 0.0, 1.0],
        "split": ["train", "train", "test"],
    }
    parquet.write_table(pyarrow.table({**columns, "more": [1, 2, 3]}), file)
    dataset = open_dataset(file)
    assert listed(dataset) == [("0.png", "1", "train"), ("1.png", "0", "train"), ("2.png", "1", "test")]
    assert dataset.notes == ("ignored the column more",)
    parquet.write_table(pyarrow.table({**columns, "label": [1.0, None, 1.0]}), file)
    with pytest.raises(DataError, match="no label in row 2"):
        open_dataset(file)
    parquet.write_table(pyarrow.table({**columns, "label": [["a", "b"], ["a"], ["b"]]}), file)
    with pytest.raises(DataError, match="several labels for an image are not accepted"):
        open_dataset(file)
    parquet.write_table(pyarrow.table({"path": ["0.png"]}), file)
    with pytest.raises(DataError, match="no column 'label'; the columns there are: 'path'"):
        open_dataset(file)
    file.write_bytes(b"PAR1 or not")
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        open_dataset(file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'svertka\[parquet\]'"):
        open_dataset(file)


# ---------------------------------------------------------------- in memory, and by path


def test_from_arrays_digests_pixels_with_their_shape():
    images = np.zeros((4, 4, 4), np.uint8)
    images[1] = 7
    dataset = from_arrays(images, ["b", "a", "b", "b"])
    assert dataset.classes == ("a", "b")
    assert dataset.groups.tolist() == [0, 1, 0, 0]
    assert dataset.image(1).shape == (4, 4)
    assert dataset.title(1) == "row 1 of the images"
    flat = from_arrays(images.reshape(4, 2, 8), ["b", "a", "b", "b"])
    assert flat.digests[0] != dataset.digests[0]
    assert from_arrays(images[..., None], [1, 0, 1, 1]).images.shape == (4, 4, 4)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4)), [0, 1], r"expected uint8 images .* got float64 of shape \(2, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 1], "put the channels last"),
        (np.zeros((2, 16), np.uint8), [0, 1], r"shape \(2, 16\)"),
        (np.zeros((2, 0, 4), np.uint8), [0, 1], r"shape \(2, 0, 4\)"),
        (np.zeros((0, 4, 4), np.uint8), [], "no images in it"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1, 1], "as many labels as images, got 3 for 2 images"),
    ],
)
def test_from_arrays_refuses(images, labels, message):
    with pytest.raises(DataError, match=message):
        from_arrays(images, labels)


def test_labels_may_index_given_classes(tmp_path):
    folder(tmp_path, "1.png", "2.png")
    paths = [tmp_path / "1.png", str(tmp_path / "2.png")]
    dataset = from_paths(paths, np.array([1, 0]), classes=["zebra", "ant"])
    assert listed(dataset)[0][1] == "ant"
    assert dataset.image(0) == tmp_path / "1.png"
    assert dataset.digests[0].tobytes() == hashlib.blake2b(paths[0].read_bytes(), digest_size=16).digest()
    with pytest.raises(DataError, match="expected labels from 0 to 1"):
        from_paths(paths, [2, 0], classes=["zebra", "ant"])
    with pytest.raises(DataError, match=r"1 file cannot be read: .*3\.png"):
        from_paths([*paths, tmp_path / "3.png"], [0, 1, 1])


def test_a_table_takes_at_most_300_bytes_an_item(monkeypatch):
    number = 100_000
    monkeypatch.setattr(items, "_read", lambda paths, root, name: np.arange(2 * len(paths)).view("V16"))
    tracemalloc.start()
    paths = [f"train/some class/a usual file name {index:08}.jpg" for index in range(number)]
    dataset = from_paths(paths, np.arange(number) % 2, classes=["a", "b"], groups=["x", "y"] * (number // 2))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == number
    assert held / number < 300


def test_natural_order():
    assert natural_order(["1", "", "a"]) == ["", "1", "a"]
    assert natural_order(["10", "9", "a2", "a10", "B", "a2", "01", "1"]) == [
        "01",
        "1",
        "9",
        "10",
        "B",
        "a2",
        "a10",
    ]
    assert natural_order(["9" * 5000, "1" + "0" * 5000]) == ["9" * 5000, "1" + "0" * 5000]


def test_fingerprint_knows_content_labels_and_order_but_not_places(tmp_path):
    one, two = (folder(tmp_path / name, "a/1.png", "b/2.png") for name in ("one", "two"))
    assert open_dataset(one).fingerprint == open_dataset(two).fingerprint
    picture(two / "a/1.png", 77)
    assert open_dataset(one).fingerprint != open_dataset(two).fingerprint


# ---------------------------------------------------------------- built-in sets


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No built-in set on this machine, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVERTKA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SVERTKA_DATA", str(tmp_path / "given"))

    def offline(row, cache):
        raise OSError("no network\n here")

    monkeypatch.setattr(sources, "_download", offline)
    return tmp_path


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put_idx(place: Path, packed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """20 training and 10 test images in torchvision's layout."""
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    place.mkdir(parents=True)
    for part, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(array[rows])
            name = f"{part}-{kind}-ubyte" + (".gz" if packed else "")
            (place / name).write_bytes(gzip.compress(content) if packed else content)
    return images, labels


def test_digits_are_scikit_learns(nowhere):
    from sklearn.datasets import load_digits

    dataset = open_dataset("digits")
    table = load_digits()
    assert dataset.images.shape == (1797, 8, 8)
    assert dataset.images.max() == 255
    np.testing.assert_allclose(dataset.images / 255, table.images / 16, atol=0.5 / 255)
    assert (dataset.labels == table.target).all()
    assert set(dataset.declared) == {-1}


def test_a_built_in_name_wins_over_a_folder_and_says_so(nowhere):
    folder(nowhere / "digits", "a/1.png", "b/2.png")
    assert "./digits" in open_dataset("digits").notes[0]
    assert len(open_dataset("./digits")) == 2
    assert len(open_dataset(Path("digits"))) == 2


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("root", ["given", "data", "cache/data"])
def test_idx_sets_are_found_and_read_as_torchvision_reads_them(nowhere, monkeypatch, root, packed):
    images, labels = put_idx(nowhere / root / "FashionMNIST/raw", packed)
    row = BUILT_IN["fashion-mnist"]
    monkeypatch.setitem(BUILT_IN, "fashion-mnist", replace(row, system=""))
    dataset = open_dataset("fashion-mnist")
    assert (dataset.images == images).all()
    assert (dataset.labels == labels).all()
    assert dataset.declared.tolist() == [0] * 20 + [2] * 10
    if not packed:
        from torchvision.datasets import FashionMNIST

        theirs = FashionMNIST(nowhere / root, train=True)
        assert (theirs.data.numpy() == dataset.images[:20]).all()
        assert tuple(theirs.classes) == dataset.classes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "expected 20 × 28 × 28 bytes of data, got 15,679"),
        (lambda content: b"\x00\x00\x0d" + content[3:], "expected it to begin with 00000803, got 00000d03"),
        (lambda content: b"", "got nothing"),
        (lambda content: content[:6], "not the IDX file"),
    ],
)
def test_damaged_idx_files_are_named(nowhere, damage, message):
    put_idx(nowhere / "given/MNIST/raw")
    file = nowhere / "given/MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        open_dataset("mnist")
    assert str(file) in str(caught.value)


def test_damaged_gzip_is_named(nowhere):
    put_idx(nowhere / "given/MNIST/raw", packed=True)
    file = nowhere / "given/MNIST/raw/t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read"):
        open_dataset("mnist")


def test_labels_that_do_not_fit_the_images(nowhere):
    put_idx(nowhere / "given/MNIST/raw")
    (nowhere / "given/MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(DataError, match="do not fit together"):
        open_dataset("mnist")


def test_offline_error_names_all_places(nowhere):
    put_idx(nowhere / "data/MNIST/raw")
    (nowhere / "data/MNIST/raw/t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DownloadError) as caught:
        open_dataset("mnist")
    for part in (
        "(no network here)",
        "given",
        "data/MNIST/raw (lacks t10k-images-idx3-ubyte)",
        "cache",
        "digits",
    ):
        assert part in str(caught.value)


def test_a_download_is_moved_into_place_whole(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVERTKA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SVERTKA_DATA", raising=False)
    (tmp_path / "cache/data/MNIST/raw").mkdir(parents=True)  # what a killed download may have left
    calls = []

    def fetch(root, download):
        calls.append(root)
        put_idx(Path(root) / "MNIST/raw")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    assert len(open_dataset("mnist")) == 30
    assert len(open_dataset("mnist")) == 30
    assert len(calls) == 1
    assert sorted(path.name for path in (tmp_path / "cache/data").iterdir() if path.is_dir()) == ["MNIST"]


def test_table_of_checksums_and_places_is_torchvisions():
    from torchvision import datasets

    for name in ("cifar10", "cifar100"):
        theirs = getattr(datasets, BUILT_IN[name].torchvision)
        files = [*theirs.train_list, *theirs.test_list, [theirs.meta["filename"], theirs.meta["md5"]]]
        assert [list(pair) for pair in BUILT_IN[name].files] == files
        assert BUILT_IN[name].folder == theirs.base_folder
    assert BUILT_IN["fashion-mnist"].classes == tuple(datasets.FashionMNIST.classes)


def python2_pickle(value) -> bytes:
    """A pickle as Python 2 with NumPy wrote it: byte strings, and arrays by `numpy.core.multiarray`."""
    if isinstance(value, dict):
        return (
            b"}(" + b"".join(python2_pickle(key) + python2_pickle(each) for key, each in value.items()) + b"u"
        )
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"K" + bytes([value])
    shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in value.shape) + b"t"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = b"T" + struct.pack("<i", value.size) + value.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def put_cifar(place: Path, monkeypatch, name: str = "cifar10"):
    row = BUILT_IN[name]
    place.mkdir(parents=True)
    images = np.random.default_rng(1).integers(0, 256, (len(row.files) - 1, 2, 3072), np.uint8)
    names, labels = ("label_names", "labels") if name == "cifar10" else ("fine_label_names", "fine_labels")
    files = []
    for number, (file, _) in enumerate(row.files):
        if file.endswith("meta"):
            value = {names: ["plane", "car"], "num_vis": 7}
        else:
            value = {"data": images[number], labels: [0, 1], "batch_label": "x"}
        content = b"\x80\x02" + python2_pickle(value) + b"."
        (place / file).write_bytes(content)
        files.append((file, hashlib.md5(content).hexdigest()))
    monkeypatch.setitem(BUILT_IN, name, replace(row, files=tuple(files)))
    return images


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_batches(nowhere, monkeypatch, name):
    images = put_cifar(nowhere / "given" / BUILT_IN[name].folder, monkeypatch, name)
    dataset = open_dataset(name)
    assert dataset.classes == ("plane", "car")
    assert dataset.images.shape == (len(images) * 2, 32, 32, 3)
    assert dataset.labels.tolist() == [0, 1] * len(images)
    assert dataset.declared.tolist() == [0, 0] * (len(images) - 1) + [2, 2]
    pixel = 3 * 32 + 5  # row 3, column 5 of each colour plane
    assert dataset.images[1, 3, 5].tolist() == images[0, 1, [pixel, 1024 + pixel, 2048 + pixel]].tolist()


def test_cifar_with_another_checksum_is_not_opened(nowhere, monkeypatch):
    place = nowhere / "given/cifar-10-batches-py"
    put_cifar(place, monkeypatch)
    (place / "data_batch_3").write_bytes((place / "data_batch_2").read_bytes())
    with pytest.raises(DataError, match="data_batch_3 is not the published file: expected MD5"):
        open_dataset("cifar10")


@pytest.mark.parametrize("target", [os.getcwd, eval, np.load])
def test_a_pickle_that_wants_more_than_arrays_is_refused(tmp_path, target):
    file = tmp_path / "batch"

    class Hostile:
        def __reduce__(self):
            return target, ()

    file.write_bytes(pickle.dumps({"data": Hostile()}))
    with pytest.raises(DataError, match="only arrays are accepted"):
        archives.read_batch(file, hashlib.md5(file.read_bytes()).hexdigest())
