"""The microcontrollers' kernels: the scalar ones' bits over random cases on every board; pinned instruction counts."""

from __future__ import annotations

import json
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
PINNED = json.loads(firmware_kernels.RESULTS.read_text())
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


def pinned(board: str, compiler: str) -> dict[str, dict[str, object]]:
    return {r["case"]: r for r in PINNED["figures"] if (r["board"], r["toolchain"]) == (board, compiler)}


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", ["mps2-an386", "lm3s6965evb", "microbit", "riscv32-virt"])
def test_instruction_counts_are_those_on_record(name: str, compiler: str, tmp_path: Path) -> None:
    """To the instruction, with the compiler of the record; the results are the oracle's."""
    compiled = toolchain(compiler, find_board(name))
    records = pinned(name, compiler)
    for case in firmware_kernels.cases():
        if case.name not in records or not (case.kind or "5x5" in case.name):
            continue
        taken = firmware_kernels.measure(case, name, compiler, tmp_path)
        if compiled.cpu.arch == "arm" and compiled.version == PINNED["toolchains"][compiler]:
            assert taken == records[case.name]["instructions"], case.name
        else:
            assert taken <= 1.05 * records[case.name]["instructions"], case.name  # type: ignore[operator]


def test_the_record_keeps_what_the_kernels_must_reach() -> None:
    """Against CMSIS-NN's int8 kernels of the same shapes; weights take at most a quarter of int8's bytes."""
    compared = [record for record in PINNED["figures"] if "must" in record]
    assert len({(r["target"], r["case"], r["toolchain"]) for r in compared}) >= 14
    for record in compared:
        assert record["times fewer"] >= record["must"], record
        outputs = {"linear 256 256": 256, "linear 1024 128": 128}.get(record["case"], 32)
        depth = {"linear 256 256": 256, "linear 1024 128": 1024}.get(record["case"], 288)
        assert 4 * record["weight bytes"] <= outputs * depth
