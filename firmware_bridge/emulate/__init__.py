"""Boards without hardware: the same image runs on a CPU that unicorn emulates, or on a machine of QEMU's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edge.firmware_bridge.board import Board, find_board
from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.firmware_bridge.image import read_image
from edge.runtime.errors import BadInput

__all__ = ["EMULATORS", "EmulatedBoard", "start_board"]

EMULATORS = ("unicorn", "qemu")


def start_board(
    board: Board | str,
    firmware: str | Path,
    *,
    storage: str | Path | None = None,
    emulator: Literal["unicorn", "qemu"] | None = None,
) -> EmulatedBoard:
    """Powers an emulated board on.

    Args:
        board: A board, or its name.
        firmware: The ELF file or .bin that its flash holds.
        storage: A file with what its storage holds. Where there is none yet, it is made from the firmware's file; where
            there is one, it wins over that. None: the storage is forgotten at the end.
        emulator: None: the first of the board's.

    Returns:
        The running board, which is also its serial port. Use it as a context manager.

    Raises:
        BadInput: There is no such board, the emulator does not have it, or `storage` is of another size.
        BadFile: The firmware's file is damaged or for another board.
        MissingDependency: The emulator is not installed.
    """
    board = find_board(board) if isinstance(board, str) else board
    if emulator is not None and emulator not in EMULATORS:
        raise BadInput(f'there is no emulator "{emulator}": choose one of {", ".join(EMULATORS)}')
    if not board.emulators:
        raise BadInput(f"{board.name} has no emulator: its firmware is built, and runs on the board itself")
    chosen = emulator or board.emulators[0]
    if chosen not in board.emulators:
        raise BadInput(f"{chosen} has no {board.cpu} board: {board.name} runs on {', '.join(board.emulators)}")
    image = read_image(board, firmware)
    file = None if storage is None else Path(storage)
    if chosen == "unicorn":
        from edge.firmware_bridge.emulate.unicorn_board import UnicornBoard

        return UnicornBoard(board, image, file)
    from edge.firmware_bridge.emulate.qemu_board import QemuBoard

    return QemuBoard(board, image, file)
