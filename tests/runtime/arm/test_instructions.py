"""ARM's kernels take as many instructions as benchmarks/results/instructions.json says, and no more than they may."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import instructions
from tests.conftest import ROOT, made_once, source_hash

SLACK = 1.03
"""Of the recorded figures; the same compiler gives the same figures, libc's parts apart."""


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What benchmarks/instructions.py says of these sources."""
    if lacking := instructions.missing():
        pytest.skip(f"instruction counts: no {lacking} (Debian: apt install gcc-aarch64-linux-gnu qemu-user gcc)")

    def make(folder: Path) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "instructions.py"), "--out", str(folder / "figures.json")]
        subprocess.run(command, check=True, capture_output=True)

    key = source_hash("runtime/core/kernels/**/*.[ch]", "benchmarks/instructions.py", "benchmarks/instructions/*")
    return dict(json.loads((made_once("instructions", key, make) / "figures.json").read_text()))


def test_the_2_bit_kernels_keep_their_targets(measured: dict[str, Any]) -> None:
    figures = {
        figure["isa"]: figure["per MAC"]
        for figure in measured["figures"]
        if figure["kernel"] == "qd8_f32_qc2w" and (figure["rows"], figure["k"], figure["n"]) == (48, 256, 256)
    }
    assert figures.keys() == instructions.TARGETS.keys()
    # A dot product of fewer instructions than these is not being counted.
    floors = {"neon": 0.125, "neon_dotprod": 0.0625, "neon_i8mm": 0.03125}
    for isa, target in instructions.TARGETS.items():
        assert floors[isa] < figures[isa] <= target, isa


def test_the_recorded_figures_are_these(measured: dict[str, Any]) -> None:
    recorded = json.loads(instructions.RESULTS.read_text())
    if recorded["compiler"] != measured["compiler"]:
        pytest.skip(f"recorded instruction counts: were of {recorded['compiler']}, here is {measured['compiler']}")
    assert len(recorded["figures"]) == len(measured["figures"])
    for before, now in zip(recorded["figures"], measured["figures"], strict=True):
        unit = "per MAC" if "per MAC" in before else "per value"
        assert now | {unit: None} == before | {unit: None}
        assert before[unit] / SLACK <= now[unit] <= before[unit] * SLACK, (before, now[unit])
