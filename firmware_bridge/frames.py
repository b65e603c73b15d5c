"""Frames on the serial line, as firmware_bridge/firmware/protocol/frame.h has them: COBS, a header, a CRC-32.

docs/protocol.md describes them byte by byte; tests/firmware_bridge/vectors.json holds both sides to the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

PROTOCOL_VERSION = 1
ANSWER = 0x80
HEADER = struct.Struct("<BBHI")
CRC = struct.Struct("<I")
MAX_FRAME_BYTES = 1024 + 64
# COBS adds a byte for each 254 begun; what is longer between two zeros is noise.
_MAX_ENCODED = MAX_FRAME_BYTES + MAX_FRAME_BYTES // 254 + 2


@dataclass(frozen=True)
class Frame:
    """A request or an answer.

    Args:
        command: of a request; of an answer with `ANSWER` added.
        sequence: chosen by the host; an answer repeats it.
        body: as `edge.firmware_bridge.messages` reads and writes it.
        status: 0 in a request and where a command was done, else why it was refused.
        version: of the protocol.
    """

    command: int
    sequence: int
    body: bytes = b""
    status: int = 0
    version: int = PROTOCOL_VERSION

    @property
    def header(self) -> bytes:
        """The first 8 bytes."""
        return HEADER.pack(self.version, self.command, self.status, self.sequence)

    def encode(self) -> bytes:
        """What goes over the line: a zero, the frame in COBS, a zero."""
        from cobs import cobs

        plain = self.header + self.body
        return b"\0" + bytes(cobs.encode(plain + CRC.pack(zlib.crc32(plain)))) + b"\0"


def decode(encoded: bytes) -> Frame | None:
    """The frame between two zeros, or None if it is damaged."""
    from cobs import cobs

    if len(encoded) > _MAX_ENCODED:
        return None
    try:
        plain = bytes(cobs.decode(encoded))
    except cobs.DecodeError:
        return None
    if not HEADER.size + CRC.size <= len(plain) <= MAX_FRAME_BYTES:
        return None
    body, crc = plain[: -CRC.size], plain[-CRC.size :]
    if CRC.unpack(crc)[0] != zlib.crc32(body):
        return None
    version, command, status, sequence = HEADER.unpack_from(body)
    return Frame(command, sequence, body[HEADER.size :], status, version)


class FrameReader:
    """Takes a stream of bytes apart into frames.

    Attributes:
        damaged: pieces between zeros that were no frames.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`."""
        frames = []
        *ended, rest = data.split(b"\0")
        for piece in ended:
            self._add(piece)
            if self._begun:
                frame = decode(bytes(self._begun))
                if frame is None:
                    self.damaged += 1
                else:
                    frames.append(frame)
            self._begun.clear()
        self._add(rest)
        return frames

    def _add(self, piece: bytes) -> None:
        # One byte more than any frame has is kept, so that it is known to be too long.
        self._begun += piece[: _MAX_ENCODED + 1 - len(self._begun)]
