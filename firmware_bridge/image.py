"""Firmware images: ELF files read into what a board's memories hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.firmware_bridge.board import Board
from edge.runtime.errors import BadFile

ERASED = 0xFF


@dataclass(frozen=True)
class Image:
    """What is written to a board.

    Attributes:
        code: The bytes of flash from its start on.
        storage: The bytes of storage from its start on; b"" if the image leaves it alone.
    """

    code: bytes
    storage: bytes


def read_image(board: Board, path: str | Path) -> Image:
    """Reads an ELF file, or a .bin as `edge firmware build` writes it.

    Raises:
        BadFile: It cannot be read, is damaged, is for another processor, or has bytes outside of the board's flash.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path}: cannot be read ({error.strerror or error})") from error
    if data[:4] == b"\x7fELF":
        return _read_elf(board, path)
    if path.suffix != ".bin" or not data:
        raise BadFile(f"{path}: is neither an ELF file nor a .bin")
    code = board.code.bytes
    if len(data) > board.flash.bytes:
        raise BadFile(f"{path}: {len(data):,} bytes; the flash of {board.name} has {board.flash.bytes:,}")
    return Image(data[:code], data[code:] if board.code.end == board.storage.origin else b"")


def _read_elf(board: Board, path: Path) -> Image:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    from edge.firmware_bridge.cpu import CPUS

    code = bytearray()
    storage = bytearray()
    machine = {"arm": "EM_ARM", "riscv": "EM_RISCV"}[CPUS[board.cpu].arch]
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != machine or elf.elfclass != 32 or not elf.little_endian:
                raise BadFile(f"{path}: is for another processor than {board.name}'s {board.cpu}")
            pieces = []
            for part in elf.iter_segments():
                if part["p_type"] != "PT_LOAD" or part["p_filesz"] == 0:
                    continue
                pieces.append((int(part["p_paddr"]), bytes(part.data())))
                if len(pieces[-1][1]) != part["p_filesz"]:
                    raise BadFile(f"{path}: is cut off")
    except (ELFError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise BadFile(f"{path}: is damaged ({error})") from error
    for address, piece in pieces:
        for region, into in ((board.storage, storage), (board.code, code)):
            if region.holds(address, len(piece)):
                start = address - region.origin
                into.extend(bytes([ERASED]) * (start + len(piece) - len(into)))
                into[start : start + len(piece)] = piece
                break
        else:
            raise BadFile(f"{path}: has {len(piece):,} bytes at {address:#x}, where {board.name} has no flash")
    if not code:
        raise BadFile(f"{path}: has no code for {board.name}")
    return Image(bytes(code), bytes(storage))


def first_storage(board: Board, image: Image) -> bytes:
    """What the whole storage holds after the image was written: erased where the image says nothing."""
    return image.storage + bytes([ERASED]) * (board.storage.bytes - len(image.storage))
