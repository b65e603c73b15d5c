"""`layers.py --ggml --bitnet`: what is wrong with a checkout is told in a line before anything is measured."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ggml_peers import ENGINES, build_library
from edge.runtime.errors import BadInput, EdgeError
from tests.conftest import ROOT


def _checkout(folder: Path, cmake: str, *types: str) -> Path:
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "ggml.h").write_text("".join(f"#define GGML_TYPE_{name} 1\n" for name in types))
    (folder / "CMakeLists.txt").write_text(cmake)
    return folder


@pytest.mark.parametrize("option", ["ggml", "bitnet"])
def test_no_checkout(option: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match=f"--{option} {folder}: not a checkout of "):
            build_library(ENGINES[option], folder)


def test_an_old_ggml(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="its ggml has no weights of type TQ2_0"):
        build_library(ENGINES["ggml"], _checkout(tmp_path / "ggml", "", "Q4_0").parent)


def test_bitnet_that_was_not_set_up(tmp_path: Path) -> None:
    _checkout(tmp_path / "3rdparty" / "llama.cpp" / "ggml", "", "I2_S")
    with pytest.raises(BadInput, match="include/bitnet-lut-kernels.h is missing: run its setup_env.py"):
        build_library(ENGINES["bitnet"], tmp_path)


@pytest.mark.parametrize(
    ("cmake", "told"),
    [
        ('message(FATAL_ERROR "wants a newer compiler")', "wants a newer compiler"),
        ("add_library(ggml INTERFACE)\ntarget_include_directories(ggml INTERFACE include)", "error"),
    ],
    ids=["cmake", "compiler"],
)
def test_a_build_that_fails(cmake: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    source = _checkout(tmp_path / "source", cmake, "TQ2_0")
    with pytest.raises(EdgeError, match=f"--ggml {source}: does not build: .*{told}") as raised:
        build_library(ENGINES["ggml"], source)
    said = str(raised.value)
    assert "\n" not in said and told in Path(said.rpartition("(")[2].rstrip(")")).read_text()


def test_the_script_says_it_and_exits(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    command = [sys.executable, str(ROOT / "benchmarks" / "layers.py"), "--ggml", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"--ggml {tmp_path}: not a checkout of ggml or llama.cpp\n"
