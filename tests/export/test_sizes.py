"""The sizes that the project promises: CCT-7/3x1 at 1.58 bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, made_once, source_hash

pytest.importorskip("executorch", reason="executorch is not installed")
pytest.importorskip("litert_torch", reason="litert-torch is not installed")


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """What benchmarks/sizes.py says of cct_7_3x1; lowering it takes a minute, so it is kept."""

    def make(folder: Path) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "sizes.py"), "--models", "cct_7_3x1", "--out", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)

    sources = ("export/ops.py", "export/lower/*.py", "export/models/*.py", "export/quantize/*.py")
    key = source_hash(*sources, "benchmarks/sizes.py")
    folder = made_once("sizes", key, make)
    table: dict[str, dict[str, int]] = json.loads((folder / "sizes.json").read_text())
    return table["cct_7_3x1"]


def test_pte(sizes: dict[str, int]) -> None:
    assert sizes["1.58-bit .pte"] <= 1_400_000
    assert sizes["float .pte"] > 10 * sizes["1.58-bit .pte"]


def test_tflite(sizes: dict[str, int]) -> None:
    assert sizes["INT2 .tflite"] <= 1_600_000


def test_onnx(sizes: dict[str, int]) -> None:
    assert sizes["2-bit .onnx"] <= 1_600_000
