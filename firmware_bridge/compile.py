"""From C files to an ELF file for a board: which files, which options, which memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edge.firmware_bridge.board import Board
from edge.firmware_bridge.cpu import CPUS
from edge.firmware_bridge.elf import defined, undefined
from edge.firmware_bridge.toolchain import COLD, Source, Toolchain, digest
from edge.runtime.cache import cache_dir
from edge.runtime.whole_file import whole_file

FIRMWARE = Path(__file__).parent / "firmware"
_START = {"arm": "start/cortex_m.c", "riscv": "start/riscv32.c"}


def board_config(board: Board) -> str:
    """The C header `board_config.h` of a board."""
    numbers = {
        "EDGE_STORAGE_ORIGIN": board.storage.origin,
        "EDGE_STORAGE_BYTES": board.storage.bytes,
        "EDGE_STORAGE_ERASE_BYTES": board.storage.erase_bytes,
        "EDGE_STORAGE_PROGRAM_BYTES": board.storage.program_bytes,
        "EDGE_STACK_BYTES": board.stack_bytes,
        "EDGE_STORAGE_LEARNED_BYTES": board.storage.learned_bytes,
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


def board_parts(board: Board) -> dict[str, list[Source]]:
    """What every firmware of the board has: start-up code and the board's own file; a C library."""
    config = (generated("board_config.h", board_config(board)),)
    start = [FIRMWARE / _START[CPUS[board.cpu].arch], FIRMWARE / "start/memory.c", board.folder / "board.c"]
    plain = (*COLD, "-fno-builtin")
    return {
        "board": [Source(path, COLD, config) for path in start],
        "C library": [
            Source(FIRMWARE / "libc" / "string.c", plain),
            Source(FIRMWARE / "libc" / "math.c", plain),
            Source(FIRMWARE / "libc" / "divide.c", COLD),
            Source(FIRMWARE / "libc" / "stdio.c", COLD),
        ],
    }


def generated(name: str, content: str | bytes) -> Path:
    """A folder of the cache that holds the file `name` with this content and nothing else."""
    data = content.encode() if isinstance(content, str) else content
    folder = cache_dir() / "firmware" / "generated" / hashlib.sha256(name.encode() + b"\0" + data).hexdigest()[:32]
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(data)
    return folder


def build_elf(
    board: Board,
    toolchain: Toolchain,
    parts: Mapping[str, Sequence[Source]] | Sequence[Source],
    output: Path,
    *,
    include: Sequence[Path] = (),
    flags: Sequence[str] = (),
    left_out: Sequence[Source] = (),
) -> dict[str, list[Path]]:
    """Compiles `parts` and those of the board, and links them to `output`.

    Args:
        board: Whose memory map.
        toolchain: A compiler for its CPU.
        parts: Beyond those of `board_parts`; files without parts are given the board's header.
        output: The ELF file; its folder must exist.
        include: Folders of headers beside the firmware's.
        flags: For every source.
        left_out: Files that are not linked. What they define is NULL to tables of kernels; where anything else calls
            it, the file is linked all the same.

    Returns:
        Part to its object files.

    Raises:
        EdgeError: It does not compile or link.
    """
    folders = [FIRMWARE / "libc" / "include", FIRMWARE, *include]
    headers = digest([FIRMWARE, *include])
    if not isinstance(parts, Mapping):
        config = generated("board_config.h", board_config(board))
        parts = {"kernels": [replace(source, include=(*source.include, config)) for source in parts]}
    every = {**board_parts(board), **parts}
    named = [(part, source) for part, sources in every.items() for source in sources]
    paths = toolchain.compile([source for _, source in named] + list(left_out), folders, flags, headers)
    objects: dict[str, list[Path]] = {part: [] for part in every}
    for (part, _), path in zip(named, paths, strict=False):
        objects[part].append(path)
    absent = _absent(objects, paths[len(named) :])
    if absent:
        text = "".join(f'__asm__(".globl {name}\\n.set {name}, 0");\n' for name in sorted(absent))
        source = generated("absent_kernels.c", text) / "absent_kernels.c"
        objects["kernels"] += toolchain.compile([Source(source, COLD)], folders, flags, headers)
    script = generated("link.ld", linker_script(board)) / "link.ld"
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        toolchain.link([path for part in objects.values() for path in part], script, temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return objects


def _absent(objects: dict[str, list[Path]], left_out: Sequence[Path]) -> set[str]:
    """The symbols that only tables of kernels refer to; files that others call are added to the part "kernels"."""
    waiting = list(left_out)
    wanted: set[str] = set()
    for path in (path for part in objects.values() for path in part):
        if not any(name.startswith("edge_kernels_") for name in defined(path)):
            wanted |= undefined(path)
    while called := [path for path in waiting if defined(path) & wanted]:
        for path in called:
            waiting.remove(path)
            objects["kernels"].append(path)
            wanted |= undefined(path)
    return {name for path in waiting for name in defined(path)}


def build_echo(board: Board, toolchain: Toolchain) -> Path:
    """The firmware of start/echo.c, which only sends back what it gets: for tests of boards and compilers.

    Returns:
        The ELF file, in the cache.
    """
    config = (generated("board_config.h", board_config(board)),)
    parts = {"echo": [Source(FIRMWARE / "start/echo.c", COLD, config)]}
    made_of = (board_config(board), linker_script(board), digest([FIRMWARE, board.folder], (".h", ".c")))
    key = hashlib.sha256("\0".join((*made_of, repr(toolchain))).encode()).hexdigest()[:32]
    output = cache_dir() / "firmware" / "echo" / f"{board.name}-{toolchain.name}-{key}.elf"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        build_elf(board, toolchain, parts, output)
    return output
