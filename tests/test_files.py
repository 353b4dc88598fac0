"""Files: old content or new, never a part; what the disk refuses is said with the way out."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from svertka import files
from svertka.errors import StoreError


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_whole_content_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    files.write_text(path, "old\r\nä")
    files.write_bytes(path, b"new")
    (tmp_path / "usual").write_bytes(b"")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "a\r\nб\n")
    assert (tmp_path / "file").read_bytes() == "a\r\nб\n".encode()


def test_json_keeps_order_and_refuses_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "file.json", {"b": "ü", "a": [1, None]})
    assert list(json.loads((tmp_path / "file.json").read_text(encoding="utf-8")).items()) == [
        ("b", "ü"),
        ("a", [1, None]),
    ]
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "file.json", float("nan"))
    assert json.loads((tmp_path / "file.json").read_text(encoding="utf-8"))["b"] == "ü"


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_content(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half(part: Path) -> None:
        part.write_text("ne")
        assert part.parent == path.parent  # a rename is atomic only within one file system
        raise failure

    with pytest.raises(type(failure)):
        files.write_atomically(path, write_half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_reader_sees_the_old_content_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    seen: list[str] = []

    def write(part: Path) -> None:
        part.write_text("n")
        seen.append(path.read_text())
        part.write_text("new")
        seen.append(path.read_text())

    files.write_atomically(path, write)
    assert [*seen, path.read_text()] == ["old", "old", "new"]


def test_content_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file, rename, fsync of the folder."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def note_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(tmp_path / "file", "content")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk is full: .*file could not be written.*svertka cache clear.*is lost"),
        (errno.EDQUOT, r"the disk is full"),
        (errno.EACCES, r"no permission to write .*file; choose another place with --out"),
        (errno.EROFS, r"no permission to write .*file"),
        (errno.ENOTDIR, r"file cannot be written \(Not a directory\); choose another place"),
    ],
)  # fmt: skip
def test_what_the_disk_refuses_is_said(tmp_path: Path, number: int, message: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(part: Path) -> None:
        part.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(StoreError, match=message):
        files.write_atomically(path, refuse)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_other_failures_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"), files.disk_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    def to_full(part: Path) -> None:
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(b"content")

    with pytest.raises(StoreError, match="the disk is full"):
        files.write_atomically(tmp_path / "file", to_full)
    assert names(tmp_path) == []


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVERTKA_CACHE", str(tmp_path / "mine"))
    assert files.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("SVERTKA_CACHE")
    assert files.cache_folder().name == "svertka"


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    os.symlink(tmp_path / "a" / "one", tmp_path / "link")
    assert files.folder_bytes(tmp_path) == 8 + os.lstat(tmp_path / "link").st_size
    assert files.folder_bytes(tmp_path / "nowhere") == 0
