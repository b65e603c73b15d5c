"""The firmware on emulated boards, with every operator of the core, as the protocol's tests want it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge.firmware_bridge.board import Board, find_board
from edge.firmware_bridge.compile import FIRMWARE, build_elf
from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.firmware_bridge.emulate.unicorn_board import UnicornBoard
from edge.firmware_bridge.image import read_image
from edge.firmware_bridge.monocypher_source import FLAGS, monocypher_folder
from edge.firmware_bridge.port import EmulatedPort
from edge.firmware_bridge.storage import Layout
from edge.firmware_bridge.toolchain import Source, find_toolchain
from tests.conftest import made_once, source_hash
from tests.runtime.compilers import CORE

_SOURCES = ("runtime/core/**/*.[ch]", "firmware_bridge/**/*.[chi]*", "firmware_bridge/**/*.toml")


def board(name: str = "mps2-an386") -> Board:
    """A board with a larger stack: the program's check of all operators is not cut to the model."""
    return replace(find_board(name), stack_bytes=16384)


def layout(name: str = "mps2-an386") -> Layout:
    """Of its storage."""
    shape = find_board(name).storage
    return Layout(shape.bytes, shape.erase_bytes)


def firmware(name: str = "mps2-an386") -> Path:
    """The ELF file, compiled by zig the first time."""
    made = board(name)

    def make(folder: Path) -> None:
        kernels = CORE / "kernels"
        core = [*CORE.glob("*.c"), *CORE.glob("ops/*.c"), *CORE.glob("learn/*.c"), *kernels.glob("*.c")]
        for isa in ("scalar", "micro", "armv7e_m_dsp"):
            core += (kernels / isa).glob("*.c")
        protocol = [*(FIRMWARE / "protocol").glob("*.c"), FIRMWARE / "start/main.c"]
        monocypher = monocypher_folder()
        sources = [Source(path, ("-Os",)) for path in sorted([*core, *protocol])]
        sources.append(Source(monocypher / "monocypher.c", ("-Os", *FLAGS)))
        toolchain = find_toolchain("zig", made.cpu)
        include = [CORE, FIRMWARE / "protocol", monocypher]
        flags = ("-DEDGE_NO_THREADS", "-DEDGE_BARE_METAL")
        build_elf(made, toolchain, sources, folder / "firmware.elf", include=include, flags=flags)

    return made_once(f"protocol-firmware-on-{name}", source_hash(*_SOURCES), make) / "firmware.elf"


def start(elf: Path, storage: Path | None, name: str = "mps2-an386") -> EmulatedBoard:
    """Powers a board on."""
    made = board(name)
    return UnicornBoard(made, read_image(made, elf), storage)


def port(elf: Path, storage: Path, cut: int | None = None, seed: int = 0, name: str = "mps2-an386") -> EmulatedPort:
    """The same as a port; power fails in the `cut`-th operation on storage."""
    running = start(elf, storage, name)
    if cut is not None:
        running.cut_power(after_storage_operations=cut, seed=seed)
    return EmulatedPort(f"emulated {name}", running)
