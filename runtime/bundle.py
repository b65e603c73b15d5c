"""Bundles: `name.edge`, a zip of a manifest and the model in each engine's format. Nothing in one is trusted.

A bundle is a strict subset of zip, so that every reader sees the same files: the end record closes the file (no
comment, no zip64), nothing lies before, between or after the entries, each says of itself what the directory says,
entries are plain files without folders, stored or deflated, and each is listed in the manifest with its size and
SHA-256.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from edge.runtime.cache import cache_dir
from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import reason
from edge.runtime.manifest import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    check_file_name,
)
from edge.runtime.whole_file import whole_file

if TYPE_CHECKING:
    import zipfile

MANIFEST_NAME = "manifest.json"
MAX_BUNDLE_BYTES = 1 << 31

# Weights hardly compress and JSON by ten; deflate itself stops at 1,032.
MAX_RATIO = 200
_RATIO_FREE_BYTES = 1 << 20

# Programs lie at a multiple of this in the file, so that they can be mapped and their tensors read in place.
ALIGNMENT = 64
_STORED_SUFFIXES = (".pte", ".tflite", ".onnx")

_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64_LOCATOR_BYTES = 20
# Of a directory's record, a name as long as the manifest allows, and the extra fields and comment of a generous tool.
_MAX_RECORD_BYTES = 46 + 100 + 1024
# Zip extra field of Android's zipalign: an alignment and as many zeros as it takes.
_ALIGN_EXTRA = struct.Struct("<HHH")
_ALIGN_ID = 0xD935
_CHUNK = 1 << 20


class Bundle:
    """An open bundle whose manifest and directory have been checked; the files' hashes are checked as they are read.

    For one thread at a time, and for a `with` block. Bytes that `read` or `view` gave stay valid after `close`.
    """

    def __init__(self, path: Path, file: BinaryIO, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._file = file
        self._archive = archive

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Opens a bundle for reading and checks everything but the files' contents.

        Raises:
            BadFile: no such file, not a bundle, or one that breaks a rule of docs/manifest.md.
        """
        import zipfile  # 10 ms that `import edge.runtime` need not pay

        place = Path(path)
        try:
            file = place.open("rb")
        except FileNotFoundError:
            raise BadFile(f"{place}: no such file") from None
        except (OSError, ValueError) as error:
            raise BadFile(f"{place}: cannot be opened: {reason(error)}") from None
        try:
            entries, start = _check_end(file)
            archive = zipfile.ZipFile(file)
            if len(archive.infolist()) != entries:
                raise BadFile(f"has {len(archive.infolist())} entries, its end record says {entries}")
            _check_directory(archive.infolist())
            _check_layout(file, archive.infolist(), start)
            data = _inflate(archive, archive.getinfo(MANIFEST_NAME))
            manifest = Manifest.from_json(data)
            _check_listing(archive, manifest)
        except BadFile as error:
            file.close()
            raise BadFile(f"{place}: {error}") from None
        except _zip_errors() as error:
            file.close()
            raise BadFile(f"{place}: not a readable bundle: {reason(error)}") from None
        except BaseException:
            file.close()
            raise
        return cls(place, file, archive, manifest)

    def read(self, name: str) -> bytes:
        """Contents of the file `name`.

        Raises:
            BadInput: the bundle has no such file.
            BadFile: the contents are damaged or do not have the manifest's SHA-256.
        """
        entry = self._entry(name)
        try:
            data = _inflate(self._archive, self._archive.getinfo(name))
        except BadFile as error:
            raise BadFile(f"{self.path}: {error}") from None
        except _zip_errors() as error:
            raise BadFile(f"{self.path}: {name}: cannot be unpacked: {reason(error)}") from None
        self._check_hash(name, data, entry)
        return data

    def view(self, name: str) -> memoryview | bytes:
        """Like `read`, but an aligned, uncompressed file is mapped, not copied; the view keeps the mapping alive."""
        entry = self._entry(name)
        info = self._archive.getinfo(name)
        if info.compress_type != 0 or info.file_size == 0:
            return self.read(name)
        try:
            self._file.seek(info.header_offset)
            *_, name_bytes, extra_bytes = _LOCAL.unpack(self._file.read(_LOCAL.size))
            start = info.header_offset + _LOCAL.size + name_bytes + extra_bytes
            if start % ALIGNMENT:
                return self.read(name)
            data = map_file(self._file, start, info.file_size)
        except (OSError, ValueError, struct.error) as error:
            raise BadFile(f"{self.path}: {name}: cannot be mapped: {reason(error)}") from None
        self._check_hash(name, data, entry)
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
        self._archive.close()
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
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256:
            raise BadFile(
                f"{self.path}: {name}: its SHA-256 is {found[:12]}..., the manifest says {entry.sha256[:12]}...: "
                "the file is damaged or was changed; fetch it again"
            )


