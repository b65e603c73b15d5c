"""Files by their hash, fetched chunk by chunk and resumed where it ended; whole and verified, or not there.

What carries the chunks is the caller's: MQTT (`up/blob`, `down/blob/…`) or, where the server offers it, HTTPS.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge.fleet.device.trusted_metadata import UntrustedUpdate
from edge.fleet.variant import Blob
from edge.runtime.errors import EdgeError
from edge.runtime.fields import reason

CHUNK = 48 * 1024
"""Bytes asked for at a time; a message of the fleet holds 64 KiB."""

_PIECE = 1 << 20
# What a file system keeps back for itself, and the device for everything else.
_SPARE_BYTES = 1 << 20


class Source(Protocol):
    """Chunks of what the server has; nothing that it gives is believed."""

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        """At most `length` bytes of `name` (a SHA-256, or a metadata file) from `offset` on.

        None says that there is no such file; b"" that it ends there.

        Raises:
            EdgeError: no answer came in time; the caller may try again later.
        """


class SourceMetadata:
    """TUF metadata out of a `Source`, for `TrustedModels`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def metadata(self, name: str, most: int) -> bytes | None:
        """The metadata file, or None if there is none; a little more than `most` bytes if it is longer than that."""
        data = b""
        while len(data) <= most:
            chunk = self._source.fetch(name, len(data), CHUNK)
            if chunk is None:
                return data or None
            if len(chunk) > CHUNK:
                raise UntrustedUpdate(f"{name}: the server gave {len(chunk):,} bytes where {CHUNK:,} were asked")
            data += chunk
            if len(chunk) < CHUNK:
                break
        return data


def download(
    source: Source, blob: Blob, part: Path, target: Path, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Brings `blob` to `target`; `part` keeps what has come so far, for the next attempt.

    A part that turns out to be wrong is fetched once more from its beginning: it may be what a power cut left of the
    last attempt.

    Args:
        progress: told the bytes that are there.

    Raises:
        UntrustedUpdate: the file that comes is not `blob`.
        EdgeError: the disk is full, or what `source` raises.
    """
    if holds(target, blob):
        return
    resumed = part.exists()
    while True:
        try:
            _fetch_rest(source, blob, part, progress)
        except OSError as error:
            raise EdgeError(f"{part}: cannot be written: {reason(error)}") from None
        if holds(part, blob):
            break
        part.unlink(missing_ok=True)
        if not resumed:
            raise UntrustedUpdate(f"{blob.sha256[:12]}…: the server's file does not have the hash that is signed for")
        resumed = False
    os.replace(part, target)
    sync_folder(target.parent)


def _fetch_rest(source: Source, blob: Blob, part: Path, progress: Callable[[int], None]) -> None:
    with part.open("ab") as file:
        done = file.tell()
        if done > blob.length:
            file.truncate(0)
            done = 0
        free = shutil.disk_usage(part.parent).free
        if blob.length - done + _SPARE_BYTES > free:
            raise EdgeError(f"{part.parent}: {free:,} bytes are free, the model needs {blob.length - done:,} more")
        while done < blob.length:
            wanted = min(CHUNK, blob.length - done)
            chunk = source.fetch(blob.sha256, done, wanted)
            if not chunk:
                raise UntrustedUpdate(
                    f"{blob.sha256[:12]}…: the server's file ends at {done:,} of {blob.length:,} bytes"
                )
            if len(chunk) > wanted:
                raise UntrustedUpdate(
                    f"{blob.sha256[:12]}…: the server gave {len(chunk):,} bytes where {wanted:,} were asked"
                )
            file.write(chunk)
            done += len(chunk)
            progress(done)
        file.flush()
        os.fsync(file.fileno())


def holds(path: Path, blob: Blob) -> bool:
    """Whether `path` is a file with the contents that `blob` names."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != blob.length:
                return False
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError:
        return False
    return digest.hexdigest() == blob.sha256


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
