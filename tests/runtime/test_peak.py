"""The machine's peak is measured by the instructions that it is named after: compilers merge what is computed twice."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.runtime._core import CoreError, measure_peak
from tests.conftest import ROOT
from tests.runtime.compilers import STRICT, c_compiler


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions of the peak: this is no x86-64")
@pytest.mark.parametrize(
    ("function", "multiply", "add"),
    [("int8_maddubs", "vpmaddubsw", "vpaddw"), ("float_256", "vmulps", "vaddps"), ("float_512", "vmulps", "vaddps")],
)
def test_every_sum_has_a_product_of_its_own(function: str, multiply: str, add: str, tmp_path: Path) -> None:
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("the instructions of the peak: no objdump (Debian: apt install binutils)")
    built = tmp_path / "peak.o"
    source = str(ROOT / "runtime" / "peak.c")
    # A function that is inlined is not found by its name.
    command = [c_compiler(), *STRICT, "-O3", "-DNDEBUG", "-fno-inline", "-c", source, "-o", str(built)]
    subprocess.run(command, check=True)
    told = subprocess.run([objdump, "-d", str(built)], check=True, capture_output=True, text=True).stdout
    body = re.search(rf"<{function}>:\n(.*?)\n\n", told, re.S)
    assert body is not None, told[:2000]
    products, sums = (len(re.findall(rf"\t{name} ", body[1])) for name in (multiply, add))
    assert products == sums >= 6


@pytest.mark.parametrize(("milliseconds", "read_bytes"), [(0.0, 4096), (1e5, 4096), (1.0, 4095), (1.0, (1 << 30) + 1)])
def test_what_cannot_be_measured_is_refused(milliseconds: float, read_bytes: int) -> None:
    with pytest.raises(CoreError, match="expected"):
        measure_peak(milliseconds, read_bytes)
