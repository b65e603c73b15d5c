"""Bundles: `name.edge`, a zip of a manifest and the model in each engine's format. Nothing in one is trusted.

A bundle is a strict subset of zip, so that every reader sees the same files: the end record closes the file (no
comment, no zip64), nothing lies before, between or after the entries, each says of itself what the directory says,
entries are plain files without folders, stored or deflated, and each is listed in the manifest with its size and
SHA-256.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import reason
from edge.runtime.file_bytes import give_back, map_file, sha256
from edge.runtime.manifest import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    check_file_name,
)
from edge.runtime.zip_directory import LOCAL_BYTES, ZipEntry, contents_offset, read_directory, unpack

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_NAME = "manifest.json"
MAX_BUNDLE_BYTES = 1 << 31

# Weights hardly compress and JSON by ten; deflate itself stops at 1,032.
MAX_RATIO = 200
_RATIO_FREE_BYTES = 1 << 20

# Programs lie at a multiple of this in the file, so that they can be mapped and their tensors read in place.
ALIGNMENT = 64
_STORED_SUFFIXES = (".pte", ".tflite", ".onnx")

# Zip extra field of Android's zipalign: an alignment and as many zeros as it takes.
_ALIGN_ID = 0xD935
_ALIGN_EXTRA_BYTES = 6
_CHUNK = 1 << 20


class Bundle:
    """An open bundle whose manifest and directory have been checked; the files' hashes are checked as they are read.

    For one thread at a time, and for a `with` block. Bytes that `read` or `view` gave stay valid after `close`.
    """

    def __init__(self, path: str, file: BinaryIO, entries: Mapping[str, ZipEntry], manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._file = file
        self._entries = entries

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Opens a bundle for reading and checks everything but the files' contents.

        Raises:
            BadFile: no such file, not a bundle, or one that breaks a rule of docs/manifest.md.
        """
        place = os.fspath(path)
        try:
            file = open(place, "rb")  # noqa: SIM115  (closed with the bundle)
        except FileNotFoundError:
            raise BadFile(f"{place}: no such file") from None
        except (OSError, ValueError) as error:
            raise BadFile(f"{place}: cannot be opened: {reason(error)}") from None
        try:
            entries, start = read_directory(file, MAX_FILES + 1, MAX_BUNDLE_BYTES)
            _check_directory(entries)
            _check_layout(file, entries, start)
            named = {entry.name: entry for entry in entries}
            manifest = Manifest.from_json(_unpacked(file, named[MANIFEST_NAME]))
            _check_listing(named, manifest)
        except BadFile as error:
            file.close()
            raise BadFile(f"{place}: {error}") from None
        except OSError as error:
            file.close()
            raise BadFile(f"{place}: not a readable bundle: {reason(error)}") from None
        except BaseException:
            file.close()
            raise
        return cls(place, file, named, manifest)

    def read(self, name: str) -> bytes:
        """Contents of the file `name`.

        Raises:
            BadInput: the bundle has no such file.
            BadFile: the contents are damaged or do not have the manifest's SHA-256.
        """
        entry = self._entry(name)
        try:
            data = _unpacked(self._file, self._entries[name])
        except BadFile as error:
            raise BadFile(f"{self.path}: {error}") from None
        except (OSError, ValueError) as error:
            raise BadFile(f"{self.path}: {name}: cannot be unpacked: {reason(error)}") from None
        self._check_hash(name, data, entry)
        return data

    def view(self, name: str) -> memoryview | bytes:
        """Like `read`, but an aligned, uncompressed file is mapped, not copied; the view keeps the mapping alive."""
        entry = self._entry(name)
        stored = self._entries[name]
        if stored.method != 0 or stored.size == 0:
            return self.read(name)
        try:
            start = contents_offset(self._file, stored)
            if start % ALIGNMENT:
                return self.read(name)
            data = map_file(self._file, start, stored.size)
        except BadFile as error:
            raise BadFile(f"{self.path}: {name}: {error}") from None
        except (OSError, ValueError) as error:
            raise BadFile(f"{self.path}: {name}: cannot be mapped: {reason(error)}") from None
        self._check_hash(name, data, entry)
        give_back(data)
        return data

    def verify(self) -> None:
        """Checks the contents of every file against the manifest's SHA-256.

        Raises:
            BadFile: as `read`, of the first that is damaged.
        """
        for name in self.manifest.files:
            self.view(name)

    def extract(self, name: str) -> Path:
        """Writes a file to the cache, for engines that read only from disk, and returns its path.

        The path depends on the contents alone; a copy that is already there is used if it is whole.

        Raises:
            EdgeError: the cache cannot be written; otherwise as `read`.
        """
        from edge.runtime.cache import cache_dir
        from edge.runtime.whole_file import whole_file

        entry = self._entry(name)
        folder = cache_dir() / "files" / entry.sha256
        target = folder / name
        if _holds(target, entry):
            return target
        data = self.read(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeError(
                f"{folder}: cannot be made ({reason(error)}): set EDGE_CACHE to a folder that is writable"
            ) from None
        with whole_file(target) as file:
            file.write(data)
        return target

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BadInput(f"{self.path}: has no file {name!r}; it has {', '.join(self.manifest.files)}")
        return entry

    def _check_hash(self, name: str, data: bytes | memoryview, entry: FileEntry) -> None:
        found = sha256(data)
        if found != entry.sha256:
            raise BadFile(
                f"{self.path}: {name}: its SHA-256 is {found[:12]}..., the manifest says {entry.sha256[:12]}...: "
                "the file is damaged or was changed; fetch it again"
            )


def file_entry(
    data: bytes | os.PathLike[str],
    engines: Iterable[str] = (),
    *,
    arena_bytes: int | None = None,
    macs: int | None = None,
    ops: Mapping[str, int] | None = None,
) -> FileEntry:
    """The manifest's record of a file, given as bytes or as a path."""
    content = _content(data)
    digest = sha256(content)
    return FileEntry(tuple(engines), digest, len(content), arena_bytes, macs, dict(ops or {}))


def write_bundle(
    path: str | os.PathLike[str], manifest: Manifest, files: Mapping[str, bytes | os.PathLike[str]]
) -> None:
    """Writes a bundle, whole or not at all; the same arguments give the same bytes.

    Args:
        manifest: its `files` list exactly `files`, with their sizes and hashes (see `file_entry`).
        files: contents by name; models are stored uncompressed at a multiple of 64 bytes.

    Raises:
        BadInput: the manifest is not valid, or does not describe `files`.
        EdgeError: the disk is full or the folder cannot be written.
    """
    import zipfile
    import zlib

    from edge.runtime.whole_file import whole_file

    described = manifest.to_json().encode()
    if set(files) != set(manifest.files):
        odd = sorted(set(files) ^ set(manifest.files))
        raise BadInput(f"{path}: given and listed in the manifest differ: {', '.join(odd[:3])}")
    contents = {name: _content(data) for name, data in files.items()}
    for name, data in contents.items():
        entry = manifest.files[name]
        if len(data) != entry.bytes or sha256(data) != entry.sha256:
            raise BadInput(f"{path}: {name} is not the file that the manifest describes")
    if sum(map(len, contents.values())) + len(described) > MAX_BUNDLE_BYTES - _CHUNK:
        raise BadInput(f"{path}: larger than {MAX_BUNDLE_BYTES >> 20} MiB")
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in {MANIFEST_NAME: described, **contents}.items():
            info = zipfile.ZipInfo(name)  # dated 1980-01-01: a bundle's bytes depend on its contents alone
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            if name.endswith(_STORED_SUFFIXES):
                info.extra = _padding(file.tell() + LOCAL_BYTES + len(name))
            elif len(data) <= _RATIO_FREE_BYTES or len(zlib.compress(data)) * MAX_RATIO >= len(data):
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)


