"""The AVX-VNNI kernels on CPUs that lack AVX-VNNI.

vpdpbusd has two encodings. Built with EDGE_AVXVNNI_EVEX the same source has AVX-512's, which a CPU with AVX-512 VNNI
runs; what is shipped is looked at instruction by instruction.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge.runtime._core import CoreError, Program, isas
from tests.conftest import made_once, source_hash
from tests.runtime.compilers import CORE, CORE_SOURCES, STRICT, c_compiler
from tests.runtime.kernels.harness import INTEGER_GEMMS, built, compared
from tests.runtime.programs import program_folder

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-VNNI: this is no x86-64")

EVEX = "-DEDGE_AVXVNNI_EVEX"
RUN_PROGRAM = Path(__file__).parent / "clang" / "run_program.c"

needs_avx512vnni = pytest.mark.skipif(
    "avx512vnni" not in isas(), reason="AVX-VNNI's kernels in AVX-512's encoding: this CPU has no AVX-512 VNNI"
)


@needs_avx512vnni
def test_the_kernels_match_scalar() -> None:
    counts = compared([built("evex", [c_compiler()], "-O2", EVEX)], 6, 200, "avxvnni")
    assert counts.keys() == {"avxvnni"}
    assert counts["avxvnni"].keys() >= INTEGER_GEMMS | {"qd8_f32_qc8w_conv2d", "qd8_attention", "f32_layer_norm"}


@pytest.fixture(scope="module")
def run_program() -> Path:
    """run_program.c and the whole core, with the kernels in AVX-512's encoding."""

    def make(folder: Path) -> None:
        command = [c_compiler(), *STRICT, "-O2", EVEX, *CORE_SOURCES, str(RUN_PROGRAM), "-o", "run_program", "-lm"]
        result = subprocess.run([*command, "-pthread"], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    key = source_hash("runtime/core/**/*.[ch]", "tests/runtime/clang/*.c", "tests/runtime/compilers.py")
    return made_once("core-evex", key, make) / "run_program"


@needs_avx512vnni
@pytest.mark.parametrize("name", ["edge_block", "edge_convolutions", "cct", "cnn", "zoo"])
def test_programs_give_the_same_bits(
    name: str, run_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program_folder() / f"{name}.pte"
    monkeypatch.setenv("EDGE_ISA", "scalar")
    scalar = Program(path.read_bytes())
    random = np.random.default_rng(12)
    inputs = [
        random.normal(size=shape).astype(dtype) if dtype == "float32" else random.integers(0, 7, shape).astype(dtype)
        for dtype, shape in scalar.inputs
    ]
    (tmp_path / "inputs").write_bytes(b"".join(x.tobytes() for x in inputs))
    command = [run_program, path, tmp_path / "inputs", tmp_path / "outputs", "avxvnni"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs").read_bytes() == b"".join(y.tobytes() for y in scalar.run(inputs))


def test_what_is_shipped_has_no_instruction_of_avx512(tmp_path: Path) -> None:
    """A CPU with AVX-VNNI mostly has no AVX-512: in 64-bit code, 62 begins an EVEX instruction and no other."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("the encoding of AVX-VNNI's kernels: no objdump (Debian: apt install binutils)")
    sources = sorted((CORE / "kernels" / "avxvnni").glob("*.c"))
    assert sources
    for source in sources:
        built_from = tmp_path / f"{source.stem}.o"
        command = [c_compiler(), *STRICT, "-O3", "-c", str(source), "-o", str(built_from)]
        subprocess.run(command, check=True, env=os.environ)
        told = subprocess.run([objdump, "-d", str(built_from)], check=True, capture_output=True, text=True).stdout
        lines = re.findall(r"^ +[0-9a-f]+:\t((?:[0-9a-f]{2} )+) *\t(.+)$", told, re.M)
        dots = [code for code, text in lines if "vpdpbusd" in text]
        assert len(dots) >= 12, source
        assert all(code.startswith("c4 ") for code in dots), source
        assert not [text for code, text in lines if code.startswith("62 ") or "zmm" in text], source


def test_a_cpu_without_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if "avxvnni" in isas():
        pytest.skip("the refusal of EDGE_ISA=avxvnni: this CPU has AVX-VNNI")
    monkeypatch.setenv("EDGE_ISA", "avxvnni")
    with pytest.raises(CoreError, match="EDGE_ISA is 'avxvnni'; this machine runs .*scalar"):
        Program((program_folder() / "cnn.pte").read_bytes())
