"""ARM's kernels against the scalar ones, bit by bit, on emulated CPUs: each runs those whose instructions it has."""

from __future__ import annotations

import os

import pytest

from tests.runtime.compilers import ARM_CPUS, cross_clang, cross_compiler, emulator
from tests.runtime.kernels.harness import INTEGER_GEMMS, built, compared

FLOATS = {
    "f32_qd8_quantize",
    "f32_qd8_quantize_columns",
    "f32_gemm",
    "f32_conv2d",
    "f32_layer_norm",
    "f32_softmax",
    "f32_attention",
}
"""What aarch64 has beside the integer kernels; vectors of 32-bit ARM flush subnormal numbers."""


@pytest.mark.parametrize(("architecture", "cpu", "isas"), ARM_CPUS)
def test_kernels_of(architecture: str, cpu: str, isas: set[str]) -> None:
    run = [*emulator(architecture), "-cpu", cpu]
    program = built(architecture, cross_compiler(architecture), "-O3")  # as a release is built
    counts = compared([*run, program], seed=1, cases=120)
    assert counts.keys() == isas
    for isa, kernels in counts.items():
        expected = INTEGER_GEMMS | {"qd8_f32_qc2w_conv2d"}
        expected |= FLOATS | {"qd8_f32_qc8w_conv2d", "qd8_attention"} if architecture == "aarch64" else set()
        assert kernels.keys() >= expected, isa
        assert min(kernels.values()) >= 50, (isa, kernels)


def test_kernels_by_clang() -> None:
    """Compiled without a warning, and the same; it also has to make its C library the first time."""
    if not os.environ.get("EDGE_ARM_CLANG"):
        pytest.skip("ARM's kernels by clang: its C library takes a minute to build; nox -s arm does it")
    run = [*emulator("aarch64"), "-cpu", "max"]
    program = built("aarch64-clang", cross_clang("aarch64"), "-O2")
    counts = compared([*run, program], seed=4, cases=100)
    assert counts.keys() == {"neon", "neon_dotprod", "neon_i8mm"}
    assert all(kernels.keys() >= INTEGER_GEMMS | FLOATS for kernels in counts.values())
