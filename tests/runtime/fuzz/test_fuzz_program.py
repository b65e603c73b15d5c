"""20,000 damaged programs against the core under AddressSanitizer and UndefinedBehaviorSanitizer, and its symbols."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import made_once, source_hash
from tests.runtime.compilers import CORE_SOURCES, SANITIZERS, STRICT, c_compiler, sanitizing_compiler
from tests.runtime.programs import RUNNABLE, program_folder

HARNESS = Path(__file__).with_name("fuzz_program.c")
CASES = 20_000

FROM_LIBC = re.compile(
    r"mem(cpy|move|set|cmp|chr)|str(len|cmp|ncmp|chr)|v?snprintf|l?l?abs|"
    r"(sqrt|rint|lrint|floor|ceil|fmax|fmin|fabs|trunc|pow|fmod|exp|expm1|log|sin|cos)f?"
)
"""What the core may ask of the C library: no heap, no files."""

FROM_PTHREADS = re.compile(r"pthread_(create|join|(mutex|cond)_\w+)|sched_yield|getpid")
"""What its pool of threads may, where it is built with one."""


@pytest.fixture(scope="module")
def build() -> Callable[[str, list[str]], Path]:
    """Runs the C compiler over the core's sources in a folder that is kept until a source changes."""

    def compile_core(name: str, arguments: list[str]) -> Path:
        compiler = c_compiler()

        def make(folder: Path) -> None:
            command = [compiler, *STRICT, *arguments, *CORE_SOURCES, "-pthread"]
            if "-c" not in arguments:
                command += [str(HARNESS), "-o", name, "-lm"]
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]

        return made_once(name, source_hash("runtime/core/**/*.[ch]", "tests/runtime/fuzz/*"), make)

    return compile_core


def test_damaged_programs_are_refused_or_run(build: Callable[[str, list[str]], Path]) -> None:
    """Every case ends in an error of ours or in a run that stays inside its memory; a fault ends the harness."""
    sanitizing_compiler()
    folder = build("fuzz-program", ["-O1", "-g", "-D_POSIX_C_SOURCE=200809L", *SANITIZERS])
    programs = [str(program_folder() / f"{name}.pte") for name in (*RUNNABLE, "edge_block", "edge_convolutions")]
    result = subprocess.run(
        [str(folder / "fuzz-program"), "1", "0", str(CASES), *programs],
        capture_output=True,
        text=True,
        # The leak checker cannot work where ptrace is forbidden, as in many containers.
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1"},
    )
    assert result.returncode == 0, result.stderr[-4000:]
    counts = [int(number) for number in re.findall(r"\d+", result.stdout)]
    bad_file, unsupported, bad_argument, too_large, ran, _ = counts
    assert bad_file + unsupported + bad_argument + too_large + ran == CASES
    assert bad_argument == 0
    assert too_large < CASES // 20
    assert ran > CASES // 20
    assert unsupported > CASES // 20


@pytest.mark.parametrize("threads", [True, False])
def test_the_core_has_no_heap_and_no_globals(build: Callable[[str, list[str]], Path], threads: bool) -> None:
    """Its objects ask only for a few functions of libc and libm, and hold no writable data.

    Without -fno-pic the compiler would put constant tables of pointers where the loader can relocate them.
    """
    if shutil.which("nm") is None:
        pytest.skip("symbols of the core: no nm (binutils)")
    name, defines = ("core-objects", []) if threads else ("core-objects-bare", ["-DEDGE_NO_THREADS"])
    folder = build(name, ["-O1", "-fno-pic", "-c", *defines])
    listing = subprocess.run(["nm", *sorted(folder.glob("*.o"))], capture_output=True, text=True, check=True).stdout
    wanted, defined = set(), set()
    for line in listing.splitlines():
        *_, kind, symbol = ["", "", *line.split()]
        if kind == "U":
            wanted.add(symbol)
        elif len(kind) == 1 and kind.isalpha():
            defined.add(symbol)
            assert kind.lower() not in "bdc", f"writable data: {symbol}"
    outside = {name for name in wanted - defined if not name.startswith("_") and not FROM_LIBC.fullmatch(name)}
    if threads:
        outside = {name for name in outside if not FROM_PTHREADS.fullmatch(name)}
    assert not outside
