"""The files that published sets come in, read with checks: IDX (MNIST and kin) and CIFAR's batches.

IDX is two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then
the values (Y. LeCun, "The MNIST database"). CIFAR's batches are pickles of Python 2 (A. Krizhevsky): they
are opened only if their MD5 is the published one, and then by an unpickler that makes nothing but arrays.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svertka.errors import DataError

_UNSIGNED_BYTE = 0x08
_DAMAGED = "delete it and start again, so that it is fetched anew"
_ARRAY_PARTS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array with so many dimensions in an IDX file of bytes; if `path` is not there, `path`.gz is read.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    packed = not path.is_file()
    path = path.with_name(path.name + ".gz") if packed else path
    try:
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); {_DAMAGED}.") from error
    start = 4 + 4 * dimensions
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != expected or len(content) < start:
        raise DataError(
            f"{path} is not the IDX file it should be: expected it to begin with {expected.hex()}, "
            f"got {content[:4].hex() or 'nothing'}; {_DAMAGED}."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=object)):
        sizes = " × ".join(map(str, shape))
        raise DataError(f"{path}: expected {sizes} bytes of data, got {len(content) - start:,}; {_DAMAGED}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_batch(path: Path, md5: str) -> Mapping[str, Any]:
    """The dictionary in one of CIFAR's files, whose MD5 must be the published one.

    Raises:
        DataError: another checksum, or anything in it but built-in values and arrays.
    """
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path} is not the published file: expected MD5 {md5}, got {found}; {_DAMAGED}.")
    value = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a dictionary, got {type(value).__name__}; {_DAMAGED}.")
    return value


class _ArraysOnly(pickle.Unpickler):
    """Makes built-in values and NumPy arrays; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise DataError(
                f"a data file asks for {module}.{name}; only arrays are accepted. Delete that file."
            )
        return _ARRAY_PARTS[module, name]
