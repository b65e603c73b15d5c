"""The firmware on emulated boards, as the protocol's tests want it: with the operators of two small programs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edge.firmware_bridge.board import Board, find_board
from edge.firmware_bridge.compile import build_elf
from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.firmware_bridge.emulate.qemu_board import QemuBoard
from edge.firmware_bridge.emulate.unicorn_board import UnicornBoard
from edge.firmware_bridge.image import read_image
from edge.firmware_bridge.operators import operator_symbols
from edge.firmware_bridge.port import EmulatedPort
from edge.firmware_bridge.sources import FLAGS, firmware_parts
from edge.firmware_bridge.storage import Layout
from edge.firmware_bridge.toolchain import find_toolchain
from edge.runtime._core import Program
from edge.runtime.errors import MissingDependency
from tests.conftest import made_once, source_hash
from tests.runtime.programs import program_folder

PROGRAMS = ("mlp", "cnn")
"""Whose operators the firmware has."""

_SOURCES = (
    "runtime/core/**/*.[ch]",
    "firmware_bridge/**/*.[chi]*",
    "firmware_bridge/**/*.toml",
    "tests/firmware_bridge/emulated.py",
)


def board(name: str = "mps2-an386") -> Board:
    """A board with a larger stack than most models need, and storage as a small microcontroller has it."""
    found = find_board(name)
    return replace(found, stack_bytes=8192, storage=replace(found.storage, bytes=0x30000, erase_bytes=1024))


def layout(name: str = "mps2-an386") -> Layout:
    """Of its storage."""
    shape = board(name).storage
    return Layout(shape.bytes, shape.erase_bytes, shape.learned_bytes)


def firmware(name: str = "mps2-an386", toolchain: str = "zig") -> Path:
    """The ELF file, compiled the first time; skips where the toolchain is missing."""
    made = board(name)
    try:
        compiler = find_toolchain(toolchain, made.cpu)
    except MissingDependency as error:
        pytest.skip(str(error))

    def make(folder: Path) -> None:
        used = {
            op
            for name in PROGRAMS
            for op, _, _ in Program((program_folder() / f"{name}.pte").read_bytes()).instructions
        }
        operators = tuple(name for name in operator_symbols() if name in used)
        assert len(operators) == len(used)
        parts = firmware_parts(made, operators, learning=True)
        build_elf(
            made,
            compiler,
            parts.sources,
            folder / "firmware.elf",
            include=parts.include,
            flags=FLAGS,
            left_out=parts.left_out,
        )

    return made_once(f"protocol-firmware-{toolchain}-on-{name}", source_hash(*_SOURCES), make) / "firmware.elf"


def start(elf: Path, storage: Path | None, name: str = "mps2-an386") -> EmulatedBoard:
    """Powers a board on, on unicorn."""
    made = board(name)
    return UnicornBoard(made, read_image(made, elf), storage)


def start_qemu(elf: Path, storage: Path, name: str = "mps2-an386") -> EmulatedBoard:
    """The same firmware on QEMU's machine; skips where QEMU is missing."""
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("emulated boards on QEMU: qemu-system-arm is not installed")
    made = board(name)
    return QemuBoard(made, read_image(made, elf), storage)


def port(elf: Path, storage: Path, cut: int | None = None, seed: int = 0, name: str = "mps2-an386") -> EmulatedPort:
    """The same as a port; power fails in the `cut`-th operation on storage."""
    running = start(elf, storage, name)
    if cut is not None:
        running.cut_power(after_storage_operations=cut, seed=seed)
    return EmulatedPort(f"emulated {name}", running)
