"""The bytes of a file: mapped instead of copied, given back to the system after use, and their hash."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, BinaryIO, cast

from edge.runtime.errors import BadFile
from edge.runtime.fields import reason

if TYPE_CHECKING:
    from typing_extensions import Buffer


def read_bounded(path: str | os.PathLike[str], most: int, no_such: str) -> bytes:
    """All of a file.

    Args:
        most: bytes that are read.
        no_such: what a larger file is not: "no model for a microcontroller".

    Raises:
        BadFile: it is missing, unreadable or larger.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise BadFile(f"{name}: no such file") from None
    except OSError as error:
        raise BadFile(f"{name}: cannot be read: {reason(error)}") from None
    if len(data) > most:
        raise BadFile(f"{name}: more than {most:,} bytes: {no_such}")
    return data


def map_file(file: BinaryIO, start: int, size: int) -> memoryview:
    """Maps `size` > 0 bytes of a file for reading; the view keeps the mapping alive, also after the file is closed.

    Raises:
        OSError, ValueError: the file cannot be mapped or is shorter.
    """
    page = start - start % mmap.ALLOCATIONGRANULARITY
    mapping = mmap.mmap(file.fileno(), start - page + size, access=mmap.ACCESS_READ, offset=page)
    return memoryview(mapping)[start - page :]


def is_mapped(data: Buffer) -> bool:
    """Whether `data` is a view that `map_file` made: its pages may be given back, and come back when they are read."""
    return isinstance(data, memoryview) and data.readonly and isinstance(data.obj, mmap.mmap)


def give_back(data: memoryview) -> None:
    """Lets the system have the pages of a view that `map_file` made, where it takes them (not on Windows)."""
    if is_mapped(data) and hasattr(mmap, "MADV_DONTNEED"):
        cast("mmap.mmap", data.obj).madvise(mmap.MADV_DONTNEED)


def sha256(data: Buffer) -> str:
    """SHA-256 in hexadecimal: the core's, because hashlib loads all of OpenSSL; hashlib's where the core is missing."""
    try:
        from edge.runtime import _core
    except ImportError:
        import hashlib

        return hashlib.sha256(data).hexdigest()
    return _core.sha256(data)
