"""Boards, toolchains and emulators that a test can ask for, skipped by name where they are not installed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edge.firmware_bridge.board import Board, board_names, find_board
from edge.firmware_bridge.compile import build_echo
from edge.firmware_bridge.emulate import EmulatedBoard, start_board
from edge.firmware_bridge.toolchain import Toolchain, find_toolchain
from edge.runtime.errors import MissingDependency

RUNNABLE = [(name, emulator) for name in board_names() for emulator in find_board(name).emulators]


def toolchain(name: str, board: Board) -> Toolchain:
    """The compiler, or a skip."""
    try:
        return find_toolchain(name, board.cpu)
    except MissingDependency as error:
        pytest.skip(str(error))


def start(board: Board, image: Path, emulator: str | None = None, storage: Path | None = None) -> EmulatedBoard:
    """The running board, or a skip."""
    try:
        return start_board(board, image, emulator=emulator, storage=storage)  # type: ignore[arg-type]
    except MissingDependency as error:
        pytest.skip(str(error))


def echo(name: str, compiler: str = "zig") -> tuple[Board, Path]:
    """A board and its echo firmware."""
    board = find_board(name)
    return board, build_echo(board, toolchain(compiler, board))


def receive(board: EmulatedBoard, count: int) -> bytes:
    """So many bytes of the board, or those that came within the time."""
    got = b""
    while len(got) < count:
        more = board.read(count - len(got), 10)
        if not more:
            break
        got += more
    return got


def ask(board: EmulatedBoard, command: bytes, count: int) -> bytes:
    """The answer of firmware/start/echo.c to a letter."""
    board.write(b"\x1b" + command)
    return receive(board, count)


def ticks(board: EmulatedBoard) -> int:
    """board_ticks()."""
    return int(struct.unpack("<I", ask(board, b"t", 4))[0])
