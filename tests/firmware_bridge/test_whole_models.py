"""The two models of the promise on their boards: they fit, and answer as this machine's core does, bit by bit.

benchmarks/firmware_models.py does the same with 200 inputs.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
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


def test_code_for_ds_cnn_on_a_cortex_m4_takes_48_kb(tmp_path: Path) -> None:
    """The must: protocol, core and check of signatures, in 49,152 bytes without the model and its weights."""
    script = benchmark()
    case = replace(script.CASES[0], board="mps2-an386")

    def make(folder: Path) -> None:
        script._write(case, folder / "ds_cnn.pte")

    key = source_hash("export/**/*.py", "benchmarks/firmware_models.py", "runtime/layouts.py")
    program = made_once("micro-ds_cnn-m4", key, make) / "ds_cnn.pte"
    outcome = script.compare(case, program, tmp_path, 2)
    assert (outcome.same, outcome.equal) == (2, 2)
    report = outcome.report
    assert report["flash"]["code"] <= 49_152, report["flash"]
    # The code is small, and not slow for that: 10,012,562 before the loops were compiled for size.
    assert report["instructions"] <= 10_600_000
