"""Every instruction set's kernels against the scalar ones, bit by bit, on this CPU; tests/runtime/arm has ARM's.

compare_kernels.c draws the cases; each run prints how many it compared, a line a kernel.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.runtime.compilers import SANITIZERS, c_compiler, sanitizing_compiler
from tests.runtime.kernels.harness import INTEGER_GEMMS, KERNELS, build, built, compared

# What Linux calls the instructions that a table needs.
NEEDS = {
    "avx2": {"avx2"},
    "avxvnni": {"avx2", "avx_vnni"},
    "avx512vnni": {"avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
}

# One each of: a code clipped early, a store outside the range, a sum in 16 bits, a tap left out at the lower edge,
# another order of a sum, a hidden key.
MISTAKES = {
    "f32_qd8_quantize": ("twin.h", "code < low ? low", "code < low + 1.0f ? low + 1.0f"),
    "qd8_f32_qc2w": ("qd8_f32_qc2w_gemm.c", "o < last;", "o < last + (last < gemm->n);"),
    "qd8_f32_qc4w": ("qd8_f32_qc4w_gemm.c", "const int32_t exact = acc[r]", "const int32_t exact = (int16_t)acc[r]"),
    "f32_conv2d": ("f32_conv2d.c", "row >= conv->height)", "row >= conv->height - (kh > 0))"),
    "f32_softmax": ("f32_softmax.c", "lane[i % EDGE_SUM_LANES] += e", "lane[i % 8] += e"),
    "f32_attention": ("f32_attention.c", "t + 1 < head->keys ? t + 1", "t + 2 < head->keys ? t + 2"),
}


def test_kernels_of_this_cpu() -> None:
    counts = compared([built("native", [c_compiler()], "-O2")], seed=1, cases=400)
    for isa, kernels in counts.items():
        assert kernels.keys() >= INTEGER_GEMMS | {"qd8_f32_qc2w_conv2d"}, isa
        assert min(kernels.values()) >= 100, (isa, kernels)  # of convolutions, some shapes are left to scalar
    information = Path("/proc/cpuinfo")
    if information.exists() and (flags := re.search(r"^flags\s*:(.*)$", information.read_text(), re.M)):
        assert counts.keys() == {isa for isa, needed in NEEDS.items() if needed <= set(flags[1].split())}


def test_kernels_of_this_cpu_stay_inside_their_memory() -> None:
    program = built("sanitized", [sanitizing_compiler()], "-O1", "-g", *SANITIZERS)
    compared([program], seed=2, cases=150)


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """Sources of two tables, the scalar kernels and a copy of them: the folder kernels/."""
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
    return kernels


def build_twin(kernels: Path) -> Path:
    """The harness over those sources, which leave the question unasked whether the CPU has others."""
    return build(kernels.parent, [c_compiler()], "-O2", "-Wno-unused-function", kernels=kernels)


def test_the_harness_finds_equal_what_is(twin: Path) -> None:
    counts = compared([build_twin(twin)], seed=3, cases=100)
    assert counts.keys() == {"twin"}
    assert set(counts["twin"].values()) == {100}


@pytest.mark.parametrize("kernel", MISTAKES)
def test_the_harness_finds_mistakes(kernel: str, twin: Path) -> None:
    """One mistake in one kernel of the copy is found, and the command that is printed finds it again."""
    file, right, wrong = MISTAKES[kernel]
    source = twin / "twin" / file
    assert right in source.read_text()
    source.write_text(source.read_text().replace(right, wrong))
    program = build_twin(twin)
    result = subprocess.run([program, "3", "100"], capture_output=True, text=True)
    assert result.returncode == 1, result.stdout
    found, again = result.stdout.splitlines()[-2:]
    assert found.startswith(f"twin {kernel}: ")
    repeated = subprocess.run([program, *again.split()[2:]], capture_output=True, text=True)
    assert repeated.returncode == 1
    assert repeated.stdout.splitlines() == [found, again]
