"""Every instruction set's kernels against the scalar ones, bit by bit: on this CPU, and on ARM's under an emulator.

compare_kernels.c draws the cases; each run here prints how many it compared, a line a kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import made_once, source_hash
from tests.runtime.compilers import CORE, SANITIZERS, STRICT, c_compiler, sanitizing_compiler

HARNESS = Path(__file__).with_name("compare_kernels.c")
KERNELS = CORE / "kernels"
INTEGER_GEMMS = {"qd8_f32_qc2w", "qd8_f32_qc4w", "qd8_f32_qc8w"}

# One each of: a code clipped early, a store outside the range, a sum in 16 bits, another order of a sum, a hidden key.
MISTAKES = {
    "f32_qd8_quantize": ("twin.h", "code < low ? low", "code < low + 1.0f ? low + 1.0f"),
    "qd8_f32_qc2w": ("qd8_f32_qc2w_gemm.c", "o < last;", "o < last + (last < gemm->n);"),
    "qd8_f32_qc4w": ("qd8_f32_qc4w_gemm.c", "const int32_t exact = acc[r]", "const int32_t exact = (int16_t)acc[r]"),
    "f32_softmax": ("f32_softmax.c", "lane[i % EDGE_SUM_LANES] += e", "lane[i % 8] += e"),
    "f32_attention": ("f32_attention.c", "t + 1 < head->keys ? t + 1", "t + 2 < head->keys ? t + 2"),
}


def build(folder: Path, compiler: Sequence[str], *arguments: str, kernels: Path = KERNELS) -> Path:
    """compare_kernels.c with the kernels, in `folder`."""
    sources = [str(path) for path in (HARNESS, *sorted(kernels.glob("**/*.c")))]
    command = [*compiler, f"-I{kernels.parent}", *STRICT, *arguments, *sources, "-o", "compare_kernels", "-lm"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder / "compare_kernels"


def built(name: str, compiler: Sequence[str], *arguments: str) -> Path:
    """The same, kept until a source changes."""
    key = source_hash("runtime/core/kernels/**/*.[ch]", "tests/runtime/kernels/*", "tests/runtime/compilers.py")
    folder = made_once(f"compare-kernels-{name}", key, lambda folder: str(build(folder, compiler, *arguments)))
    return folder / "compare_kernels"


def compared(command: Sequence[str | Path], seed: int, cases: int) -> dict[str, dict[str, int]]:
    """Runs the harness: {instruction set: {kernel: cases}}."""
    # The leak checker cannot work where ptrace is forbidden, as in many containers.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run([*command, str(seed), str(cases)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{result.stdout}{result.stderr[-4000:]}"
    counts: dict[str, dict[str, int]] = {}
    for line in result.stdout.splitlines():
        isa, kernel, count = line.split()
        counts.setdefault(isa, {})[kernel] = int(count)
    return counts


def test_kernels_of_this_cpu() -> None:
    counts = compared([built("native", [c_compiler()], "-O2")], seed=1, cases=400)
    for isa, kernels in counts.items():
        assert min(kernels.values()) >= 200, (isa, kernels)


def test_kernels_of_this_cpu_stay_inside_their_memory() -> None:
    program = built("sanitized", [sanitizing_compiler()], "-O1", "-g", *SANITIZERS)
    compared([program], seed=2, cases=150)


@pytest.mark.parametrize("kernel", MISTAKES)
def test_the_harness_finds_mistakes(kernel: str, tmp_path: Path) -> None:
    """Against a copy of the scalar kernels: equal as it is, and not with one mistake in one kernel."""
    kernels = tmp_path / "core" / "kernels"
    (kernels / "scalar").mkdir(parents=True)
    (kernels / "twin").mkdir()
    for path in (*KERNELS.glob("*.h"), *KERNELS.glob("scalar/*")):
        text = path.read_text()
        (kernels / path.relative_to(KERNELS)).write_text(text)
        if path.suffix == ".c":
            (kernels / "twin" / path.name).write_text(
                text.replace("__scalar", "__twin")
                .replace("edge_kernels_scalar", "edge_kernels_twin")
                .replace('"scalar"', '"twin"')
                .replace("scalar/scalar.h", "twin/twin.h")
            )
        elif path.name == "scalar.h":
            twin = text.replace("__scalar", "__twin").replace("EDGE_KERNELS_SCALAR_H", "EDGE_KERNELS_TWIN_H")
            (kernels / "twin" / "twin.h").write_text(twin)
    select = (KERNELS / "select.c").read_text()
    select = re.sub(
        r"candidates\[\] = \{\n.*?\};", "candidates[] = {{&edge_kernels_twin, always}};", select, flags=re.S
    )
    select = select.replace("typedef struct", "extern const edge_kernels edge_kernels_twin;\ntypedef struct", 1)
    (kernels / "select.c").write_text(select)

    flags = ("-O2", "-Wno-unused-function")  # the question whether the CPU has others
    counts = compared([build(tmp_path, [c_compiler()], *flags, kernels=kernels)], seed=3, cases=100)
    assert set(counts) == {"twin"}
    assert set(counts["twin"].values()) == {100}

    file, right, wrong = MISTAKES[kernel]
    source = kernels / "twin" / file
    assert right in source.read_text()
    source.write_text(source.read_text().replace(right, wrong))
    program = build(tmp_path, [c_compiler()], *flags, kernels=kernels)
    result = subprocess.run([program, "3", "100"], capture_output=True, text=True)
    assert result.returncode == 1, result.stdout
    found, again = result.stdout.splitlines()[-2:]
    assert found.startswith(f"twin {kernel}: ")
    repeated = subprocess.run([program, *again.split()[2:]], capture_output=True, text=True)
    assert repeated.returncode == 1
    assert repeated.stdout.splitlines() == [found, again]
