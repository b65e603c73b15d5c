"""The core compiled by clang without a warning, and bit-equal to the one that this Python has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge.runtime._core import Program
from tests.conftest import CACHE, made_once, source_hash
from tests.runtime.compilers import CORE_SOURCES, STRICT, clang
from tests.runtime.programs import program_folder


@pytest.fixture(scope="module")
def run_program() -> Path:
    """run_program.c and the whole core, by clang."""
    compiler = clang()

    def make(folder: Path) -> None:
        source = Path(__file__).with_name("run_program.c")
        command = [*compiler, *STRICT, "-O2", *CORE_SOURCES, str(source), "-o", "run_program", "-lm", "-pthread"]
        caches = {f"ZIG_{kind}_CACHE_DIR": str(CACHE / "zig") for kind in ("GLOBAL", "LOCAL")}
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | caches)
        assert result.returncode == 0, result.stderr[-4000:]

    key = source_hash("runtime/core/**/*.[ch]", "tests/runtime/clang/*", "tests/runtime/compilers.py")
    return made_once("clang-core", key, make) / "run_program"


@pytest.mark.parametrize("name", ["edge_block", "edge_convolutions", "cct", "cnn", "zoo"])
def test_clang_computes_the_same_bits(name: str, run_program: Path, tmp_path: Path) -> None:
    path = program_folder() / f"{name}.pte"
    program = Program(path.read_bytes())
    random = np.random.default_rng(11)
    inputs = [
        random.normal(size=shape).astype(dtype) if dtype == "float32" else random.integers(0, 7, shape).astype(dtype)
        for dtype, shape in program.inputs
    ]
    (tmp_path / "inputs").write_bytes(b"".join(x.tobytes() for x in inputs))
    command = [run_program, path, tmp_path / "inputs", tmp_path / "outputs"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs").read_bytes() == b"".join(y.tobytes() for y in program.run(inputs))
