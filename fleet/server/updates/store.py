"""The store of files by their hash: bundles, programs and slot images, each whole or not there."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge.fleet.variant import MAX_VARIANT_BYTES, Blob
from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import reason

MAX_CHUNK = 1 << 20
"""Bytes that one request may ask for."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20


class BlobStore:
    """Files under `folder`, as AA/HASH where AA are the first two digits of the hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file with this hash is, or would be.

        Raises:
            BadInput: not a lower-case hexadecimal SHA-256.
        """
        if not _SHA256.fullmatch(sha256):
            raise BadInput(f"hash {sha256[:80]!r}: expected 64 hexadecimal digits")
        return self.folder / sha256[:2] / sha256

    def holds(self, blob: Blob) -> bool:
        """Whether the file of a blob is there in its length; what is in it, its hash says to whoever reads it."""
        try:
            return self.path(blob.sha256).stat().st_size == blob.length
        except OSError:
            return False

    def add(self, source: Path) -> Blob:
        """Copies a file in; one that is there already is left as it is.

        Raises:
            BadFile: the file cannot be read, is empty or too large.
            EdgeError: the store cannot be written.
        """
        try:
            size = source.stat().st_size
            if not 0 < size <= MAX_VARIANT_BYTES:
                raise BadFile(f"{source}: {size:,} bytes: expected 1 to {MAX_VARIANT_BYTES:,}")
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = source.open("rb")
        except OSError as error:
            raise BadFile(f"{source}: cannot be read: {reason(error)}") from None
        with file:
            return self._add(iter(lambda: file.read(_PIECE), b""))

    def add_bytes(self, data: bytes) -> Blob:
        """As `add`, of bytes."""
        return self._add(iter([data]))

    def _add(self, pieces: Iterator[bytes]) -> Blob:
        digest, length = hashlib.sha256(), 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix=".new-", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as out:
                    for piece in pieces:
                        digest.update(piece)
                        length += len(piece)
                        out.write(piece)
                    out.flush()
                    os.fsync(out.fileno())
                target = self.path(digest.hexdigest())
                target.parent.mkdir(exist_ok=True, mode=0o700)
                os.replace(name, target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise EdgeError(f"{self.folder}: cannot be written: {reason(error)}") from None
        return Blob(digest.hexdigest(), length)

    def read(self, sha256: str, offset: int, length: int) -> bytes | None:
        """At most `length` bytes from `offset` on; None if there is no such file, b"" behind its end.

        Raises:
            BadInput: the hash, offset or length cannot be one.
        """
        if offset < 0 or not 0 < length <= MAX_CHUNK:
            raise BadInput(f"chunk of {length} bytes at {offset}: expected 1 to {MAX_CHUNK:,} at 0 or later")
        try:
            with self.path(sha256).open("rb") as file:
                file.seek(min(offset, 1 << 40))
                return file.read(length)
        except FileNotFoundError:
            return None

    def remove(self, sha256: str) -> None:
        """Deletes a file that nothing published names any more."""
        self.path(sha256).unlink(missing_ok=True)
