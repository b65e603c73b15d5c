"""10,000 damaged bundles: each is refused with one of our errors, or read and run; nothing escapes the cache."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge.runtime._core import Program
from edge.runtime.bundle import file_entry, write_bundle
from edge.runtime.manifest import InputSpec, Manifest, TensorSpec
from tests.conftest import ROOT, made_once, source_hash
from tests.runtime.compilers import sanitizer_runtimes
from tests.runtime.programs import program_folder

CASES = 10_000
SANITIZED_CASES = 4_000
PROGRAMS = ("mlp", "cct", "zoo", "kinds", "lists", "edge_block", "edge_convolutions")


@pytest.fixture(scope="module")
def seeds(colour_bundle: Path, colour_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of sound bundles: one with a file for every engine, and one of each program."""
    folder = tmp_path_factory.mktemp("seeds")
    shutil.copy(colour_bundle, folder)
    for name in PROGRAMS:
        data = (program_folder() / f"{name}.pte").read_bytes()
        program = Program(data)
        manifest = replace(
            colour_manifest,
            name=name,
            task="other",
            inputs=tuple(InputSpec(f"x{i}", *spec) for i, spec in enumerate(program.inputs)),
            outputs=tuple(TensorSpec(f"y{i}", *spec) for i, spec in enumerate(program.outputs)),
            labels=(),
            files={"model.pte": file_entry(data, ("core",))},
        )
        write_bundle(folder / f"{name}.edge", manifest, {"model.pte": data})
    return folder


@pytest.fixture(scope="module")
def sanitized_core() -> Path:
    """edge.runtime._core built with AddressSanitizer and UndefinedBehaviorSanitizer."""
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
    missing += [package for package in ("nanobind",) if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"bundles under sanitizers: no {', '.join(missing)}")
    sanitizer_runtimes()

    def make(folder: Path) -> None:
        flags = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"
        build = folder / "build"
        configure = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}"]
        configure += [f"-DCMAKE_C_FLAGS={flags},float-cast-overflow", f"-DCMAKE_CXX_FLAGS={flags}"]
        for command in (configure, ["cmake", "--build", build]):
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
        shutil.copy(next(build.glob("_core*.so")), folder / "_core.so")
        shutil.rmtree(build)

    key = source_hash(
        "runtime/core/**/*.[ch]", "runtime/binding*", "CMakeLists.txt", "tests/runtime/test_bundle_fuzz.py"
    )
    return made_once("sanitized-core", key, make) / "_core.so"


def run_cases(seeds: Path, folder: Path, first: int, count: int, *core: Path, **environment: str) -> dict[str, int]:
    """What became of the cases; fails with what the process said if it did not come to the end."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    cache = folder / "cache"
    command = [sys.executable, "-m", "tests.runtime.fuzz.bundle_cases", seeds, str(first), str(count), *core]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "EDGE_CACHE": str(cache), "OMP_NUM_THREADS": "1", **environment},
    )
    # The file of the case that ended the process is still there, and named after it.
    assert result.returncode == 0, f"{os.listdir(folder)}: {result.stderr[-4000:]}"
    assert os.listdir(folder) == ["cache"]
    outcomes: dict[str, int] = json.loads(result.stdout)
    assert sum(outcomes.values()) == count
    # All must occur, or the mutations are too mild or too wild to tell anything.
    assert outcomes["refused"] > count // 3 and outcomes["read"] and outcomes["ran"] > count // 20, outcomes
    return outcomes


@pytest.mark.parametrize("part", range(4))
def test_damaged_bundles_are_refused_or_run(seeds: Path, tmp_path: Path, part: int) -> None:
    count = CASES // 4
    run_cases(seeds, tmp_path, part * count, count)


def test_damaged_bundles_under_sanitizers(seeds: Path, sanitized_core: Path, tmp_path: Path) -> None:
    """Many of the same cases, where a read out of bounds in the core or its binding ends the process."""
    run_cases(
        seeds,
        tmp_path,
        0,
        SANITIZED_CASES,
        sanitized_core,
        LD_PRELOAD=sanitizer_runtimes(),
        # Python itself leaks; what wants 256 MiB is refused, as where the memory is not there.
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=256:detect_odr_violation=0",
    )
