"""What a slot image says of itself before its payload, as docs/protocol.md has it.

It is read here without the firmware bridge: who signed it is for its board to judge, and TUF says which file it is.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from edge.runtime.errors import BadFile

MANIFEST_BYTES = 320
"""Before the payload; the board's digest is over what follows."""
LONGEST_NAME, LONGEST_VERSION = 32, 16

_HEADER = struct.Struct("<8s2H7IQ32s16s16s32s16s")
_MAGIC, _FORMAT = b"EDGESLOT", 1
_WORD = re.compile(rb"([A-Za-z0-9][A-Za-z0-9._+-]*)?\0*")


@dataclass(frozen=True)
class SlotHeader:
    """The part of a slot image's manifest that decides which boards may take it.

    Attributes:
        abi: version of the programs that the board's core must run.
        sequence: boards take only higher ones than they have confirmed.
        target, board: classes of processor and board; "": any.
        name, version: of the model, as the board will tell them.
        program_bytes: of the program, with which the payload begins.
    """

    abi: int
    sequence: int
    target: str
    board: str
    name: str
    version: str
    program_bytes: int

    @classmethod
    def read(cls, image: bytes, where: str) -> SlotHeader:
        """Reads the beginning of an image.

        Raises:
            BadFile: it is none; the message begins with `where`.
        """
        if len(image) <= MANIFEST_BYTES or not image.startswith(_MAGIC):
            raise BadFile(f"{where}: no slot image (edge firmware sign makes one)")
        fields = _HEADER.unpack_from(image)
        form, abi, program, description, _, _, _, sequence = fields[1:9]
        if form != _FORMAT:
            raise BadFile(f"{where}: a slot image of format {form}; this edge knows {_FORMAT}")
        if not 0 < program <= len(image) - MANIFEST_BYTES or description > len(image):
            raise BadFile(f"{where}: a slot image that was cut short")
        target, board, name, version = (_word(value, where) for value in fields[-4:])
        return cls(abi, sequence, target, board, name, version, program)

    def program(self, image: bytes) -> bytes:
        """The program in the image."""
        return image[MANIFEST_BYTES : MANIFEST_BYTES + self.program_bytes]


def _word(value: bytes, where: str) -> str:
    if not _WORD.fullmatch(value):
        raise BadFile(f"{where}: a slot image whose target, board, name or version is none")
    return value.rstrip(b"\0").decode("ascii")
