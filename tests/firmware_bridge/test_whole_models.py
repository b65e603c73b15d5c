"""The two models of the promise on their boards: they fit, and answer as this machine's core does, bit by bit.

benchmarks/firmware_models.py does the same with 200 inputs.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT, made_once, source_hash

INPUTS = 4


def benchmark() -> ModuleType:
    """benchmarks/firmware_models.py."""
    path = ROOT / "benchmarks" / "firmware_models.py"
    spec = importlib.util.spec_from_file_location("firmware_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["firmware_models"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("model", ["ds_cnn", "cct_2_3x2"])
def test_model_fits_and_answers_as_here(model: str, tmp_path: Path) -> None:
    script = benchmark()
    case = next(case for case in script.CASES if case.model == model)

    def make(folder: Path) -> None:
        script.write_program(case, folder / f"{model}.pte")

    key = source_hash("export/**/*.py", "benchmarks/firmware_models.py", "runtime/layouts.py")
    program = made_once(f"micro-{model}", key, make) / f"{model}.pte"
    outcome = script.compare(case, program, tmp_path, INPUTS)
    assert (outcome.same, outcome.equal) == (INPUTS, INPUTS)
    assert outcome.report["flash"]["used"] <= case.flash
    assert outcome.report["ram"]["used"] <= case.ram
    # DS-CNN for a Cortex-M3 and CCT for a Cortex-M4, learning left out: some way above the 48 KB of the aim.
    assert outcome.report["flash"]["code"] <= 80 << 10
