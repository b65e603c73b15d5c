"""The report: a page that says what was measured, and two plots that can be opened."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from edge.export.pipeline import ExportResult
from edge.export.report import _interval, write_report
from edge.runtime.manifest import (
    EngineMetric,
    FileEntry,
    InputSpec,
    LayerRecord,
    Manifest,
    Metrics,
    Quantization,
    TensorSpec,
)


@pytest.fixture
def result(tmp_path: Path) -> ExportResult:
    """A finished export, its figures made up."""
    layers = tuple(
        LayerRecord(f"blocks.{index}.linear|1", "linear", 1.58, (64, 32), 512 + index, 0.27, 2048)
        for index in range(20)
    )
    manifest = Manifest(
        name="digits-mlp",
        version="1.0.0",
        task="image-classification",
        created="2026-01-01T00:00:00Z",
        license="Apache-2.0",
        inputs=(InputSpec("input", "float32", (1, 1, 8, 8)),),
        outputs=(TensorSpec("logits", "float32", (1, 10)),),
        files={
            "model.pte": FileEntry(("core", "executorch"), "0" * 64, 101_000),
            "model.onnx": FileEntry(("onnx",), "1" * 64, 141_000),
        },
        quantization=Quantization(1.58, "median", "int8", True, layers),
        metrics=Metrics(
            "accuracy",
            360,
            0.9944,
            0.9972,
            {
                "core": EngineMetric("model.pte", 0.9944, 1.0, 1e-5, 360),
                "onnx": EngineMetric("model.onnx", 0.9917, 0.9972, 2e-3, 360),
            },
        ),
    )
    history = [
        {"epoch": epoch, "loss": 2.0 / epoch, "lambda": min(1.0, epoch / 3), "test_accuracy": 1 - 0.5 / epoch}
        for epoch in range(1, 11)
    ]
    bundle = tmp_path / "digits.edge"
    bundle.write_bytes(bytes(1234))
    return ExportResult(
        bundle=bundle,
        manifest=manifest,
        history=history,
        float_history=history[:5],
        files={},
        seconds={"train": 12.3, "float twin": 14.56, "total": 20.0},
        notes=["left out .tflite needs litert_torch"],
    )


def test_the_page_and_its_plots(result: ExportResult, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    page = write_report(result)
    assert page == tmp_path / "digits-report" / "report.md"
    text = page.read_text()
    twin = "| float twin (beside train) | 14.6 |"
    for part in ("**99.44 %**", "**99.72 %**", "| core | model.pte | 101,000 B |", "left out .tflite", "1,234 B", twin):
        assert part in text
    assert text.count("`blocks.") == 12, "the largest layers only"
    assert "`blocks.19.linear\\|1`" in text
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.md", "sizes.png", "training.png"]
    for name in ("sizes.png", "training.png"):
        assert f"({name})" in text
        with image.open(page.parent / name) as picture:
            picture.load()
            assert min(picture.size) > 300


def test_without_float_twin_and_with_a_history_that_has_no_tests(result: ExportResult, tmp_path: Path) -> None:
    assert result.manifest.metrics is not None
    bare = replace(
        result,
        manifest=replace(result.manifest, metrics=replace(result.manifest.metrics, float=None)),
        history=[{"epoch": 1, "loss": math.nan}],
        float_history=[],
        notes=[],
    )
    text = write_report(bare).read_text()
    assert "not trained" in text
    assert "## Notes" not in text


def test_wilson_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263.
    low, high = _interval(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert _interval(1.0, 360)[1] == pytest.approx(1.0)
