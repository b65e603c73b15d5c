"""The microcontrollers' kernels: the scalar ones' bits over random cases on every board, and pinned instruction counts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks import firmware_kernels
from edge.firmware_bridge.board import find_board
from edge.firmware_bridge.compile import build_elf
from edge.firmware_bridge.toolchain import Source
from tests.conftest import ROOT
from tests.firmware_bridge.boards import start, toolchain

COMPARE = ROOT / "tests" / "firmware_bridge" / "kernels" / "compare.c"
ISAS = {
    "mps2-an386": "armv7e_m_dsp",
    "mps2-an500": "armv7e_m_dsp",
    "mps2-an505": "armv7e_m_dsp",
    "lm3s6965evb": "armv7m",
    "microbit": "armv6m",
    "riscv32-virt": "rv32",
    "mps3-an547": "helium",
}


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", ISAS)
def test_kernels_have_the_scalar_kernels_bits(name: str, compiler: str, tmp_path: Path) -> None:
    board = find_board(name)
    elf = tmp_path / "compare.elf"
    sources = [Source(COMPARE), *firmware_kernels.core_sources()]
    flags = ("-Os", *firmware_kernels.FLAGS[1:], *(() if board.ram.bytes < 0x40000 else ("-DMOST_K=700",)))
    build_elf(board, toolchain(compiler, board), sources, elf, include=[firmware_kernels.CORE], flags=flags)
    with start(board, elf) as running:
        told, end = b"", time.monotonic() + 240
        while not told.endswith(b"\n") and time.monotonic() < end:
            told += running.read(200, 1.0)
        assert running.faults == []
    assert told.decode() == f"ok {ISAS[name]}\n"