def map_file(file: BinaryIO, start: int, size: int) -> memoryview:
    """Maps `size` > 0 bytes of a file for reading; the view keeps the mapping alive, also after the file is closed.

    Raises:
        OSError, ValueError: the file cannot be mapped or is shorter.
    """
    page = start - start % mmap.ALLOCATIONGRANULARITY
    mapping = mmap.mmap(file.fileno(), start - page + size, access=mmap.ACCESS_READ, offset=page)
    return memoryview(mapping)[start - page :]


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
    digest = hashlib.sha256(content).hexdigest()
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

    described = manifest.to_json().encode()
    if set(files) != set(manifest.files):
        odd = sorted(set(files) ^ set(manifest.files))
        raise BadInput(f"{path}: given and listed in the manifest differ: {', '.join(odd[:3])}")
    contents = {name: _content(data) for name, data in files.items()}
    for name, data in contents.items():
        entry = manifest.files[name]
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BadInput(f"{path}: {name} is not the file that the manifest describes")
    if sum(map(len, contents.values())) + len(described) > MAX_BUNDLE_BYTES - _CHUNK:
        raise BadInput(f"{path}: larger than {MAX_BUNDLE_BYTES >> 20} MiB")
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in {MANIFEST_NAME: described, **contents}.items():
            info = zipfile.ZipInfo(name)  # dated 1980-01-01: a bundle's bytes depend on its contents alone
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            if name.endswith(_STORED_SUFFIXES):
                info.extra = _padding(file.tell() + _LOCAL.size + len(name))
            elif len(data) <= _RATIO_FREE_BYTES or len(zlib.compress(data)) * MAX_RATIO >= len(data):
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)


def _content(data: bytes | os.PathLike[str]) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return Path(data).read_bytes()
    except OSError as error:
        raise BadFile(f"{os.fspath(data)}: cannot be read: {reason(error)}") from None


def _padding(offset: int) -> bytes:
    """An extra field that moves data which would begin at `offset` to the next multiple of the alignment."""
    zeros = -(offset + _ALIGN_EXTRA.size) % ALIGNMENT
    return _ALIGN_EXTRA.pack(_ALIGN_ID, 2 + zeros, ALIGNMENT) + bytes(zeros)


