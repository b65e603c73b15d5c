"""The .pte programs that several tests of the core read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import made_once, source_hash

RUNNABLE = ("mlp", "cnn", "cct", "kinds", "lists", "zoo", "constant", "counter", "unplanned", "inline", "dynamic")
"""Samples that the core runs."""

SCRIPTS = [Path(__file__).with_name(name) for name in ("pte_samples.py", "pte_handmade.py")]


def program_folder() -> Path:
    """The folder of all programs of pte_samples.py and pte_handmade.py, exported the first time."""

    def make(folder: Path) -> None:
        for script in SCRIPTS:
            result = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]

    return made_once("pte-samples", source_hash(*(f"tests/runtime/{script.name}" for script in SCRIPTS)), make)
