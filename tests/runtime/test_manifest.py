"""The manifest: round trip, strictness, limits, and that docs/manifest.md lists its fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge.runtime import ArrayPreprocess, BadFile, BadInput, InputSpec, Manifest, TensorSpec
from edge.runtime.manifest import (
    EngineMetric,
    FileEntry,
    LayerRecord,
    Metrics,
    Quantization,
    check_license,
)

FULL = Manifest(
    name="digits",
    version="1.2.0",
    task="image-classification",
    created="2026-11-23T08:00:00Z",
    license="Apache-2.0",
    inputs=(InputSpec("x", "float32", (1, 4), ArrayPreprocess((4,))),),
    outputs=(TensorSpec("logits", "float32", (1, 3)),),
    labels=("null", "één", "二"),
    files={
        "model.pte": FileEntry(("core", "executorch"), "ab" * 32, 1000, 4096, 12_000, {"edge::ternary_linear.out": 3}),
        "reference.npz": FileEntry((), "cd" * 32, 50),
    },
    generator={"edge": "0.1.0", "torch": "2.13.0"},
    quantization=Quantization(
        1.58, "median", "int8", True, (LayerRecord("blocks.0.fc1", "linear", 1.58, (8, 4), 8, 0.26, 32),)
    ),
    metrics=Metrics("accuracy", 360, 0.994, 0.997, {"core": EngineMetric("model.pte", 0.994, 1.0, 1e-4, 360)}),
    training={"epochs": 40, "history": [{"loss": 0.5}], "nothing": None},
    reference="reference.npz",
)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """FULL as JSON with `change` applied to it."""
    record = json.loads(FULL.to_json())
    change(record)
    return json.dumps(record)


def test_round_trip() -> None:
    assert Manifest.from_json(FULL.to_json()) == FULL
    assert Manifest.from_json(FULL.to_json().encode()) == FULL
    bare = replace(FULL, labels=(), quantization=None, metrics=None, training={}, reference=None)
    assert Manifest.from_json(bare.to_json()) == bare


def test_files_for() -> None:
    assert FULL.files_for("core") == ["model.pte"]
    assert FULL.files_for("onnx") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=2), "this version reads schema 1, the bundle has 2: update edge-deploy"),
        (lambda m: m.update(schema=0), "export the model again"),
        (lambda m: m.update(schema="1"), "expected the integer 1, found text"),
        (lambda m: m.update(schema=True), "found a boolean"),
        (lambda m: m.pop("schema"), "field 'schema' is missing"),
        (lambda m: m.pop("labels"), "field 'labels' is missing"),
        (lambda m: m.update(extra=1), "unknown field 'extra'"),
        (lambda m: m.update(name="a/b"), "does not have the form"),
        (lambda m: m.update(name=7), "name: expected text, found an integer"),
        (lambda m: m.update(task="Image Classification"), "task"),
        (lambda m: m.update(created="yesterday"), "created"),
        (lambda m: m.update(license="x" * 201), "201 characters; at most 200"),
        (lambda m: m.update(license="\x1b[31m"), "control character"),
        (lambda m: m.update(generator={"edge": 1}), "generator"),
        (lambda m: m.update(inputs=[]), "at least one"),
        (lambda m: m.update(inputs={}), "inputs: expected a list, found an object"),
        (lambda m: m.update(inputs=m["inputs"] * 65), "65 entries; at most 64"),
        (lambda m: m["inputs"][0].update(dtype="complex64"), r"inputs\[0\].dtype: expected one of float32"),
        (lambda m: m["inputs"][0].update(dtype=["float32"]), r"inputs\[0\].dtype: expected one of"),
        (lambda m: m["inputs"][0].update(shape=[1, -4]), r"shape\[1\]: expected 1 to"),
        (lambda m: m["inputs"][0].update(shape=[1] * 9), "at most 8"),
        (lambda m: m["inputs"][0].update(shape=[1 << 20] * 3), "more than 2.31"),
        (
            lambda m: m["inputs"][0].update(shape=[4]),
            r"preprocessing gives float32 \[1, 4\], the input is float32 \[4\]",
        ),
        (lambda m: m["inputs"][0]["preprocess"].update(kind="magic"), r"inputs\[0\].preprocess.kind"),
        (lambda m: m["labels"].pop(), "2 labels for an output of 3 classes"),
        (lambda m: m.update(labels=["a", "a", "b"]), "twice"),
        (lambda m: m.update(labels=["a", None, "b"]), r"labels\[1\]: expected text, found null"),
        (lambda m: m.update(files={}), "files: is empty"),
        (lambda m: m["files"].update({"../x": m["files"]["model.pte"]}), "'../x': expected letters"),
        (lambda m: m["files"].update({"a\\b": m["files"]["model.pte"]}), "expected letters"),
        (lambda m: m["files"].update({"con.txt": m["files"]["model.pte"]}), "expected letters"),
        (lambda m: m["files"].update({"manifest.json": m["files"]["model.pte"]}), "does not list itself"),
        (lambda m: m["files"].update({"MODEL.pte": m["files"]["model.pte"]}), "differ only in case"),
        (lambda m: m["files"]["model.pte"].update(engines=["core", "tpu"]), r"engines\[1\]: expected one of core"),
        (lambda m: m["files"]["model.pte"].update(sha256="AB" * 32), "sha256"),
        (lambda m: m["files"]["model.pte"].update(bytes=-1), "bytes: expected 0"),
        (lambda m: m["files"]["model.pte"].update(bytes=10**400), "an integer of 1329 bits"),
        (lambda m: m["files"]["model.pte"].update(ops={"a": 1.5}), "expected an integer"),
        (lambda m: m["files"]["model.pte"].update(ops={"a\n": 1}), "control character"),
        (lambda m: m["quantization"].update(bits="1.58"), "bits: expected a number, found text"),
        (lambda m: m["quantization"].update(norm=1), "norm: expected true or false"),
        (lambda m: m["quantization"]["layers"][0].update(zero_fraction=1.5), "zero_fraction: expected 0 to 1"),
        (lambda m: m["metrics"]["engines"].update(tpu=m["metrics"]["engines"]["core"]), "expected one of core"),
        (lambda m: m["metrics"]["engines"]["core"].update(file="other.pte"), "'other.pte' is not listed"),
        (lambda m: m["metrics"].update(float=[]), "metrics.float: expected a number, found a list"),
        (lambda m: m.update(training=[]), "training: expected an object"),
        (lambda m: m.update(reference="none.npz"), "'none.npz' is not among the files"),
    ],
)
def test_refusals(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(BadFile, match=message) as caught:
        Manifest.from_json(changed(change))
    text = str(caught.value)
    assert text.startswith("manifest.json") and "\n" not in text and len(text) < 500


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8 at byte 0"),
        (b"[1, 2]", "expected an object, found a list"),
        (b'{"schema": 1, "schema": 1}', "a key occurs twice"),
        (b'{"schema": NaN}', "NaN is not a JSON number"),
        (b'{"schema": -Infinity}', "-Infinity is not"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested deeper than 12"),
        (b'{"a":' * 13 + b"1" + b"}" * 13, "nested deeper than 12"),
        (b" " * ((1 << 20) + 1), "at most 1,048,576"),
    ],
)
def test_bad_json(data: bytes, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        Manifest.from_json(data)


def test_brackets_in_text_are_not_nesting() -> None:
    text = '["' + "[" * 50 + '\\"' + "{" * 50
    assert Manifest.from_json(changed(lambda m: m.update(license=text))).license == text


def test_infinity_by_overflow_is_refused() -> None:
    text = FULL.to_json()
    with pytest.raises(BadFile, match="finite"):
        Manifest.from_json(text.replace('"loss": 0.5', '"loss": 1e999'))
    with pytest.raises(BadFile, match="finite"):
        Manifest.from_json(text.replace('"float": 0.997', '"float": 1e999'))


def test_nothing_invalid_is_written() -> None:
    for bad in (
        replace(FULL, training={"loss": float("nan")}),
        replace(FULL, training={"thing": object()}),
        replace(FULL, name="two words"),
        replace(FULL, version=""),
    ):
        with pytest.raises(BadInput):
            bad.to_json()
    with pytest.raises(BadInput, match="2 labels for an output of 3"):
        replace(FULL, labels=("a", "b"))


@pytest.mark.parametrize("text", ["", "Apache-2.0 OR MIT", "x" * 200, "x" * 201, "MIT\n"])
def test_the_check_of_a_licence_agrees_with_the_reader(text: str) -> None:
    written = changed(lambda m: m.update(license=text))
    try:
        check_license(text, "--license")
    except BadInput as error:
        assert str(error).startswith("--license: ")
        with pytest.raises(BadFile, match="license"):
            Manifest.from_json(written)
    else:
        assert Manifest.from_json(written).license == text


def test_documentation_names_every_field() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
    for record in (Manifest, InputSpec, FileEntry, Quantization, LayerRecord, Metrics, EngineMetric):
        for field in fields(record):
            assert f"`{field.name}`" in documentation, field.name