def _check_end(file: BinaryIO) -> tuple[int, int]:
    """Checks size and end record before zipfile reads a directory of whatever size the record claims.

    Returns:
        The number of entries, and where the directory starts.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BUNDLE_BYTES:
        raise BadFile(f"{size:,} bytes; at most {MAX_BUNDLE_BYTES:,} are read")
    file.seek(max(0, size - _END.size))
    record = file.read(_END.size)
    if len(record) < _END.size or record[:4] != b"PK\5\6":
        raise BadFile("not a bundle, or it is truncated: no zip end record")
    _, disk, first_disk, here, entries, length, start, comment = _END.unpack(record)
    if disk or first_disk or comment or here != entries or start + length + _END.size != size:
        raise BadFile("not a bundle: its zip end record is not in order")
    if not 1 <= entries <= MAX_FILES + 1:
        raise BadFile(f"{entries} entries; at most {MAX_FILES + 1} are read")
    if length > entries * _MAX_RECORD_BYTES:
        raise BadFile(f"a directory of {length:,} bytes; at most {entries * _MAX_RECORD_BYTES:,} are read")
    # Behind a locator zipfile takes another directory than the one that this record names.
    file.seek(max(0, size - _END.size - _ZIP64_LOCATOR_BYTES))
    if file.read(4) == b"PK\6\7":
        raise BadFile("not a bundle: it has a zip64 end record")
    return entries, start


def _check_directory(infos: list[zipfile.ZipInfo]) -> None:
    """Checks each entry before any is unpacked."""
    seen: set[str] = set()
    for info in infos:
        # `filename` ends at a NUL byte, `orig_filename` does not.
        name = info.orig_filename
        problem = None if name == MANIFEST_NAME else check_file_name(name)
        kind = stat.S_IFMT(info.external_attr >> 16)
        limit = MAX_MANIFEST_BYTES if name == MANIFEST_NAME else MAX_FILE_BYTES
        if problem is None and name.lower() in seen:
            problem = "occurs twice"
        if problem is None and info.filename != name:
            problem = "has two names"
        if problem is None and info.flag_bits & ~0x0806:  # not: UTF-8 name, deflate's speed
            problem = "is encrypted, or uses a zip feature that a bundle does not"
        if problem is None and kind not in (0, stat.S_IFREG):
            problem = "is a link or a special file"
        if problem is None and info.compress_type not in (0, 8):
            problem = f"has compression method {info.compress_type}: expected stored or deflated"
        if problem is None and info.file_size > limit:
            problem = f"unpacks to {info.file_size:,} bytes; at most {limit:,} are read"
        if problem is None and info.compress_type == 0 and info.compress_size != info.file_size:
            problem = "is stored, yet has two sizes"
        if problem is None and info.file_size > max(_RATIO_FREE_BYTES, info.compress_size * MAX_RATIO):
            problem = f"unpacks to more than {MAX_RATIO} times its size"
        if problem:
            raise BadFile(f"entry {name[:120]!r}: {problem}")
        seen.add(name.lower())
    if MANIFEST_NAME not in seen:
        raise BadFile(f"has no {MANIFEST_NAME}: not a bundle")


def _check_layout(file: BinaryIO, infos: list[zipfile.ZipInfo], directory: int) -> None:
    """Checks that the entries lie one behind the other from byte 0 to the directory, and agree with it."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        file.seek(info.header_offset)
        signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(
            file.read(_LOCAL.size)
        )
        name = file.read(name_bytes)
        problem = None
        if info.header_offset < end:
            problem = "overlaps another entry"
        elif info.header_offset > end:
            problem = f"has {info.header_offset - end:,} unused bytes before it"
        elif signature != b"PK\3\4":
            problem = "its header is not where the directory says"
        elif (name, flags, method, crc, packed, size) != (
            info.orig_filename.encode("ascii"),
            info.flag_bits,
            info.compress_type,
            info.CRC,
            info.compress_size,
            info.file_size,
        ):
            problem = "its header and the directory differ"
        if problem:
            raise BadFile(f"entry {info.filename!r}: {problem}")
        end = info.header_offset + _LOCAL.size + name_bytes + extra_bytes + info.compress_size
    if end != directory:
        raise BadFile(f"its entries end at byte {end:,}, its directory begins at {directory:,}")


def _check_listing(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    held = {info.filename: info.file_size for info in archive.infolist()}
    del held[MANIFEST_NAME]
    for name, entry in manifest.files.items():
        if name not in held:
            raise BadFile(f"{name}: listed in the manifest, but not in the bundle")
        if held[name] != entry.bytes:
            raise BadFile(f"{name}: {held[name]:,} bytes in the bundle, {entry.bytes:,} in the manifest")
    extra = held.keys() - manifest.files.keys()
    if extra:
        raise BadFile(f"{min(extra)}: in the bundle, but not listed in the manifest")


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Unpacks an entry; never holds more than its declared size, which was checked against the limits."""
    chunks: list[bytes] = []
    missing = info.file_size
    with archive.open(info) as stream:
        while missing:
            chunk = stream.read(min(missing, _CHUNK))
            if not chunk:
                raise BadFile(f"{info.filename}: ends {missing:,} bytes early")
            chunks.append(chunk)
            missing -= len(chunk)
    return b"".join(chunks)


def _holds(path: Path, entry: FileEntry) -> bool:
    """Whether `path` is a file with the entry's contents."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != entry.bytes:
                return False
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == entry.sha256


def _zip_errors() -> tuple[type[Exception], ...]:
    """What zipfile and zlib raise on damaged archives."""
    import zipfile

    return (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        OSError,
        EOFError,
        ValueError,  # includes UnicodeDecodeError
        RuntimeError,  # includes NotImplementedError; encryption
        OverflowError,
        KeyError,
    )