def _content(data: bytes | os.PathLike[str]) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        with open(data, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadFile(f"{os.fspath(data)}: cannot be read: {reason(error)}") from None


def _padding(offset: int) -> bytes:
    """An extra field that moves data which would begin at `offset` to the next multiple of the alignment."""
    import struct

    zeros = -(offset + _ALIGN_EXTRA_BYTES) % ALIGNMENT
    return struct.pack("<HHH", _ALIGN_ID, 2 + zeros, ALIGNMENT) + bytes(zeros)


def _check_directory(entries: list[ZipEntry]) -> None:
    """Checks each entry before any is unpacked."""
    seen: set[str] = set()
    for entry in entries:
        name = entry.name
        problem = None if name == MANIFEST_NAME else check_file_name(name)
        limit = MAX_MANIFEST_BYTES if name == MANIFEST_NAME else MAX_FILE_BYTES
        if problem is None and name.lower() in seen:
            problem = "occurs twice"
        if problem is None and entry.odd_extra:
            problem = "has an extra field that is damaged, or names another size or name"
        if problem is None and entry.flags & ~0x0806:  # not: UTF-8 name, deflate's speed
            problem = "is encrypted, or uses a zip feature that a bundle does not"
        if problem is None and entry.mode not in (0, stat.S_IFREG):
            problem = "is a link or a special file"
        if problem is None and entry.method not in (0, 8):
            problem = f"has compression method {entry.method}: expected stored or deflated"
        if problem is None and entry.size > limit:
            problem = f"unpacks to {entry.size:,} bytes; at most {limit:,} are read"
        if problem is None and entry.method == 0 and entry.packed != entry.size:
            problem = "is stored, yet has two sizes"
        if problem is None and entry.size > max(_RATIO_FREE_BYTES, entry.packed * MAX_RATIO):
            problem = f"unpacks to more than {MAX_RATIO} times its size"
        if problem:
            raise BadFile(f"entry {name[:120]!r}: {problem}")
        seen.add(name.lower())
    if MANIFEST_NAME not in seen:
        raise BadFile(f"has no {MANIFEST_NAME}: not a bundle")


def _check_layout(file: BinaryIO, entries: list[ZipEntry], directory: int) -> None:
    """Checks that the entries lie one behind the other from byte 0 to the directory, and agree with it."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        try:
            if entry.header < end:
                raise BadFile("overlaps another entry")
            if entry.header > end:
                raise BadFile(f"has {entry.header - end:,} unused bytes before it")
            end = contents_offset(file, entry) + entry.packed
        except BadFile as error:
            raise BadFile(f"entry {entry.name!r}: {error}") from None
    if end != directory:
        raise BadFile(f"its entries end at byte {end:,}, its directory begins at {directory:,}")


def _check_listing(entries: Mapping[str, ZipEntry], manifest: Manifest) -> None:
    held = {name: entry.size for name, entry in entries.items() if name != MANIFEST_NAME}
    for name, listed in manifest.files.items():
        if name not in held:
            raise BadFile(f"{name}: listed in the manifest, but not in the bundle")
        if held[name] != listed.bytes:
            raise BadFile(f"{name}: {held[name]:,} bytes in the bundle, {listed.bytes:,} in the manifest")
    extra = held.keys() - manifest.files.keys()
    if extra:
        raise BadFile(f"{min(extra)}: in the bundle, but not listed in the manifest")


def _unpacked(file: BinaryIO, entry: ZipEntry) -> bytes:
    try:
        return unpack(file, entry)
    except BadFile as error:
        raise BadFile(f"{entry.name}: {error}") from None


def _holds(path: Path, entry: FileEntry) -> bool:
    """Whether `path` is a file with the entry's contents."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != entry.bytes:
                return False
            data = map_file(file, 0, entry.bytes) if entry.bytes else b""
    except (OSError, ValueError):
        return False
    return sha256(data) == entry.sha256
