"""The edge:: operators inside ExecuTorch, and the same files on the core: torch's and the oracle's bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.runtime._core import CoreError, Program
from edge.runtime.backends import op_library
from edge.runtime.errors import EdgeError, MissingDependency
from tests.conftest import ROOT, made_once, source_hash
from tests.runtime.ternary_cases import bits

pytest.importorskip("executorch")
REFUSED = ("packed_width", "activation", "kind", "channels_last")

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("c++")), reason="the op library needs a C and a C++ compiler"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    """many_*.pte with what the oracle wants of them, and the refused programs."""

    def make(target: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "tests.runtime.pte_many_calls", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr[-4000:]

    tests = (f"tests/runtime/{name}.py" for name in ("pte_many_calls", "pte_handmade", "ternary_cases"))
    return made_once("ops-many-calls", source_hash(*tests, "export/reference.py", "export/ops.py"), make)


def assert_equal_to_the_references(folder: Path, run: Callable[[bytes, list[np.ndarray]], list[np.ndarray]]) -> None:
    """Every call has the oracle's bits, and the thousand have torch's (+ 0: relu's zero may have either sign)."""
    calls = torch_calls = 0
    for path in sorted(folder.glob("many_*.pte")):
        with np.load(path.with_suffix(".npz")) as arrays:
            count = sum(key.startswith("x") for key in arrays.files)
            inputs, wanted = ([arrays[f"{letter}{i}"] for i in range(count)] for letter in "xy")
            in_torch = [arrays.get(f"t{i}") for i in range(count)]
        outputs = run(path.read_bytes(), inputs)
        for i, (got, want, eager) in enumerate(zip(outputs, wanted, in_torch, strict=True)):
            assert np.array_equal(bits(got), bits(want)), f"{path.name}, call {i}"
            calls += 1
            if eager is not None:
                assert np.array_equal(bits(got + 0), bits(eager + 0)), f"{path.name}, call {i}: torch"
                torch_calls += 1
    assert calls > 1200
    assert torch_calls == 1000


@needs_compiler
def test_executorch_equals_torch_and_the_oracle(folder: Path) -> None:
    from edge.runtime.backends import executorch

    assert_equal_to_the_references(folder, lambda program, inputs: executorch.open(program, 1).run(inputs))


def test_the_core_equals_both_on_the_same_files(folder: Path) -> None:
    assert_equal_to_the_references(folder, lambda program, inputs: Program(program).run(inputs))


@needs_compiler
@pytest.mark.parametrize("name", REFUSED)
def test_bad_calls_are_refused_by_both(folder: Path, name: str) -> None:
    from edge.runtime.backends import executorch

    program = (folder / f"refused_{name}.pte").read_bytes()
    shape = (1, 4, 3, 3) if name == "channels_last" else (2, 8)
    with pytest.raises(EdgeError):
        executorch.open(program, 1).run([np.zeros(shape, dtype=np.float32)])
    with pytest.raises(CoreError):
        Program(program)


@needs_compiler
def test_the_library_is_built_once() -> None:
    path = op_library.library_path()
    built = path.stat().st_mtime_ns
    assert op_library.library_path() == path and path.stat().st_mtime_ns == built
    assert not list(path.parent.glob("build-*"))


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(MissingDependency, match=r"must be compiled and there is no cc or gcc or clang"):
        op_library.library_path()


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for people, the whole output in a file, nothing half-built."""
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'x.c:1: error: out of luck' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(EdgeError, match="failed: x.c:1: error: out of luck; the whole output is in") as caught:
        op_library.library_path()
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache" / "op_library").iterdir()] == [".log"]


def test_without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="needs the executorch wheel"):
        op_library.library_path()
