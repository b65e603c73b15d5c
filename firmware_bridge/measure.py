"""What a program takes of a microcontroller, measured on an emulated one: memory, stack, instructions.

The figures come from the core that the firmware has, compiled for its CPU, not from this machine's, whose pointers are
wider and whose kernels want other memory.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.firmware_bridge.board import PAGE, Board, Region, Storage, board_names, find_board
from edge.firmware_bridge.compile import FIRMWARE, board_config, build_elf, generated
from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.firmware_bridge.image import Image, read_image
from edge.firmware_bridge.sources import FLAGS, core_parts
from edge.firmware_bridge.toolchain import COLD, Source, Toolchain
from edge.runtime.cache import cache_dir
from edge.runtime.errors import EdgeError, Unsupported

_MAGIC = b"EDGEMEAS"
_WORDS = struct.Struct("<8I")
# Instructions without a sign of life after which an operator counts as stuck.
_SECONDS = 300.0
_ALIGN = 16
# Where the boards have nothing: a storage for any program.
_STORAGE_ORIGIN = {"arm": 0x6000_0000, "riscv": 0xA000_0000}
_RAM_BYTES = 16 << 20
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Needs:
    """What a program takes.

    Attributes:
        total_bytes: The block that it is prepared in: the sum of the next four.
        state_bytes: Tables of values and instructions.
        arena_bytes: Activations, inputs, outputs.
        scratch_bytes: The largest operator's temporary memory.
        packed_bytes: Weights that are repacked because the program has them in another layout.
        stack_bytes: The most that checking, preparing and running it took of the stack, as painted RAM shows; None
            where the emulator cannot tell.
        instructions: Of the CPU, a run, operator by operator; empty where the emulator does not count, or where the
            program did not fit the memory of the board it was measured on.
        measured_on: The board.
    """

    total_bytes: int
    state_bytes: int
    arena_bytes: int
    scratch_bytes: int
    packed_bytes: int
    stack_bytes: int | None
    instructions: tuple[int, ...]
    measured_on: str


def reference_board(board: Board) -> Board:
    """A board with the same CPU that an emulator runs: the board itself if it is one."""
    if board.emulators:
        return board
    for name in board_names():
        other = find_board(name)
        if other.cpu == board.cpu and other.emulators:
            return other
    raise Unsupported(f"no board with a {board.cpu} is emulated, so nothing can be measured for {board.name}")


def roomy(board: Board, program_bytes: int) -> Board:
    """The board with more memory than any has, for measuring; as it is where its emulator has no choice."""
    from edge.firmware_bridge.cpu import CPUS

    if board.unicorn is None:
        return board
    size = -(-(program_bytes + _ALIGN) // PAGE) * PAGE
    arch = CPUS[board.cpu].arch
    # The code may be larger than what the board has, too: whether it fits is asked later.
    return replace(
        board,
        flash=Region(board.flash.origin, 4 << 20),
        ram=Region(0xC000_0000 if arch == "riscv" else board.ram.origin, _RAM_BYTES),
        storage=Storage(_STORAGE_ORIGIN[arch], size, erase_bytes=PAGE, program_bytes=4),
        stack_bytes=32 << 10,
    )


def measure_program(
    board: Board, toolchain: Toolchain, pte: bytes, operators: Sequence[str], rows: bool = True
) -> Needs:
    """Measures a program with the core that firmware for `board` has.

    Args:
        board: Whose CPU.
        toolchain: A compiler for it.
        pte: The program.
        operators: What the core is built with.
        rows: As core_parts takes it.

    Raises:
        Unsupported: The core refuses the program.
        MissingDependency: The emulator is not installed.
        EdgeError: The emulated core faults, or answers nothing.
    """
    if len(pte) > _LARGEST:
        raise Unsupported(f"a program of {len(pte):,} bytes is none for a microcontroller")
    reference = reference_board(board)
    there = roomy(reference, len(pte))
    elf = _build(there, toolchain, operators, rows)
    storage = struct.pack("<I12x", len(pte)) + pte
    if len(storage) > there.storage.bytes:
        raise Unsupported(f"the program's {len(pte):,} bytes are more than {there.name}'s storage")
    image = replace(read_image(there, elf), storage=storage)
    with _start(there, image) as running:
        answer = _receive(running, len(_MAGIC) + _WORDS.size)
        if answer[: len(_MAGIC)] != _MAGIC:
            why = running.faults[0] if running.faults else "no answer"
            raise EdgeError(f"the program cannot be measured on an emulated {there.name}: {why}")
        status, total, state, arena, scratch, packed, _, calls = _WORDS.unpack_from(answer, len(_MAGIC))
        if status != 0:
            text = _receive(running, 240, until=0).rstrip(b"\0").decode("ascii", "replace")
            raise Unsupported(f"the firmware's core refuses the program: {text}")
        ticks = struct.unpack(f"<{calls}I", _receive(running, 4 * calls)) if calls <= 512 else ()
        stack = running.stack_used() if there.unicorn is not None else None
    exact = ticks if there.unicorn is not None else ()
    return Needs(total, state, arena, scratch, packed, stack, tuple(exact), reference.name)


def _build(board: Board, toolchain: Toolchain, operators: Sequence[str], rows: bool) -> Path:
    parts = core_parts(board, operators, learning=False, rows=rows)
    config = (generated("board_config.h", board_config(board)),)
    measure = [Source(FIRMWARE / "start/measure.c", COLD, config)]
    folder = cache_dir() / "firmware" / "measure"
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{board.name}-{toolchain.name}.elf"
    build_elf(
        board,
        toolchain,
        {**parts.sources, "measure": measure},
        output,
        include=parts.include,
        flags=FLAGS,
        left_out=parts.left_out,
    )
    return output


def _start(board: Board, image: Image) -> EmulatedBoard:
    if board.unicorn is not None:
        from edge.firmware_bridge.emulate.unicorn_board import UnicornBoard

        return UnicornBoard(board, image, None)
    from edge.firmware_bridge.emulate.qemu_board import QemuBoard

    return QemuBoard(board, image, None)


def _receive(board: EmulatedBoard, count: int, until: int | None = None) -> bytes:
    """So many bytes, or those up to the byte `until`."""
    got = b""
    end = time.monotonic() + _SECONDS
    while len(got) < count and (until is None or until not in got):
        got += board.read(count - len(got), 0.2)
        if board.faults or not board.powered or time.monotonic() > end:
            break
    return got
