"""Files of a data set in a folder, a zip or a tar archive, listed and read one by one; nothing is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from edge.export.reason import first_line
from edge.runtime.errors import BadFile

MAX_FILES = 4_000_000
MAX_FILE_BYTES = 256 << 20
MAX_TOTAL_BYTES = 512 << 30
# A compressed tar is unpacked to its last byte just to list it: what may come of a small one is bounded.
MAX_RATIO = 1000
RATIO_FREE_BYTES = 1 << 30
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# tarfile reads long names and attributes whole; a name has 4 kB at most.
_MAX_TAR_HEADER_BYTES = 1 << 20
_MAX_TAR_ATTRIBUTES = 1000
_CHUNK = 1 << 20

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)


class Files(Protocol):
    """A source of files. Names are relative, with forward slashes, free of "..".

    Every method raises BadFile when the source is damaged, hostile or beyond the limits of this module.
    """

    path: Path

    def names(self) -> list[str]:
        """Names of all regular files, in storage order."""

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of the files in `wanted`, in storage order."""


def open_files(path: Path) -> Files:
    """The files behind a path: a folder, or an archive known by its first bytes, not by its name.

    Raises:
        BadFile: there is nothing at `path`, or it is neither.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise BadFile(f"{path}: no such file or folder")
    if zipfile.is_zipfile(path):
        return _Zip(path)
    try:
        with _unpacked(path) as stream, tarfile.open(fileobj=_Headers(path, stream), mode="r:"):
            pass
    except _DAMAGE:
        if path.name.lower().endswith(ARCHIVES):
            raise BadFile(f"{path}: truncated, or not an archive: fetch it or pack it again") from None
        raise BadFile(f"{path}: not a folder, zip, tar or .npz: expected one with images or WAV files") from None
    return _Tar(path)


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        names = []
        for folder, folders, files in os.walk(self.path):
            folders.sort()
            for file in sorted(files):
                full = os.path.join(folder, file)
                if os.path.isfile(full):
                    names.append(Path(full).relative_to(self.path).as_posix())
            if len(names) > MAX_FILES:
                raise BadFile(f"{self.path}: more than {MAX_FILES:,} files")
        return names

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in wanted:
            try:
                with open(self.path / name, "rb") as file:
                    data = file.read(MAX_FILE_BYTES + 1)
            except OSError as error:
                raise BadFile(f"{self.path / name}: cannot be read: {error.strerror}") from None
            _check_size(self.path, name, len(data))
            yield name, data


class _Zip:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        with _damage(self.path), zipfile.ZipFile(self.path) as archive:
            return [_relative(self.path, name) for name in self._members(archive)]

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        chosen = set(wanted)
        with _damage(self.path), zipfile.ZipFile(self.path) as archive:
            for member in self._members(archive):
                name = _relative(self.path, member)
                if name in chosen:
                    info = archive.getinfo(member)
                    _check_size(self.path, name, info.file_size)
                    yield name, _inflate(archive, info)

    def _members(self, archive: zipfile.ZipFile) -> list[str]:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > MAX_FILES:
            raise BadFile(f"{self.path}: more than {MAX_FILES:,} files")
        for info in infos:
            check_method(self.path, info)
        return list(dict.fromkeys(info.filename for info in infos))


class _Tar:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}

    def names(self) -> list[str]:
        return list(self._index())

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        places = self._index()
        with _damage(self.path), _unpacked(self.path) as stream:
            for name in sorted(wanted, key=lambda name: places[name]):
                offset, size = places[name]
                _check_size(self.path, name, size)
                stream.seek(offset)
                data = stream.read(size)
                if len(data) < size:
                    raise EOFError(f"{name} ends early")
                yield name, data

    def _index(self) -> dict[str, tuple[int, int]]:
        """Offset and size of each regular file in the unpacked stream; links, devices and sparse files are left out."""
        if self._places:
            return self._places
        count = 0
        places = {}
        with (
            _damage(self.path),
            _unpacked(self.path) as stream,
            tarfile.open(fileobj=_Headers(self.path, stream), mode="r:") as archive,
        ):
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
                count += 1
                if count > MAX_FILES:
                    raise BadFile(f"{self.path}: more than {MAX_FILES:,} files")
                if member.size < 0:  # the binary form of a size has a sign
                    raise BadFile(f"{self.path}: entry {member.name[:80]!r} has a size of {member.size}")
                if len(archive.pax_headers) > _MAX_TAR_ATTRIBUTES:
                    raise BadFile(f"{self.path}: more than {_MAX_TAR_ATTRIBUTES:,} attributes for all its files")
                if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None:
                    places[_relative(self.path, member.name)] = (member.offset_data, member.size)
            # A whole archive ends in blocks of zeros; tarfile takes any end for the end.
            stream.seek(archive.offset)
            if not stream.read(1):
                raise EOFError("the file ends early")
        self._places = places
        return places


class _Headers(io.RawIOBase):
    """What tarfile reads of an unpacked stream: headers alone, of a decent size, and none beyond the total limit.

    A header may declare a name of gigabytes, or a file after which the next header is hours of unpacking away.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        packed = path.stat().st_size
        compressed = not isinstance(file, io.BufferedReader)
        self._end = min(MAX_TOTAL_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * packed)) if compressed else MAX_TOTAL_BYTES

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_TAR_HEADER_BYTES:
            raise BadFile(f"{self._path}: an entry's header is larger than {_MAX_TAR_HEADER_BYTES >> 10} kB")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._check(offset)
        return self._file.seek(offset, whence)

    def _check(self, end: int) -> None:
        if end > self._end:
            raise BadFile(f"{self._path}: more than {self._end >> 20:,} MB unpacked: unpack it into a folder")

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        magic = file.read(6)
    opener: Any = open
    if magic[:2] == b"\x1f\x8b":
        opener = gzip.open
    elif magic[:3] == b"BZh":
        opener = bz2.open
    elif magic == b"\xfd7zXZ\0":
        opener = lzma.open
    with opener(path, "rb") as stream:
        yield stream


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Names the archive in whatever its reader stumbles over."""
    try:
        yield
    except _DAMAGE as error:
        raise BadFile(f"{path}: damaged archive: {first_line(error)}") from None


def _relative(path: Path, name: str) -> str:
    clean = name.replace("\\", "/")
    parts = [part for part in clean.split("/") if part not in ("", ".")]
    if clean.startswith("/") or ".." in parts or "\0" in clean or (parts and parts[0].endswith(":")) or not parts:
        raise BadFile(f"{path}: entry {name[:80]!r} points out of the archive")
    return str(PurePosixPath(*parts))


def check_method(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuses what zipfile would unpack without bound: it reads bzip2 and LZMA a whole block or more at a time.

    Raises:
        BadFile: the entry is neither stored nor deflated.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFile(
            f"{path}: {info.filename[:80]!r} is compressed by method {info.compress_type}: zip it again by deflate"
        )


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Unpacks an entry; never holds more than its declared size. zipfile compares the CRC at the end of it."""
    chunks = []
    missing = info.file_size
    with archive.open(info) as stream:
        while missing:
            chunk = stream.read(min(missing, _CHUNK))
            if not chunk:
                raise EOFError(f"{info.filename} ends early")
            chunks.append(chunk)
            missing -= len(chunk)
    return b"".join(chunks)


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise BadFile(f"{path}: {name}: larger than {MAX_FILE_BYTES >> 20} MB")
