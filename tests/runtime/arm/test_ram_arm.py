"""Models that microcontrollers are to run fit them: what the core asks for on a 32-bit machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ram
from tests.conftest import ROOT, made_once, source_hash


@pytest.fixture(scope="module")
def figures() -> list[dict[str, Any]]:
    """What benchmarks/ram.py says of these sources."""
    pytest.importorskip("executorch", reason="memory of 32-bit machines: executorch is not installed")
    if lacking := ram.missing():
        pytest.skip(f"memory of 32-bit machines: no {lacking} (Debian: apt install gcc-arm-linux-gnueabihf qemu-user)")

    def make(folder: Path) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "ram.py"), "--out", str(folder / "figures.json")]
        subprocess.run(command, check=True, capture_output=True)

    key = source_hash("runtime/core/**/*.[ch]", "export/**/*.py", "benchmarks/ram.py", "benchmarks/ram/*")
    return list(json.loads((made_once("ram", key, make) / "figures.json").read_text()))


def test_the_models_fit(figures: list[dict[str, Any]]) -> None:
    assert {one["model"] for one in figures} == ram.MODELS.keys()
    for one in figures:
        assert one["total"] == one["state"] + one["arena"] + one["scratch"] and one["packed"] == 0
        assert one["total"] <= one["most RAM"], one
        assert one["pte"] <= one["most flash"], one
