"""The part of zip that bundles are made of: the directory of an archive, and unpacking an entry.

The standard library's reader takes more than that, and imports a megabyte of modules to do so.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from typing import Any, BinaryIO

from edge.runtime.errors import BadFile

_END = struct.Struct("<4s4H2LH")
_RECORD = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_EXTRA = struct.Struct("<2H")
LOCAL_BYTES = _LOCAL.size
_ZIP64_LOCATOR_BYTES = 20
# Of a directory's record, a name as long as the manifest allows, and the extra fields and comment of a generous tool.
_MAX_RECORD_BYTES = _RECORD.size + 100 + 1024
# Zip extra fields by which some readers take another size, or another name.
_ZIP64_ID, _UNICODE_NAME_ID = 0x0001, 0x7075
_CHUNK = 1 << 20


class ZipEntry:
    """A record of the directory, not checked yet.

    Attributes:
        name: as text, with U+FFFD for what is no ASCII.
        flags, method, crc, packed, size: as in the record; `packed` and `size` in bytes.
        mode: Unix file type of the entry, 0 if the archive does not say.
        header: where the entry's own header begins in the file.
        odd_extra: whether an extra field gives it another name or size, or is damaged.
    """

    __slots__ = ("crc", "flags", "header", "method", "mode", "name", "odd_extra", "packed", "raw_name", "size")

    def __init__(self, record: tuple[Any, ...], name: bytes, extra: bytes) -> None:
        numbers: tuple[int, ...] = record[1:]
        _, _, self.flags, self.method, _, _, self.crc, self.packed, self.size, *_, attributes, self.header = numbers
        self.raw_name = name
        self.name = name.decode("ascii", "replace")
        self.mode = stat.S_IFMT(attributes >> 16)
        self.odd_extra = _is_odd(extra)


def read_directory(file: BinaryIO, most_entries: int, most_bytes: int) -> tuple[list[ZipEntry], int]:
    """Reads the directory of an archive that its end record closes.

    Args:
        most_entries, most_bytes: what more than this is refused.

    Returns:
        The entries in the directory's order, and where the directory begins.

    Raises:
        BadFile: there is no end record, or it and the directory are not in order.
    """
    entries, length, start = _read_end(file, most_entries, most_bytes)
    file.seek(start)
    data = file.read(length)
    if len(data) < length:
        raise BadFile("not a bundle, or it is truncated: its directory ends early")
    found: list[ZipEntry] = []
    at = 0
    while at < length:
        if length - at < _RECORD.size:
            raise BadFile("not a readable bundle: its directory is damaged")
        record = _RECORD.unpack_from(data, at)
        name_bytes, extra_bytes, comment_bytes = record[10:13]
        name_at = at + _RECORD.size
        at = name_at + name_bytes + extra_bytes + comment_bytes
        if record[0] != b"PK\1\2" or at > length:
            raise BadFile("not a readable bundle: its directory is damaged")
        extra_at = name_at + name_bytes
        found.append(ZipEntry(record, data[name_at:extra_at], data[extra_at : extra_at + extra_bytes]))
    if len(found) != entries:
        raise BadFile(f"has {len(found)} entries, its end record says {entries}")
    return found, start


def contents_offset(file: BinaryIO, entry: ZipEntry) -> int:
    """Where the contents of `entry` begin, behind its own header, which must say what the directory says.

    Raises:
        BadFile: it does not.
    """
    file.seek(entry.header)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise BadFile("its header is not where the directory says")
    numbers: tuple[int, ...] = _LOCAL.unpack(header)[1:]
    _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = numbers
    own = (file.read(name_bytes), flags, method, crc, packed, size)
    if own != (entry.raw_name, entry.flags, entry.method, entry.crc, entry.packed, entry.size):
        raise BadFile("its header and the directory differ")
    return entry.header + _LOCAL.size + name_bytes + extra_bytes


def unpack(file: BinaryIO, entry: ZipEntry) -> bytes:
    """The contents of a stored or deflated entry; never holds more than the size that its record declares.

    Raises:
        BadFile: they are damaged, or not of that size.
    """
    file.seek(contents_offset(file, entry))
    data = file.read(entry.size) if entry.method == 0 else _inflate(file, entry)
    if len(data) < entry.size:
        raise BadFile(f"ends {entry.size - len(data):,} bytes early")
    if zlib.crc32(data) != entry.crc:
        raise BadFile("its checksum is wrong: the file is damaged")
    return data


def _inflate(file: BinaryIO, entry: ZipEntry) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    chunks: list[bytes] = []
    missing, left = entry.size, entry.packed
    try:
        while missing and not stream.eof:
            packed = stream.unconsumed_tail
            if not packed:
                packed = file.read(min(left, _CHUNK))
                left -= len(packed)
                if not packed:
                    break
            chunks.append(stream.decompress(packed, min(missing, _CHUNK)))
            missing -= len(chunks[-1])
    except zlib.error as error:
        raise BadFile(f"cannot be unpacked: {error}") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _read_end(file: BinaryIO, most_entries: int, most_bytes: int) -> tuple[int, int, int]:
    """Checks size and end record before a directory of whatever size it claims is read.

    Returns:
        The number of entries, and the length and offset of the directory.
    """
    size = file.seek(0, os.SEEK_END)
    if size > most_bytes:
        raise BadFile(f"{size:,} bytes; at most {most_bytes:,} are read")
    file.seek(max(0, size - _END.size))
    record = file.read(_END.size)
    if len(record) < _END.size or record[:4] != b"PK\5\6":
        raise BadFile("not a bundle, or it is truncated: no zip end record")
    _, disk, first_disk, here, entries, length, start, comment = _END.unpack(record)
    if disk or first_disk or comment or here != entries or start + length + _END.size != size:
        raise BadFile("not a bundle: its zip end record is not in order")
    if not 1 <= entries <= most_entries:
        raise BadFile(f"{entries} entries; at most {most_entries} are read")
    if length > entries * _MAX_RECORD_BYTES:
        raise BadFile(f"a directory of {length:,} bytes; at most {entries * _MAX_RECORD_BYTES:,} are read")
    # Behind a locator some readers take another directory than the one that this record names.
    file.seek(max(0, size - _END.size - _ZIP64_LOCATOR_BYTES))
    if file.read(4) == b"PK\6\7":
        raise BadFile("not a bundle: it has a zip64 end record")
    return entries, length, start


def _is_odd(extra: bytes) -> bool:
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size + length
        if kind in (_ZIP64_ID, _UNICODE_NAME_ID) or at > len(extra):
            return True
    return False
