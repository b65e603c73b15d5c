"""What opening a model costs a process: its memory, and the libraries that it must not load."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge.runtime._core import Program
from edge.runtime.file_bytes import give_back, is_mapped, map_file, sha256
from tests.conftest import ROOT, made_once, source_hash

# Peak beyond numpy's over the size of a CCT-7/3x1. The project's aim is 3: benchmarks/README.md has what is left.
LIMIT = 4.6
HEAVY = {"_hashlib", "_ssl", "hashlib", "ipaddress", "pathlib", "random", "secrets", "shutil", "tempfile", "zipfile"}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """benchmarks/load.py, which measures in fresh processes."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("load_benchmark", ROOT / "benchmarks" / "load.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


@pytest.fixture(scope="module")
def cct_bundle(benchmark: ModuleType) -> Path:
    """The untrained CCT-7/3x1 that the benchmark measures."""
    pytest.importorskip("executorch", reason="export to .pte: executorch is not installed")
    key = source_hash("export/**/*.py", "benchmarks/load.py")
    return made_once("cct-7", key, benchmark.untrained) / "cct_7_3x1.edge"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory(benchmark: ModuleType, cct_bundle: Path) -> None:
    measured = benchmark.measure(cct_bundle, 5, 1)
    assert measured["peak_over_size"] <= LIMIT, json.dumps(measured)


def test_opening_and_running_loads_nothing_heavy(colour_bundle: Path) -> None:
    """Not OpenSSL (3.5 MB), nor what the standard library's zip reader and paths bring along."""
    script = (
        "import sys, numpy as np\n"
        "before = set(sys.modules)\n"
        "from edge.runtime import load\n"
        "with load(sys.argv[1], 'core') as model:\n"
        "    model(*[np.zeros(spec.shape, spec.dtype) for spec in model.inputs])\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script, colour_bundle], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "edge.runtime._core" in loaded
    assert not loaded & HEAVY


def test_pages_that_were_given_back_come_back(sample_program: Path) -> None:
    """A mapped program runs as one in memory does, again and again, and so does whoever reads the mapping."""
    data = sample_program.read_bytes()
    with sample_program.open("rb") as file:
        view = map_file(file, 0, len(data))
    assert is_mapped(view) and not is_mapped(memoryview(data)) and not is_mapped(data)
    mapped, plain = Program(view, 1, True), Program(data, 1)
    inputs = [np.random.default_rng(3).standard_normal(shape).astype(dtype) for dtype, shape in plain.inputs]
    for _ in range(2):
        for ours, theirs in zip(mapped.run(inputs), plain.run(inputs), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        give_back(view)
    assert mapped.state_bytes > plain.state_bytes, "small constants are copied"
    for (_, ours, _), (_, theirs, _) in zip(mapped.trace(inputs), plain.trace(inputs), strict=True):
        assert repr(ours) == repr(theirs)
    assert sha256(view) == sha256(data)


@pytest.fixture(params=["cct", "edge_block", "edge_convolutions", "kinds"])
def sample_program(request: pytest.FixtureRequest) -> Path:
    from tests.runtime.programs import program_folder

    return program_folder() / f"{request.param}.pte"


def test_a_mapping_that_is_copied_gives_nothing_back(sample_program: Path, tmp_path: Path) -> None:
    """Bytes at no multiple of 16 are copied to memory that nobody else holds."""
    data = sample_program.read_bytes()
    (tmp_path / "shifted").write_bytes(b"8 bytes!" + data)
    with (tmp_path / "shifted").open("rb") as file:
        view = map_file(file, 0, len(data) + 8)
    shifted, plain = Program(view[8:], 1, True), Program(data, 1)
    inputs = [np.random.default_rng(4).standard_normal(shape).astype(dtype) for dtype, shape in plain.inputs]
    for ours, theirs in zip(shifted.run(inputs), plain.run(inputs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
