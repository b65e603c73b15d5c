"""What is refused before any work, and which formats are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.export.options import ExportOptions, as_typed, check_options
from edge.runtime.errors import BadInput


def formats(tmp_path: Path, **options: object) -> tuple[tuple[str, ...], list[str]]:
    """The formats that would be written, and the notes about them."""
    notes: list[str] = []
    chosen = ExportOptions(output=tmp_path / "x.edge", **options)  # type: ignore[arg-type]
    return check_options(chosen, notes.append), notes


def test_formats_that_the_target_does_not_read_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed")
    left_out = [f"left out .{name}: no engine of target pi-zero reads it" for name in ("tflite", "onnx")]
    assert formats(tmp_path, target="pi-zero") == (("pte",), left_out)
    assert formats(tmp_path, target="pi-zero", formats=("pte",)) == (("pte",), [])
    with pytest.raises(BadInput, match=r"no engine of --target pi-zero reads \.onnx: use --formats pte, or another"):
        formats(tmp_path, target="pi-zero", formats=("pte", "onnx"))


def test_messages_name_options_as_they_are_typed(tmp_path: Path) -> None:
    assert as_typed("batch_size") == "--batch-size"
    assert as_typed("weight_decay") == "weight_decay"
    for options, typed in (({"bits": 3}, "--bits: 3"), ({"tflite_bits": 3}, "--tflite-bits: 3")):
        with pytest.raises(BadInput, match=typed):
            formats(tmp_path, **options)
    with pytest.raises(BadInput, match="--bitlinear-compat: exists for 1.58 bits only, not for 4"):
        formats(tmp_path, bits=4, bitlinear_compat=True)
    with pytest.raises(BadInput, match="--conv ternary: exists for 1.58 bits only, not for 4"):
        formats(tmp_path, bits=4, conv="ternary")
    with pytest.raises(BadInput, match="--license: 201 characters; at most 200"):
        formats(tmp_path, license="x" * 201)
    with pytest.raises(BadInput, match="--formats: gguf: expected some of pte, tflite, onnx"):
        formats(tmp_path, formats=("gguf",))
