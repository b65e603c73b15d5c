"""The whole core, cross-built for ARM, runs programs under emulation: the same bits as on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge.runtime._core import Program
from tests.conftest import made_once, source_hash
from tests.runtime.compilers import CORE_SOURCES, STRICT, cross_compiler, emulator
from tests.runtime.programs import program_folder

DRIVER = Path(__file__).parents[1] / "clang" / "run_program.c"


def run_program(architecture: str) -> Path:
    """run_program.c and the core by the cross compiler."""
    compiler = cross_compiler(architecture)

    def make(folder: Path) -> None:
        command = [*compiler, *STRICT, "-O2", *CORE_SOURCES, str(DRIVER), "-o", "run_program", "-lm", "-pthread"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    key = source_hash("runtime/core/**/*.[ch]", "tests/runtime/clang/*.c", "tests/runtime/compilers.py")
    return made_once(f"core-{architecture}", key, make) / "run_program"


@pytest.mark.parametrize("name", ["edge_block", "edge_convolutions", "cct", "cnn", "zoo"])
@pytest.mark.parametrize(
    ("architecture", "cpu"),
    [("aarch64", "cortex-a53"), ("aarch64", "cortex-a76"), ("aarch64", "max"), ("armv7", "cortex-a7")],
)
def test_arm_computes_the_same_bits(architecture: str, cpu: str, name: str, tmp_path: Path) -> None:
    run = [*emulator(architecture), "-cpu", cpu, run_program(architecture)]
    program = Program((program_folder() / f"{name}.pte").read_bytes())
    random = np.random.default_rng(11)
    inputs = [
        random.normal(size=shape).astype(dtype) if dtype == "float32" else random.integers(0, 7, shape).astype(dtype)
        for dtype, shape in program.inputs
    ]
    (tmp_path / "inputs").write_bytes(b"".join(x.tobytes() for x in inputs))
    command = [*run, program_folder() / f"{name}.pte", tmp_path / "inputs", tmp_path / "outputs"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs").read_bytes() == b"".join(y.tobytes() for y in program.run(inputs))
