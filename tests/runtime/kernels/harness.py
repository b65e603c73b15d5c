"""Building and running compare_kernels.c, for this CPU and for others under an emulator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import CACHE, made_once, source_hash
from tests.runtime.compilers import CORE, STRICT

HARNESS = Path(__file__).with_name("compare_kernels.c")
KERNELS = CORE / "kernels"
INTEGER_GEMMS = {"qd8_f32_qc2w", "qd8_f32_qc4w", "qd8_f32_qc8w"}


def build(folder: Path, compiler: Sequence[str], *arguments: str, kernels: Path = KERNELS) -> Path:
    """compare_kernels.c with the kernels, in `folder`."""
    sources = [str(path) for path in (HARNESS, *sorted(kernels.glob("**/*.c")))]
    command = [*compiler, f"-I{kernels.parent}", *STRICT, *arguments, *sources, "-o", "compare_kernels", "-lm"]
    caches = {f"ZIG_{kind}_CACHE_DIR": str(CACHE / "zig") for kind in ("GLOBAL", "LOCAL")}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | caches)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder / "compare_kernels"


def built(name: str, compiler: Sequence[str], *arguments: str) -> Path:
    """The same, kept until a source changes."""
    key = source_hash("runtime/core/kernels/**/*.[ch]", "tests/runtime/kernels/*", "tests/runtime/compilers.py")
    folder = made_once(f"compare-kernels-{name}", key, lambda folder: str(build(folder, compiler, *arguments)))
    return folder / "compare_kernels"


def compared(command: Sequence[str | Path], seed: int, cases: int, *isa: str) -> dict[str, dict[str, int]]:
    """Runs the harness, for one instruction set or all: {instruction set: {kernel: cases}}."""
    # The leak checker cannot work where ptrace is forbidden, as in many containers.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run([*command, str(seed), str(cases), *isa], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{result.stdout}{result.stderr[-4000:]}"
    counts: dict[str, dict[str, int]] = {}
    for line in result.stdout.splitlines():
        isa, kernel, count = line.split()
        counts.setdefault(isa, {})[kernel] = int(count)
    return counts
