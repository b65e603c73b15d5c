"""run, inspect, bench, models, targets, doctor on a real bundle."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.runtime.manifest import ENGINES
from edge.runtime.target import TARGETS


def edge(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge.sdk.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def answer(*words: str | Path, cwd: Path | None = None) -> Any:
    """The JSON document of a command that succeeds."""
    done = edge(*words, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*words: str | Path, cwd: Path | None = None) -> str:
    """The one line of a command that fails."""
    done = edge(*words, cwd=cwd)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("edge: error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def program(workspace: Path) -> Path:
    """The .pte of the bundle as a file of its own."""
    with zipfile.ZipFile(workspace / "digits.edge") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pte"))
        return Path(archive.extract(name, workspace))


def test_run_knows_the_digit(workspace: Path) -> None:
    document = answer("run", "digits.edge", "digit.png", cwd=workspace)
    (row,) = document["results"]
    assert document["backend"] == "core"
    assert row["label"] == "7"
    assert row["input"] == "digit.png"
    assert len(row["top"]) == 3
    assert row["top"][0]["score"] == row["score"] > row["top"][1]["score"]


def test_run_takes_folders_and_arrays(workspace: Path) -> None:
    document = answer("run", "digits.edge", "samples", "--top", "1", cwd=workspace)
    assert [Path(row["input"]).name for row in document["results"]] == ["seven.npy", "seven.png"]
    assert [row["label"] for row in document["results"]] == ["7", "7"]
    assert document["results"][0]["score"] == document["results"][1]["score"]


def test_run_without_input_runs_the_stored_ones_and_says_so(workspace: Path) -> None:
    shown = edge("run", "digits.edge", cwd=workspace)
    assert shown.returncode == 0, shown.stderr
    assert "reference inputs stored in the bundle" in shown.stdout
    document = answer("run", "digits.edge", "--demo", "--backend", "core", cwd=workspace)
    assert document["agreeing"] == len(document["results"]) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_run_on_every_engine(workspace: Path, engine: str) -> None:
    document = answer("run", "digits.edge", "digit.png", "--backend", engine, "--threads", "1", cwd=workspace)
    assert document["backend"] == engine
    assert document["results"][0]["label"] == "7"


def test_run_a_bare_program(workspace: Path, program: Path) -> None:
    from edge.runtime import Bundle

    with Bundle.open(workspace / "digits.edge") as bundle:
        preprocess = bundle.manifest.inputs[0].preprocess
    assert preprocess is not None
    np.save(workspace / "input.npy", preprocess(np.load(workspace / "samples" / "seven.npy")))
    document = answer("run", program, "input.npy", cwd=workspace)
    assert document["results"][0]["label"] == "7"


def test_run_refuses_in_one_line(workspace: Path, program: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY" + bytes(20))
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, 9, 9), dtype=np.float32))
    bundle = workspace / "digits.edge"
    assert "no such" in refused("run", tmp_path / "missing.edge")
    assert "missing.png" in refused("run", bundle, tmp_path / "missing.png")
    assert "missing.npy: no such file" in refused("run", bundle, tmp_path / "missing.npy")
    assert "bad.npy: a damaged NumPy array file" in refused("run", bundle, tmp_path / "bad.npy")
    (tmp_path / "text.npy").write_text("no array")
    assert "text.npy: not a NumPy array file" in refused("run", bundle, tmp_path / "text.npy")
    assert "no image, .wav or .npy file" in refused("run", bundle, tmp_path / "empty")
    assert f"{tmp_path / 'digits'}: no such file" in refused("run", tmp_path / "digits")
    assert "no file for" not in refused("run", tmp_path / "digits.txt")
    assert "no reference inputs" in refused("run", program)
    line = refused("run", program, tmp_path / "wrong.npy")
    assert "wrong.npy: " in line and "expected float32" in line and "given float32 [1, 3, 9, 9]" in line
    assert "digit.png: the model takes arrays" in refused("run", program, workspace / "digit.png")
    assert "wrong.npy: image array of shape [1, 3, 9, 9]" in refused("run", bundle, tmp_path / "wrong.npy")


def test_run_takes_the_networks_input(workspace: Path, tmp_path: Path) -> None:
    from edge.runtime import Bundle

    with Bundle.open(workspace / "digits.edge") as bundle:
        preprocess = bundle.manifest.inputs[0].preprocess
    assert preprocess is not None
    np.save(tmp_path / "ready.npy", preprocess(np.load(workspace / "samples" / "seven.npy")))
    rows = answer("run", "digits.edge", tmp_path / "ready.npy", "samples/seven.npy", cwd=workspace)["results"]
    assert rows[0]["label"] == "7" and rows[0]["top"] == rows[1]["top"]


_NO_PILLOW = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from edge.sdk.cli import main
main()
"""


