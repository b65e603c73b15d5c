"""Learning under AddressSanitizer and UndefinedBehaviorSanitizer: exact memory, random plans, damaged weights."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.conftest import made_once, source_hash
from tests.runtime.compilers import CORE_SOURCES, SANITIZERS, STRICT, sanitizing_compiler
from tests.runtime.learn.learn_programs import LEARNABLE, REFUSED, learn_folder

HARNESS = Path(__file__).with_name("fuzz_learn.c")
CASES = 300


def test_random_plans_and_damaged_weights_stay_inside_their_memory() -> None:
    compiler = sanitizing_compiler()

    def make(folder: Path) -> None:
        options = ["-O1", "-g", "-D_POSIX_C_SOURCE=200809L", *SANITIZERS]
        command = [compiler, *STRICT, *options, *CORE_SOURCES, str(HARNESS), "-pthread", "-lm", "-o", "fuzz-learn"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    folder = made_once("fuzz-learn", source_hash("runtime/core/**/*.[ch]", "tests/runtime/learn/fuzz_learn.c"), make)
    programs = [str(learn_folder() / f"{name}.pte") for name in (*LEARNABLE, *REFUSED)]
    result = subprocess.run(
        [str(folder / "fuzz-learn"), "1", str(CASES), *programs],
        capture_output=True,
        text=True,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1"},
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-4000:])
    learned, refused, loaded, damaged = map(int, result.stdout.split())
    assert learned > 500 and refused > 200 and loaded > 200 and damaged > 500, result.stdout
