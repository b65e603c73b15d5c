"""benchmarks/cpu_features.py hides what the CPU has beyond AVX2 from every engine alike, and its check can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu_features
from edge.runtime import _core
from tests.conftest import ROOT

SCRIPT = str(ROOT / "benchmarks" / "cpu_features.py")

TOLD = """
import ctypes, json, os, sys
library = ctypes.CDLL(sys.argv[1])
import numpy, torch
from edge.runtime import _core
from edge.runtime.bench.machine import describe_machine
a = torch.ones(96, 96)
(a @ a).exp()
numpy.ones((96, 96)) @ numpy.ones((96, 96))
machine = describe_machine()
print(json.dumps({
    "core": _core.isas(), "torch": torch.backends.cpu.get_cpu_capability(), "used": library.avx512_in_use(),
    "cpu": machine["cpu"], "features": machine["features"],
}))
"""


@pytest.fixture(scope="module", autouse=True)
def library() -> str:
    """The compiled audit library; skips where there is nothing to hide or nothing to hide it by."""
    if lacking := cpu_features.missing():
        pytest.skip(f"hiding CPU features: this machine lacks {lacking}")
    if "avx512vnni" not in _core.isas():
        pytest.skip("hiding CPU features: this CPU has no AVX-512 VNNI")
    return cpu_features.environment("avx2")["LD_AUDIT"].rpartition(":")[2]


def _told(*before: str, library: str, **variables: str) -> dict[str, Any]:
    command = [*before, sys.executable, "-c", TOLD, library]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_engines_see_avx2_and_run_no_avx512(library: str) -> None:
    outside = _told(library=library)
    assert outside["core"][0] == "avx512vnni" and outside["torch"] == "AVX512" and outside["used"] == 1
    assert "avx512f" in outside["features"] and "AVX2" not in outside["cpu"]
    inside = _told(sys.executable, SCRIPT, "avx2", "--", library=library)
    assert inside["core"] == ["avx2", "scalar"] and inside["torch"] == "AVX2"
    assert inside["used"] == 0, "something has written a mask or a 512-bit register"
    assert inside["cpu"].endswith("as AVX2 (features above it hidden)")
    assert {"avx2", "fma"} <= set(inside["features"]) and not any("512" in name for name in inside["features"])


def test_without_the_audit_the_check_tells(library: str) -> None:
    """The C library's part alone leaves the engines their AVX-512, and the register state shows it."""
    told = _told(library=library, GLIBC_TUNABLES=cpu_features.TUNABLES)
    assert told["core"][0] == "avx512vnni" and told["used"] == 1


def test_the_addresses_are_those_of_a_whole_disassembly() -> None:
    objdump = cpu_features._objdump()
    assert objdump is not None
    for path in (_core.__file__, *_openblas()):
        command = [objdump, "-d", "--no-show-raw-insn", path]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        whole = [int(line.split(":")[0], 16) for line in lines if line.endswith("\tcpuid")]
        assert whole
        assert cpu_features.cpuid_addresses(str(path), objdump) == whole


def _openblas() -> list[Path]:
    """numpy's, whose text has the two bytes inside other instructions too."""
    return sorted(Path(sysconfig.get_paths()["platlib"]).glob("numpy.libs/*openblas*"))


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (b"", "not a 64-bit ELF file"),
        (b"\x7fELF\x01\x01" + bytes(60), "not a 64-bit ELF file"),
        (b"\x7fELF\x02\x01" + bytes(20), "where it says"),
        (b"\x7fELF\x02\x01" + bytes(58) + b"\x0f\xa2", "no section headers"),
        (b"\x7fELF\x02\x01" + bytes(34) + b"\xff" * 24, "where it says"),
        (b"\x7fELF\x02\x01" + bytes(52) + b"\0\0\1\0", "where it says"),
    ],
    ids=["empty", "32 bits", "short", "no sections", "far sections", "sections of no size"],
)
def test_what_is_no_shared_object_is_one_line(image: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(image)
    with pytest.raises(SystemExit, match=line):
        cpu_features.cpuid_addresses(str(path), "objdump")


def test_a_missing_tool_is_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CC"} | {"PATH": str(tmp_path)}
    command = [sys.executable, SCRIPT, "avx2", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "a C compiler, objdump" in done.stderr


def test_a_command_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, SCRIPT, "avx2", "--", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "cpu_features: no-such-command: No such file or directory\n"


def test_a_script_runs_itself_anew(tmp_path: Path) -> None:
    script, *more = "threads.py", "--model", "mlp", "--counts", "1", "--rounds", "2", "--cpu", "avx2"
    command = [sys.executable, str(ROOT / "benchmarks" / script), *more, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    machine = json.loads((tmp_path / "threads.json").read_text())["machine"]
    assert machine["cpu"].endswith("as AVX2 (features above it hidden)") and machine["cpu"] in done.stdout