def test_run_without_pillow(workspace: Path, tmp_path: Path) -> None:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _NO_PILLOW, "run", "digits.edge", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=workspace)

    (tmp_path / "text.png").write_text("no picture")
    for words, line in (
        (["missing.png"], "missing.png: no such image file"),
        ([tmp_path / "text.png"], "text.png: not an image: it does not begin like PNG"),
        (["digit.png"], "reading image files needs Pillow: pip install 'edge-deploy[images]'"),
        (["digit.png", "samples/seven.png"], "reading image files needs Pillow"),
    ):
        done = run(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert line in done.stderr
    done = run("samples", "digit.png", "missing.png", "--json")
    assert done.returncode == 1
    npy, *rest = json.loads(done.stdout)["results"]
    assert npy["label"] == "7" and len(rest) == 3 and all("error" in row for row in rest)
    told = [json.loads(line)["kind"] for line in done.stderr.splitlines()]
    assert told == ["MissingDependency", "BadFile"], "the missing package is told once"


def test_run_one_missing_file_does_not_keep_a_good_one_from_running(workspace: Path) -> None:
    for words in (["nonexistent.png", "digit.png"], ["digit.png", "nonexistent.png"]):
        done = edge("run", "digits.edge", *words, cwd=workspace)
        assert done.returncode == 1
        (row,) = (line.split() for line in done.stdout.splitlines() if "png" in line)
        assert row[:2] == ["digit.png", "7"]
        assert done.stderr == "edge: error: nonexistent.png: no such image file\n"


def test_run_one_bad_file_does_not_discard_the_rest(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "good.png").write_bytes((workspace / "digit.png").read_bytes())
    (tmp_path / "worse.npy").write_bytes(b"no array")
    bundle = workspace / "digits.edge"
    missing = tmp_path / "missing.wav"
    done = edge("run", bundle, tmp_path, missing, "--json")
    assert done.returncode == 1
    rows = {Path(row["input"]).name: row for row in json.loads(done.stdout)["results"]}
    assert list(rows) == ["bad.png", "good.png", "worse.npy", "missing.wav"]
    assert rows["good.png"]["label"] == "7" and "error" not in rows["good.png"]
    failed = ["bad.png", "worse.npy", "missing.wav"]
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [error["error"] for error in told] == [rows[name]["error"] for name in failed]
    assert all(name in error["error"] and error["exit_code"] == 1 for name, error in zip(failed, told, strict=True))

    shown = edge("run", bundle, tmp_path, missing)
    assert shown.returncode == 1
    assert "good.png" in shown.stdout and "bad.png" not in shown.stdout
    assert [line.startswith("edge: error: ") for line in shown.stderr.splitlines()] == [True] * 3

    none = edge("run", bundle, tmp_path / "bad.png", missing, "--json")
    assert (none.returncode, none.stdout, none.stderr.count("\n")) == (1, "", 2)
    assert "Traceback" in edge("run", bundle, tmp_path, "--debug").stderr


def test_inspect_a_bundle(workspace: Path) -> None:
    document = answer("inspect", "digits.edge", cwd=workspace)
    manifest = document["manifest"]
    assert document["kind"] == "bundle"
    ternary = [layer for layer in manifest["quantization"]["layers"] if layer["bits"] == 1.58]
    assert ternary
    assert all(0.1 < layer["zero_fraction"] < 0.6 for layer in ternary)
    shown = edge("inspect", "digits.edge", cwd=workspace).stdout
    for layer in manifest["quantization"]["layers"]:
        assert layer["name"] in shown
    for engine, metric in manifest["metrics"]["engines"].items():
        (row,) = (line.split() for line in shown.splitlines() if line.startswith(f"{engine} "))
        assert row[1:3] == [metric["file"], str(metric["samples"])]


@pytest.mark.parametrize("name", ["model.pte", "model.onnx", "reference.npz"])
def test_inspect_refuses_a_damaged_bundle_as_run_does(workspace: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((workspace / "digits.edge").read_bytes())
    with zipfile.ZipFile(workspace / "digits.edge") as archive:
        info = archive.getinfo(name)
        start = info.header_offset + 30 + len(name) + int.from_bytes(data[info.header_offset + 28 :][:2], "little")
        data[start + info.compress_size // 2] ^= 1
    (tmp_path / "damaged.edge").write_bytes(data)
    line = refused("inspect", "damaged.edge", cwd=tmp_path)
    assert f"damaged.edge: {name}: " in line
    assert "damaged.edge" in json.loads(edge("inspect", "damaged.edge", "--json", cwd=tmp_path).stderr)["error"]
    run = {"model.onnx": ["--backend", "onnx"]}.get(name, [])
    assert line == refused("run", "damaged.edge", *run, cwd=tmp_path)


def test_inspect_a_program_finds_the_same_ternary_layers(workspace: Path, program: Path) -> None:
    document = answer("inspect", program)
    manifest = answer("inspect", "digits.edge", cwd=workspace)["manifest"]
    assert document["arena_bytes"] == manifest["files"][program.name]["arena_bytes"]
    assert document["macs"] == manifest["files"][program.name]["macs"]

    def ternary(layers: list[dict[str, Any]]) -> list[tuple[list[int], float]]:
        found = [layer for layer in layers if layer["bits"] == 1.58]
        return sorted((layer["shape"], round(layer["zero_fraction"], 6)) for layer in found)

    assert ternary(document["layers"]) == ternary(manifest["quantization"]["layers"])
    assert "edge::ternary_linear" in edge("inspect", program).stdout


def unpacked(workspace: Path, kind: str) -> Path:
    """The bundle's file of a format, as a file of its own."""
    with zipfile.ZipFile(workspace / "digits.edge") as archive:
        name = next(name for name in archive.namelist() if name.endswith(kind))
        return Path(archive.extract(name, workspace))


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_inspect_other_files_finds_the_same_layers(workspace: Path, kind: str) -> None:
    pytest.importorskip({"tflite": "ai_edge_litert", "onnx": "onnx"}[kind])
    path = unpacked(workspace, kind)
    document = answer("inspect", path)
    assert document["kind"] == kind
    assert document["outputs"][0]["shape"] == [1, 10]
    expected = answer("inspect", "digits.edge", cwd=workspace)["manifest"]["quantization"]["layers"]
    # A float layer keeps its weights, not its name; LiteRT stores the weights of convolutions the other way round.
    found = {layer["name"]: layer for layer in document["layers"]}
    kinds = {"linear", "conv1x1", "conv2d"}  # an embedding is an added constant there, not a layer
    for layer in (layer for layer in expected if layer["bits"] < 32 and layer["kind"] in kinds):
        same = found.pop(layer["name"])
        assert (same["kind"], same["bits"], same["macs"]) == (layer["kind"], layer["bits"], layer["macs"])
        assert sorted(same["shape"]) == sorted(layer["shape"])
        assert same["zero_fraction"] == pytest.approx(layer["zero_fraction"], abs=1e-6)
        assert 0 <= layer["bytes"] - same["bytes"] <= 4 * 2 * layer["shape"][0]
    assert sorted(layer["macs"] for layer in found.values()) == sorted(
        layer["macs"] for layer in expected if layer["bits"] == 32
    )
    shown = edge("inspect", path).stdout
    assert all(layer["name"] in shown for layer in document["layers"])


@pytest.mark.parametrize(
    ("kind", "module", "install"),
    [
        ("tflite", "ai_edge_litert.schema_py_generated", "pip install 'edge-deploy[litert]'"),
        ("onnx", "onnx", "pip install onnx"),
    ],
)
def test_inspect_without_the_schema_says_what_to_install(
    workspace: Path, kind: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from edge.sdk.cli import cli

    path = str(unpacked(workspace, kind))
    # Another test may have imported it: then the package holds it as an attribute, too.
    package, _, name = module.partition(".")
    if name and package in sys.modules:
        monkeypatch.delattr(sys.modules[package], name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(cli, ["inspect", path], prog_name="edge")
    assert result.exit_code == 0, result.stderr
    assert "[1, 10]" in result.stdout and install in result.stdout
    document = json.loads(CliRunner().invoke(cli, ["inspect", path, "--json"], prog_name="edge").stdout)
    assert document["layers"] is None and install in document["missing"]


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_inspect_refuses_a_damaged_file_in_one_line(workspace: Path, tmp_path: Path, kind: str) -> None:
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(unpacked(workspace, kind).read_bytes()[:5000])
    assert cut.name in refused("inspect", cut)


def test_inspect_refuses_in_one_line(tmp_path: Path, program: Path) -> None:
    (tmp_path / "cut.pte").write_bytes(program.read_bytes()[:500])
    (tmp_path / "notes.txt").write_text("x")
    assert "no such file" in refused("inspect", tmp_path / "missing.pte")
    assert "no such file" in refused("inspect", tmp_path / "missing")
    (tmp_path / "folder.edge").mkdir()
    assert "folder.edge: not a file" in refused("inspect", tmp_path / "folder.edge")
    assert "cut.pte" in refused("inspect", tmp_path / "cut.pte")
    assert "expected .edge" in refused("inspect", tmp_path / "notes.txt")


def test_bench_compares_the_engines(workspace: Path) -> None:
    document = answer("bench", "digits.edge", "--runs", "3", "--backends", "core,onnx", cwd=workspace)
    assert [row["backend"] for row in document["results"]] == ["core", "onnx"]
    assert document["results"][0]["ratio"] == 1
    assert document["threads"] == 1
    for row in document["results"]:
        assert 0 < row["min_seconds"] <= row["median_seconds"]
    shown = edge("bench", "digits.edge", "--runs", "2", cwd=workspace)
    assert shown.returncode == 0, shown.stderr
    assert "3 runs" not in shown.stdout and "2 runs in turn" in shown.stdout


def test_bench_refuses_in_one_line(tmp_path: Path, program: Path) -> None:
    assert "no such" in refused("bench", tmp_path / "missing.edge")
    assert "litert" in refused("bench", program, "--backends", "litert")
    (tmp_path / "cut.pte").write_bytes(program.read_bytes()[:500])
    assert "cut.pte" in refused("bench", tmp_path / "cut.pte")


def test_models() -> None:
    names = {row["name"] for row in answer("models")}
    assert {"cct_2_3x2", "cct_7_3x1", "cct_14_7x2", "ds_cnn", "mlp"} <= names
    shown = edge("models")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in names)


def test_targets() -> None:
    assert [row["name"] for row in answer("targets")] == [target.name for target in TARGETS]
    shown = edge("targets")
    assert all(target.title in shown.stdout for target in TARGETS)


def test_doctor() -> None:
    document = answer("doctor")
    assert document["core"]["ok"] and document["core"]["operators"] > 0
    assert [row["name"] for row in document["engines"]] == list(ENGINES)
    assert all(row["version"] for row in document["packages"] if row["extra"] == "")
    assert document["cache"]["writable"]
    assert "ready" in edge("doctor").stdout


def test_doctor_lists_tflite_runtime_where_it_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from click.testing import CliRunner

    from edge.sdk.cli import cli

    found = importlib.util.find_spec
    hidden: set[str] = {"tflite_runtime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else found(name, *rest))

    def install() -> str | None:
        rows = json.loads(CliRunner().invoke(cli, ["doctor", "--json"], prog_name="edge").stdout)["packages"]
        (row,) = (row for row in rows if row["name"] == "tflite-runtime")
        assert "ai-edge-litert" in row["purpose"]
        return row["install"]

    hidden.add("ai_edge_litert")
    assert install() == "pip install tflite-runtime"
    hidden.remove("ai_edge_litert")
    if found("ai_edge_litert"):
        assert install() is None


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from click.testing import CliRunner

    from edge.sdk.cli import cli

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else found(name, *rest))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("EDGE_CACHE", "/proc/nowhere")
    result = CliRunner().invoke(cli, ["doctor"], prog_name="edge")
    assert result.exit_code == 0
    assert "pip install 'edge-deploy[images]'" in result.stdout
    assert "install g++ or clang++" in result.stdout
