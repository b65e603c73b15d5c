"""`edge bench`: beside peers that are really made and run, by operator, and as plots."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.export.peers.forms import PEERS
from edge.runtime import Bundle, write_bundle
from tests.conftest import ROOT, made_once, run_edge, source_hash

pytest.importorskip("executorch", reason="executorch is not installed")
pytest.importorskip("litert_torch", reason="litert-torch is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

_MODEL = """\
from pathlib import Path

from torch import nn


def build(num_classes, input_shape):
    Path(__file__).with_name("was-run").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes))
"""


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the .pte and .onnx of an MLP that was trained for an epoch."""

    def make(folder: Path) -> None:
        # The size that the registry gives, so that the benchmarks' tests find the same peers in the cache.
        words = ("--epochs", "1", "--limit", "200", "--input-size", "16", "--no-float-twin", "--no-report")
        words += ("--formats", "pte,onnx")
        run_edge("export", "mlp", *words, "-o", folder / "mlp.edge")

    sources = ("export/*.py", "export/lower/*.py", "export/models/*.py", "export/quantize/*.py")
    key = source_hash("tests/sdk/test_bench_command.py", *sources)
    return made_once("bench-mlp", key, make) / "mlp.edge"


def _answer(*words: str | Path) -> tuple[dict[str, Any], str]:
    """The JSON document of a command that succeeds, and what it said on standard error."""
    done = run_edge(*words, "--json")
    return json.loads(done.stdout), done.stderr


def _is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def test_against_every_peer(mlp: Path, tmp_path: Path) -> None:
    plot = tmp_path / "against.png"
    document, _ = _answer(
        "bench", mlp, "--against", "executorch,litert,onnx", "--runs", "3", "--threads", "2", "--plot", plot
    )
    rows = {(row["backend"], row["form"]): row for row in document["results"]}
    assert list(rows)[:2] == [("core", "this bundle"), ("onnx", "this bundle")]
    wanted = {
        *((engine, form) for engine in ("executorch", "litert", "onnx") for form in ("fp32", "int8 dynamic")),
        *((engine, "int8 static") for engine in ("executorch", "litert", "onnx")),
        ("executorch", "int4 dynamic"),
        ("litert", "int4 dynamic"),
        ("onnx", "int4 dynamic"),
    }
    assert wanted <= set(rows), document["skipped"]
    for row in rows.values():
        assert 0 < row["min_seconds"] <= row["median_seconds"]
        assert row["runs"] == 3
        assert 0 < row["ratio_p10"] <= row["ratio_p50"] <= row["ratio_p90"] < math.inf
        assert row["ratio"] == pytest.approx(row["min_seconds"] / rows["core", "this bundle"]["min_seconds"])
    for engine in ("executorch", "litert", "onnx"):
        assert rows[engine, "fp32"]["error_to_torch"] < 1e-5, "another model than ours"
        assert 1e-5 < rows[engine, "int8 dynamic"]["error_to_torch"] < 0.1, "not quantized, or broken"
    assert document["threads"] == 2
    assert document["machine"]["engines"]["onnxruntime"]
    fastest = min((row for row in document["results"][1:]), key=lambda row: row["min_seconds"])
    assert document["fastest_peer"] == {"name": f"{fastest['backend']} {fastest['form']}", "ratio": fastest["ratio"]}
    assert _is_png(plot)


def test_peers_are_made_once(mlp: Path) -> None:
    words = ("bench", mlp, "--against", "onnx", "--runs", "1")
    _answer(*words)
    _, said = _answer(*words)
    assert "make the peers' models" not in said
    shown = run_edge(*words).stdout
    assert "fastest peer: onnx " in shown and "int8 dynamic" in shown


def _without_onnxscript(folder: Path) -> dict[str, str]:
    """An environment whose children lack onnxscript, which onnxruntime does not need to run a bundle's own file."""
    (folder / "sitecustomize.py").write_text(
        "import sys\nif 'edge.export.peers.worker' in ' '.join(sys.orig_argv):\n    sys.modules['onnxscript'] = None\n"
    )
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "EDGE_CACHE": str(folder / "cache")}


def _check_onnx_is_skipped(document: dict[str, Any]) -> None:
    assert [(row["backend"], row["form"]) for row in document["results"]] == [
        ("core", "this bundle"),
        ("onnx", "this bundle"),
    ]
    assert set(document["skipped"]) == {f"onnx {form.name}" for form in PEERS["onnx"]}
    assert all("onnxscript" in reason and "\n" not in reason for reason in document["skipped"].values())


def test_a_file_that_a_bundle_names_is_not_run_unasked(mlp: Path, tmp_path: Path) -> None:
    source = tmp_path / "theirs.py"
    source.write_text(_MODEL)
    bundle = tmp_path / "theirs.edge"
    with Bundle.open(mlp) as opened:
        training = {**opened.manifest.training, "model": {"source": f"{source}:build", "kwargs": {}}}
        files = {name: bytes(opened.view(name)) for name in opened.manifest.files}
        write_bundle(bundle, replace(opened.manifest, training=training), files)
    words = ("bench", bundle, "--against", "onnx", "--runs", "1", "--json")
    refused = run_edge(*words, check=False)
    assert refused.returncode == 1 and refused.stdout == ""
    assert f"--model {source}:build" in json.loads(refused.stderr)["error"]
    assert not (tmp_path / "was-run").exists()

    # It is run when the caller names it, and a peer that then cannot be made is told in a line.
    named = (*words, "--model", f"{source}:build")
    _check_onnx_is_skipped(json.loads(run_edge(*named, env=_without_onnxscript(tmp_path)).stdout))
    assert (tmp_path / "was-run").exists()

    missing = run_edge(*words[:-1], "--model", f"{tmp_path}/missing.py:build", check=False)
    assert missing.returncode == 1
    assert "missing.py: no such file" in missing.stderr and missing.stderr.count("\n") == 1


