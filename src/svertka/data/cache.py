"""The cache on disk: entries that are whole or not there, bounded in size, least recently used first to go.

    cache_folder()/
      pixels/KEY/          an entry: a folder of files that are never changed, only made, read and removed
      pixels/KEY.part/     an entry being made; without a process that holds its lock it is a leftover,
                           which is removed or (features) continued
      locks/               one file an entry, locked while that is made, checked or removed
      in-use/              one file an open entry and process, locked for as long as the entry is in use

Locks of the operating system end with their process, so a killed process leaves nothing that looks alive.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from svertka import progress
from svertka.errors import OptionError, StoreError
from svertka.files import cache_folder, disk_errors, folder_bytes

KINDS = ("pixels", "engines", "features")
RESUMABLE = ("features",)
"""Kinds whose half-made entries survive a kill, for the next process that makes the same one."""
LIMIT_VARIABLE = "SVERTKA_CACHE_LIMIT_GB"
DEFAULT_LIMIT_GB = 20.0
SPARE_BYTES = 200_000_000
"""Disk space that is left free whatever is cached."""

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class CacheEntry:
    """One entry on disk. `used` is when it was last opened, seconds since 1970."""

    path: Path
    bytes: int
    used: float


class InUse:
    """Keeps an entry from being evicted until it is closed, collected, or the process ends."""

    def __init__(self, path: Path) -> None:
        lock = FileLock(_place("in-use") / f"{path.parent.name}-{path.name}-{uuid.uuid4().hex}.lock")
        lock.acquire()
        self.close: Callable[[], Any] = weakref.finalize(self, _release, lock)


def open_entry(
    kind: str, key: str, *, valid: Callable[[Path], bool], build: Callable[[Path], None]
) -> tuple[Path, InUse, bool]:
    """The folder of an entry, made if it is not there or not `valid`; its mark of use; whether it was there.

    Args:
        kind: one of `KINDS`.
        key: 32 hex digits that stand for all that decides the content.
        valid: whether a folder that was found can be used.
        build: fills an empty folder (of a resumable kind: perhaps one that a killed process began); when it
            raises an error nothing is left of it.

    Raises:
        StoreError: the disk is full or may not be written.
    """
    path = cache_folder() / kind / key
    with disk_errors(path):
        if kind not in RESUMABLE:
            _sweep(path.parent)
        with _locked(path):
            reused = path.exists() and valid(path)
            if not reused:
                _build(path, build)
            os.utime(path)
            return path, InUse(path), reused


def make_room(needed: int) -> None:
    """Evict the least recently used entries until `needed` bytes fit the limit and the disk.

    Raises:
        StoreError: they cannot fit; what is in use is never evicted.
    """
    limit = limit_bytes()
    must = f"{gigabytes(needed)} must be cached, but"
    if needed > limit:
        raise StoreError(
            f"{must} the cache is limited to {gigabytes(limit)}; allow more with "
            f"{LIMIT_VARIABLE}={needed / 1e9 + 1:.0f}, or store smaller images (--set data.store_size=…)."
        )
    entries = sorted(cache_entries(), key=lambda entry: entry.used)
    used = sum(entry.bytes for entry in entries)
    for entry in entries:
        if used + needed <= limit and _free() >= needed + SPARE_BYTES:
            return
        if _evict(entry.path):
            used -= entry.bytes
    if used + needed > limit:
        raise StoreError(
            f"{must} of the {gigabytes(limit)} allowed {gigabytes(used)} are in use now; wait for that work, "
            f"or allow more with {LIMIT_VARIABLE}={(used + needed) / 1e9 + 1:.0f}."
        )
    if _free() < needed + SPARE_BYTES:
        raise StoreError(
            f"{must} the disk of {cache_folder()} has only {gigabytes(_free())} free; free some, or set "
            "SVERTKA_CACHE to a folder on a larger disk."
        )


def cache_entries() -> list[CacheEntry]:
    """All whole entries."""
    found = []
    for kind in KINDS:
        for path in _folders(cache_folder() / kind):
            if _KEY.fullmatch(path.name):
                try:
                    found.append(CacheEntry(path, folder_bytes(path), path.stat().st_mtime))
                except FileNotFoundError:
                    continue  # evicted by another process meanwhile
    return found


def clear_cache() -> int:
    """Remove all entries that are not in use, and leftovers; returns the bytes freed."""
    freed = 0
    for kind in KINDS:
        _sweep(cache_folder() / kind)
    for entry in cache_entries():
        if _evict(entry.path):
            freed += entry.bytes
        else:
            progress.say(f"{entry.path} is in use and stays ({gigabytes(entry.bytes)})")
    return freed


def describe_cache() -> dict[str, Any]:
    """Where the cache is, how large it is and may become: `path bytes limit_bytes`."""
    used = sum(entry.bytes for entry in cache_entries())
    return {"path": str(cache_folder()), "bytes": used, "limit_bytes": limit_bytes()}


def limit_bytes() -> int:
    """The most that the cache may hold, from `SVERTKA_CACHE_LIMIT_GB`.

    Raises:
        OptionError: that is no number above 0.
    """
    given = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_GB))
    try:
        limit = float(given) * 1e9
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise OptionError(f"{LIMIT_VARIABLE} must be a number of gigabytes above 0, got {given!r}.")
    return int(limit)


def gigabytes(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _build(path: Path, build: Callable[[Path], None]) -> None:
    part = path.with_suffix(".part")
    resumable = path.parent.name in RESUMABLE
    for leftover in (path,) if resumable else (path, part):
        if leftover.exists():
            shutil.rmtree(leftover)
    part.mkdir(parents=True, exist_ok=resumable)
    try:
        build(part)
        os.replace(part, path)
    except BaseException as error:
        if not resumable or isinstance(error, Exception):
            shutil.rmtree(part, ignore_errors=True)
        raise


def _evict(path: Path) -> bool:
    """Remove an entry unless somebody makes, opens or uses it."""
    try:
        with _lock(path).acquire(timeout=0):
            if _in_use(path):
                return False
            shutil.rmtree(path, ignore_errors=True)
            return not path.exists()
    except Timeout:
        return False


def _in_use(path: Path) -> bool:
    for mark in _place("in-use").glob(f"{path.parent.name}-{path.name}-*.lock"):
        lock = FileLock(mark)
        try:
            with lock.acquire(timeout=0):
                pass
        except Timeout:
            return True
        mark.unlink(missing_ok=True)  # of a process that died
    return False


def _sweep(folder: Path) -> None:
    """Remove what dead builders left."""
    for part in _folders(folder):
        if part.suffix == ".part" and _KEY.fullmatch(part.stem):
            try:
                with _lock(part.with_suffix("")).acquire(timeout=0):
                    shutil.rmtree(part, ignore_errors=True)
            except Timeout:
                continue  # its builder lives


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        progress.say("another process is preparing the same data; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    return FileLock(_place("locks") / f"{path.parent.name}-{path.name}.lock")


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _place(name: str) -> Path:
    folder = cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _free() -> int:
    return shutil.disk_usage(_place("")).free
