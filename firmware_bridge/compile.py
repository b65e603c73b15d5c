"""From C files to an ELF file for a board: which files, which options, which memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from edge.firmware_bridge.board import Board
from edge.firmware_bridge.toolchain import Source, Toolchain, digest
from edge.runtime.cache import cache_dir
from edge.runtime.whole_file import whole_file

FIRMWARE = Path(__file__).parent / "firmware"
_COLD = ("-Os",)
_START = {"arm": "start/cortex_m.c", "riscv": "start/riscv32.c"}


def board_config(board: Board) -> str:
    """The C header `board_config.h` of a board."""
    numbers = {
        "EDGE_STORAGE_ORIGIN": board.storage.origin,
        "EDGE_STORAGE_BYTES": board.storage.bytes,
        "EDGE_STORAGE_ERASE_BYTES": board.storage.erase_bytes,
        "EDGE_STORAGE_PROGRAM_BYTES": board.storage.program_bytes,
        "EDGE_STACK_BYTES": board.stack_bytes,
        "EDGE_RAM_BYTES": board.ram.bytes,
        "EDGE_UART_BASE": board.uart.base,
        "EDGE_UART_IRQ": board.uart.irq,
    }
    lines = [f'#define EDGE_BOARD_NAME "{board.name}"', f'#define EDGE_BOARD_TARGET "{board.target}"']
    lines += [f"#define {name} {value:#x}u" for name, value in numbers.items()]
    return "\n".join(("#ifndef EDGE_BOARD_CONFIG_H", "#define EDGE_BOARD_CONFIG_H", *lines, "#endif", ""))


def linker_script(board: Board) -> str:
    """The linker script of a board: firmware/link.ld.in with its memories."""
    text = (FIRMWARE / "link.ld.in").read_text(encoding="utf-8")
    for name, value in {
        "FLASH_ORIGIN": board.flash.origin,
        "CODE_BYTES": board.code.bytes,
        "RAM_ORIGIN": board.ram.origin,
        "RAM_BYTES": board.ram.bytes,
        "STORAGE_ORIGIN": board.storage.origin,
        "STORAGE_BYTES": board.storage.bytes,
        "STACK_BYTES": board.stack_bytes,
    }.items():
        text = text.replace(f"@{name}@", f"{value:#x}")
    return text


def board_sources(board: Board) -> list[Source]:
    """What every firmware of the board has: start-up code, C library, the board's own file."""
    files = [FIRMWARE / _START[_arch(board)], FIRMWARE / "start/memory.c", board.folder / "board.c"]
    library = [Source(FIRMWARE / "libc" / f"{name}.c", (*_COLD, "-fno-builtin")) for name in ("string", "math")]
    library.append(Source(FIRMWARE / "libc" / "stdio.c", _COLD))
    return [Source(path, _COLD) for path in files] + library


def generated(name: str, text: str) -> Path:
    """A folder of the cache that holds the file `name` with this text and nothing else."""
    folder = cache_dir() / "firmware" / "generated" / hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:32]
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(text.encode())
    return folder


def build_elf(
    board: Board,
    toolchain: Toolchain,
    sources: Sequence[Source],
    output: Path,
    *,
    include: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> None:
    """Compiles `sources` and those of the board, and links them to `output`.

    Args:
        board: Whose memory map.
        toolchain: A compiler for its CPU.
        sources: Beyond those of `board_sources`.
        output: The ELF file; its folder must exist.
        include: Folders of headers beside the firmware's.
        flags: For every source.

    Raises:
        EdgeError: It does not compile or link.
    """
    config = generated("board_config.h", board_config(board))
    folders = [FIRMWARE / "libc" / "include", FIRMWARE, config, *include]
    headers = digest([FIRMWARE, *include])
    objects = toolchain.compile([*board_sources(board), *sources], folders, flags, headers)
    script = generated("link.ld", linker_script(board)) / "link.ld"
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        toolchain.link(objects, script, temporary, [f for f in flags if f.startswith("-Wl")])
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def build_echo(board: Board, toolchain: Toolchain) -> Path:
    """The firmware of start/echo.c, which only sends back what it gets: for tests of boards and compilers.

    Returns:
        The ELF file, in the cache.
    """
    sources = [Source(FIRMWARE / "start/echo.c", _COLD)]
    made_of = (board_config(board), linker_script(board), digest([FIRMWARE, board.folder], (".h", ".c")))
    key = hashlib.sha256("\0".join((*made_of, repr(toolchain))).encode()).hexdigest()[:32]
    output = cache_dir() / "firmware" / "echo" / f"{board.name}-{toolchain.name}-{key}.elf"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        build_elf(board, toolchain, sources, output)
    return output


def _arch(board: Board) -> str:
    from edge.firmware_bridge.cpu import CPUS

    return CPUS[board.cpu].arch