def test_peers_need_a_manifest(mlp: Path, tmp_path: Path) -> None:
    with Bundle.open(mlp) as opened:
        (tmp_path / "model.pte").write_bytes(opened.view("model.pte"))
    refused = run_edge("bench", tmp_path / "model.pte", "--against", "onnx", check=False)
    assert refused.returncode == 1
    assert "give a .edge file" in refused.stderr and refused.stderr.count("\n") == 1


def test_profile(mlp: Path, tmp_path: Path) -> None:
    plot = tmp_path / "roofline.png"
    document, _ = _answer("bench", mlp, "--profile", "--runs", "5", "--plot", plot)
    with Bundle.open(mlp) as opened:
        macs = opened.manifest.files["model.pte"].macs
    assert sum(row["macs"] for row in document["operators"]) == macs
    assert sum(call["macs"] for call in document["calls"]) == macs
    assert sum(row["calls"] for row in document["operators"]) == len(document["calls"]) >= 3
    seconds = [row["seconds"] for row in document["operators"]]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) <= document["total_seconds"] * (1 + 1e-9), "the fastest of each call is at most a whole run"
    best = max(document["peak"]["int8_ops_per_second"].values())
    for row in document["operators"]:
        assert row["arithmetic"] == "int8"
        assert row["gops"] == pytest.approx(2e-9 * row["macs"] / row["seconds"])
        assert row["share_of_peak"] == pytest.approx(1e9 * row["gops"] / best)
        assert 0 < row["share_of_peak"] < 1
        assert row["bytes"] > row["macs"] / 4 / row["calls"], "less than the ternary weights"
    assert _is_png(plot)
    shown = run_edge("bench", mlp, "--profile", "--runs", "2").stdout
    assert "edge::ternary_linear" in shown and "of peak" in shown and "a MAC counts as 2 operations" in shown


def test_the_plain_comparison_has_a_spread_and_a_plot(mlp: Path, tmp_path: Path) -> None:
    plot = tmp_path / "engines.png"
    document, _ = _answer("bench", mlp, "--backends", "core,onnx", "--runs", "4", "--plot", plot)
    core, onnx = document["results"]
    assert core["ratio_p10"] == core["ratio_p90"] == 1
    assert 0 < onnx["ratio_p10"] <= onnx["ratio_p90"]
    assert _is_png(plot)


@pytest.mark.parametrize(
    "words",
    [
        ("models.py", "--models", "mlp", "--against", "onnx"),
        ("layers.py", "--shapes", "8:96x64", "--layers", "2", "--against", "onnx"),
        ("threads.py", "--model", "mlp"),
        ("load.py",),
    ],
    ids=lambda words: words[0],
)
def test_benchmarks(words: tuple[str, ...], mlp: Path, tmp_path: Path) -> None:
    """Each script runs, prints its table, and leaves finite figures."""
    script, *more = words
    if script == "load.py":
        more = ["--bundle", str(mlp)]
    command = [sys.executable, str(ROOT / "benchmarks" / script), *more, "--rounds", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    name = script.removesuffix(".py")
    document = json.loads((tmp_path / f"{name}.json").read_text())
    assert document["machine"]["cpu"] in done.stdout
    if name == "models":
        forms = {row["name"]: row for row in document["models"]["mlp"]["results"]}
        assert {"core 1.58 bits", "onnx 1.58 bits", "onnx fp32", "onnx int8 static"} <= set(forms)
        assert forms["onnx fp32"]["error_to_torch"] < 1e-5
    elif name == "layers":
        (shape,) = document["shapes"]
        assert (shape["shape"], shape["layers"], shape["macs"]) == ("8:96x64", 2, 2 * 8 * 96 * 64)
        assert shape["ratios"]["onnxruntime int8"] > 0 and shape["ratios"]["torch fp32"] > 0
        assert shape["ratios"]["onnxruntime int4"] > 0
        assert shape["ratios"]["LiteRT int8"] is None, "nobody asked for it"
        assert "ggml TQ2_0" not in shape["ratios"]
        assert "without ggml TQ2_0" in done.stdout and "without bitnet.cpp I2_S" in done.stdout
    elif name == "threads":
        assert [row["threads"] for row in document["results"]] == [1, 2]
        assert document["results"][0]["speed_up"] == 1
    else:
        assert 0 < document["load_seconds"]["min"] <= document["load_seconds"]["median"] < 5
        assert document["peak_beyond_numpy_bytes"] > document["peak_beyond_imports_bytes"]
    if name in ("models", "layers"):
        assert _is_png(tmp_path / f"{name}.png")
