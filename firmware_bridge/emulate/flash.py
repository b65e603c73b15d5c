"""Storage as NOR flash behaves: a sector is erased at once, a unit programmed once, and power may fail in between."""

from __future__ import annotations

import ctypes
import mmap
import random
from pathlib import Path

from edge.firmware_bridge.board import Storage
from edge.runtime.errors import BadFile, BadInput


class PowerFailed(Exception):
    """In the middle of an operation."""


class Flash:
    """The bytes of a board's storage and the rules by which they change.

    Attributes:
        operations: Sectors erased and units programmed so far.
    """

    def __init__(self, shape: Storage, first: bytes, file: Path | None) -> None:
        """
        Args:
            shape: Of the board.
            first: What it holds where `file` does not exist yet; as long as the storage.
            file: Where it is kept at every moment, or None.

        Raises:
            BadInput: The file is of another size.
            BadFile: It cannot be opened or written.
        """
        self._shape = shape
        self.operations = 0
        self._fails_at: int | None = None
        self._random = random.Random()  # noqa: S311  # garbage, no secret
        if file is None:
            self._bytes: mmap.mmap = mmap.mmap(-1, shape.bytes)
            self._bytes[:] = first
        else:
            self._bytes = _open(file, shape.bytes, first)

    @property
    def address(self) -> int:
        """Where this process has the bytes."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))

    def contents(self) -> bytes:
        """All of them."""
        return self._bytes[: self._shape.bytes]

    def fail_at(self, operations: int, seed: int) -> None:
        """The power fails in the so-many-th operation from now on."""
        self._fails_at = self.operations + operations
        self._random.seed(seed)

    def erase(self, offset: int) -> bool:
        """Erases the sector at `offset`; False if there is none.

        Raises:
            PowerFailed: Some of it is erased, some is not, some is neither.
        """
        size = self._shape.erase_bytes
        if offset % size != 0 or not 0 <= offset < self._shape.bytes:
            return False
        if self._next():
            self._tear(offset, size, b"\xff" * size)
        self._bytes[offset : offset + size] = b"\xff" * size
        return True

    def program(self, offset: int, data: bytes) -> bool:
        """Programs units one after the other; False if the range is none, or stops at one that is not erased.

        Raises:
            PowerFailed: The last unit that was begun holds anything.
        """
        unit = self._shape.program_bytes
        if offset % unit != 0 or len(data) % unit != 0 or not 0 <= offset <= self._shape.bytes - len(data):
            return False
        for at in range(0, len(data), unit):
            place = slice(offset + at, offset + at + unit)
            if self._bytes[place] != b"\xff" * unit:
                return False
            if self._next():
                self._tear(place.start, unit, data[at : at + unit])
            self._bytes[place] = data[at : at + unit]
        return True

    def _next(self) -> bool:
        """Counts an operation; whether the power fails in it."""
        self.operations += 1
        return self.operations == self._fails_at

    def _tear(self, offset: int, size: int, wanted: bytes) -> None:
        """Each byte is as before, as wanted, or neither; in some failures all are of one kind."""
        kind = self._random.randrange(4)
        for i in range(size):
            pick = kind if kind < 3 else self._random.randrange(3)
            if pick == 1:
                self._bytes[offset + i] = wanted[i]
            elif pick == 2:
                self._bytes[offset + i] = self._random.randrange(256)
        raise PowerFailed

    def close(self) -> None:
        """Writes the file out."""
        self._bytes.flush()


def _open(path: Path, size: int, first: bytes) -> mmap.mmap:
    try:
        if not path.exists():
            path.write_bytes(first)
        length = path.stat().st_size
        if length < size:
            raise BadInput(f"{path}: {length:,} bytes, but the board's storage has {size:,}: is it another board's?")
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise BadFile(f"{path}: cannot be opened as storage ({error.strerror or error})") from error
