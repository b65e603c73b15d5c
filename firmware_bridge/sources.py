"""The C files of firmware, by part, and how each is compiled: small where it runs once, fast where it runs often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.firmware_bridge.board import Board
from edge.firmware_bridge.compile import FIRMWARE, board_config, generated
from edge.firmware_bridge.monocypher_source import monocypher_folder, small_source
from edge.firmware_bridge.operators import CORE, is_needed, operators_header
from edge.firmware_bridge.toolchain import COLD, HOT, Source

FLAGS = ("-DEDGE_NO_THREADS", "-DEDGE_BARE_METAL")
# Folders of runtime/core/kernels for a class of CPU; scalar kernels are always there.
_KERNELS = {
    "cortex-m0": ("armv6m",),
    "cortex-m3": ("armv7m",),
    "cortex-m4": ("armv7e_m_dsp",),
    "cortex-m7": ("armv7e_m_dsp",),
    "cortex-m33": ("armv7e_m_dsp",),
    "cortex-m55": ("helium", "armv7e_m_dsp"),
    "riscv32": ("rv32",),
}
# Where f32_gemm is more than the end of a sequence pool.
_FLOAT_PRODUCTS = {"edge::linear.out", "aten::addmm.out", "aten::bmm.out", "aten::linear.out", "aten::mm.out"}
# Of a microcontroller's kernels those whose loops are in other files, or in assembly.
_SETS_UP = {
    "f32_qd8_quantize",
    "qd8_conv2d",
    "qd8_f32_qc2w_conv2d_quantize",
    "qd8_f32_qc8w_conv2d_quantize",
    "qd8_f32_qc2w__armv7e_m_dsp",
}
_TELLS = '-DEDGE_OPERATORS_HEADER="built_operators.h"'
# Says sentences, for all others; so does table.c.
_SPEAK = ("error.c",)


@dataclass(frozen=True)
class Parts:
    """The files of firmware.

    Attributes:
        sources: Part ("core", "operators", …) to its files.
        left_out: Kernels that no operator needs: what refers to them finds NULL.
        include: Folders of headers.
    """

    sources: dict[str, list[Source]]
    left_out: list[Source]
    include: tuple[Path, ...]

    def all(self) -> list[Source]:
        """Every file."""
        return [source for part in self.sources.values() for source in part]


def core_parts(board: Board, operators: Sequence[str], learning: bool, rows: bool = True) -> Parts:
    """The core without a protocol around it.

    Args:
        board: For which.
        operators: The operators that it has.
        learning: Whether it learns.
        rows: Whether it runs row-major ternary weights, too, on the scalar kernels; else it refuses them.
    """
    kernels = CORE / "kernels"
    files = sorted((kernels / "scalar").glob("*.c"))
    for folder in (*_KERNELS[board.target], "micro"):
        files += sorted((kernels / folder).glob("*.c"))
    needed = [path for path in files if is_needed(path.stem, operators, learning)]
    table = _table(operators)
    layout = () if rows else ("-DEDGE_OWN_LAYOUT_ONLY",)
    sources = {
        "core": [_terse(path) for path in sorted(CORE.glob("*.c"))],
        "operators": [
            _terse(path, table if path.name == "table.c" else (), layout) for path in sorted((CORE / "ops").glob("*.c"))
        ],
        "kernels": [Source(path, COLD) for path in sorted(kernels.glob("*.c"))]
        + [Source(path, HOT if _runs_often(path, board, operators) else COLD) for path in needed],
    }
    return Parts(sources, [Source(path, COLD) for path in files if path not in needed], (CORE,))


def firmware_parts(board: Board, operators: Sequence[str], learning: bool, rows: bool = True) -> Parts:
    """All of it: the core, the protocol, the check of signatures; see core_parts."""
    core = core_parts(board, operators, learning, rows)
    monocypher = monocypher_folder()
    small = generated("monocypher.c", small_source((monocypher / "monocypher.c").read_text(encoding="utf-8")))
    config = (generated("board_config.h", board_config(board)),)
    protocol = [*sorted((FIRMWARE / "protocol").glob("*.c")), FIRMWARE / "start/main.c"]
    lessons = [*sorted((CORE / "learn").glob("*.c")), FIRMWARE / "protocol/lessons.c"]
    if not learning:
        lessons = [FIRMWARE / "start/no_learning.c"]
    sources = {
        **core.sources,
        "learning": [Source(path, COLD, config) for path in lessons],
        "protocol": [
            Source(path, (*COLD, _TELLS), (*config, *_table(operators)))
            if path.name == "commands.c"
            else Source(path, COLD, config)
            for path in protocol
            if path.name != "lessons.c"
        ],
        "signature": [Source(small / "monocypher.c", COLD, (FIRMWARE / "signature",))],
    }
    return Parts(sources, core.left_out, (CORE, FIRMWARE / "protocol", monocypher))


def _table(operators: Sequence[str]) -> tuple[Path]:
    return (generated("built_operators.h", operators_header(operators)),)


def _terse(path: Path, include: tuple[Path, ...] = (), flags: tuple[str, ...] = ()) -> Source:
    if path.name == "table.c":
        return Source(path, (*COLD, _TELLS), include)
    return Source(path, (*COLD, *flags) if path.name in _SPEAK else (*COLD, "-DEDGE_TERSE", *flags), include)


def _runs_often(path: Path, board: Board, operators: Sequence[str]) -> bool:
    """Whether a file holds the loop over multiplications that this CPU runs: its own kernels, and scalar ones for which
    it has none."""
    if path.parent.name != "scalar":
        return path.stem not in _SETS_UP
    kernel = path.stem.removesuffix("_gemm")
    if kernel == "f32":
        return bool(_FLOAT_PRODUCTS.intersection(operators))
    own = {
        file.stem.partition("__")[0]
        for folder in (*_KERNELS[board.target], "micro")
        for file in (CORE / "kernels" / folder).glob("*__*.c")
    }
    return kernel not in own and path.stem.endswith(("_gemm", "_conv2d", "_attention"))
