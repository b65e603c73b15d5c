"""`load` and `Model`: choosing an engine, checking arrays, predicting, import cost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import wave
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge.runtime import (
    BadFile,
    BadInput,
    Manifest,
    MissingDependency,
    TensorSpec,
    Unsupported,
    file_entry,
    load,
    write_bundle,
)
from edge.runtime.array_file import read_array
from edge.runtime.backends import core, executorch

BACKENDS = ("core", "executorch", "litert", "onnx")
SampleArrays: TypeAlias = Callable[[str], tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_an_image_on_every_engine(colour_bundle: Path, tmp_path: Path, backend: str) -> None:
    pixels = np.full((40, 50, 3), (30, 200, 40), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "green.png")
    with load(colour_bundle, backend=backend, threads=1) as model:
        assert model.backend == backend and model.labels == ("red", "green", "blue")
        assert model.inputs[0].name == "image" and model.outputs[0].name == "logits"
        found = model.predict(tmp_path / "green.png")
        for source in (str(tmp_path / "green.png"), pixels, Image.fromarray(pixels)):
            np.testing.assert_array_equal(model.predict(source).scores, found.scores)
    assert (found.label, found.index) == ("green", 1)
    assert found.scores.dtype == np.float32 and found.scores.shape == (3,)
    assert abs(float(found.scores.sum()) - 1) < 1e-6 and found.score == float(found.scores[1]) > 0.9
    top = found.top(2)
    assert top[0] == ("green", found.score) and len(top) == 2 and top[0][1] >= top[1][1]
    assert len(found.top(99)) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_a_sound_on_every_engine(pitch_bundle: Path, tmp_path: Path, backend: str) -> None:
    with load(pitch_bundle, backend=backend, threads=1) as model:
        for hertz, label in ((250, "low"), (3100, "high")):
            samples = (20000 * np.sin(2 * np.pi * hertz * np.arange(8820) / 22050)).astype("<i2")
            with wave.open(str(tmp_path / "x.wav"), "wb") as file:
                file.setparams((1, 2, 22050, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
            assert model.predict(tmp_path / "x.wav").label == label
            assert model.predict((22050, samples)).label == label


def test_auto_prefers_the_core(colour_bundle: Path, samples: Path) -> None:
    for path in (colour_bundle, samples / "colour.pte"):
        with load(path) as model:
            assert model.backend == "core"
    with load(samples / "colour.tflite") as model:
        assert model.backend == "litert"
    with load(samples / "colour.onnx") as model:
        assert model.backend == "onnx"


def test_auto_takes_executorch_for_a_delegate(samples: Path, sample_arrays: SampleArrays) -> None:
    inputs, expected = sample_arrays("pitch")
    with pytest.raises(
        Unsupported,
        match=r"pitch_xnnpack\.pte: (?!core: ).*XnnpackBackend.*executorch backend \(--backend executorch\)",
    ):
        load(samples / "pitch_xnnpack.pte", backend="core")
    with load(samples / "pitch_xnnpack.pte", threads=2) as model:
        assert model.backend == "executorch"
        np.testing.assert_allclose(model(*inputs), expected[0], rtol=1e-5, atol=2e-5)


def test_auto_goes_on_where_an_engine_is_missing_or_refuses(
    colour_bundle: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data: object, threads: int) -> core.CoreSession:
        raise Unsupported("delegate XnnpackBackend: the core runs no delegates")

    monkeypatch.setattr(core, "open", refuse)
    with load(colour_bundle) as model:
        assert model.backend == "executorch"
    monkeypatch.setattr(executorch, "available", lambda: "pip install 'edge-deploy[export]'")
    with load(colour_bundle) as model:
        assert model.backend == "litert"
    with pytest.raises(MissingDependency, match=r"\.edge: pip install"):  # who named the engine is not told its name
        load(colour_bundle, backend="executorch")
    with pytest.raises(Unsupported, match=r"core: delegate Xnnpack.*; executorch: pip install 'edge-deploy\[export\]'"):
        load(samples / "colour.pte")
    monkeypatch.undo()
    monkeypatch.setattr(executorch, "available", lambda: "pip install 'edge-deploy[export]'")
    monkeypatch.setattr(core, "available", lambda: "no core")
    with pytest.raises(MissingDependency, match="core: no core; executorch: pip install"):
        load(samples / "colour.pte")


def test_backend_without_a_file_in_the_bundle(samples: Path, colour_manifest: Manifest, tmp_path: Path) -> None:
    files = {"model.onnx": samples / "colour.onnx"}
    entries = {"model.onnx": file_entry(files["model.onnx"], ("onnx",), macs=297)}
    write_bundle(tmp_path / "x.edge", replace(colour_manifest, files=entries), files)
    with pytest.raises(BadInput, match="holds no file for the core backend; it has one for onnx"):
        load(tmp_path / "x.edge", backend="core")
    with load(tmp_path / "x.edge") as model:
        assert model.backend == "onnx" and model.file.endswith("x.edge/model.onnx")
    write_bundle(tmp_path / "y.edge", replace(colour_manifest, files={"a.txt": file_entry(b"a")}), {"a.txt": b"a"})
    with pytest.raises(BadFile, match="holds no file that an engine runs"):
        load(tmp_path / "y.edge")


def test_whole_model_profile_carries_the_manifests_macs(
    samples: Path, colour_manifest: Manifest, tmp_path: Path
) -> None:
    files = {"model.tflite": samples / "colour.tflite"}
    entries = {"model.tflite": file_entry(files["model.tflite"], ("litert",), macs=297)}
    write_bundle(tmp_path / "x.edge", replace(colour_manifest, files=entries), files)
    with load(tmp_path / "x.edge") as model:
        assert [(op.op, op.macs) for op in model.profile()] == [("(whole model)", 297)]


def test_manifest_that_contradicts_the_file(samples: Path, colour_manifest: Manifest, tmp_path: Path) -> None:
    files = {"model.onnx": samples / "colour.onnx"}
    manifest = replace(
        colour_manifest,
        labels=(),
        outputs=(TensorSpec("logits", "float32", (1, 4)),),
        files={"model.onnx": file_entry(files["model.onnx"], ("onnx",))},
    )
    write_bundle(tmp_path / "x.edge", manifest, files)
    with pytest.raises(BadFile, match=r"its outputs are float32 \[1, 3\]; the manifest says float32 \[1, 4\]"):
        load(tmp_path / "x.edge")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("array", "given"),
    [
        (np.zeros((1, 3, 8, 12)), r"float64 \[1, 3, 8, 12\]"),
        (np.zeros((3, 8, 12), np.float32), r"float32 \[3, 8, 12\]"),
        (np.zeros((1, 3, 8, 13), np.float32), r"float32 \[1, 3, 8, 13\]"),
        (np.zeros((1, 3, 8, 12), np.uint8), r"uint8 \[1, 3, 8, 12\]"),
        ([[1.0]], "builtins.list"),
    ],
)
def test_wrong_arrays(colour_bundle: Path, backend: str, array: object, given: str) -> None:
    with load(colour_bundle, backend=backend, threads=1) as model:
        with pytest.raises(BadInput, match=r"input 'image': expected float32 \[1, 3, 8, 12\], given " + given):
            model(array)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="expected float32"):
            model.profile(array)  # type: ignore[arg-type]


def test_arrays_of_any_layout_and_byte_order(samples: Path, sample_arrays: SampleArrays) -> None:
    inputs, expected = sample_arrays("colour")
    strided = np.asfortranarray(inputs[0])
    swapped = inputs[0].astype(">f4")
    with load(samples / "colour.onnx", threads=1) as model:
        for array in (strided, swapped):
            np.testing.assert_allclose(model(array), expected[0], rtol=1e-5, atol=2e-5)


def test_number_of_arrays(samples: Path) -> None:
    with load(samples / "pair.onnx") as model:
        with pytest.raises(BadInput, match="takes 2 arrays, 1 given$"):
            model(np.zeros((2, 3), np.float32))
        with pytest.raises(BadInput, match="takes 2 arrays, none given$"):
            model()
        with pytest.raises(BadInput, match="predict need one input and one row of class scores"):
            model.predict(np.zeros((2, 3), np.float32))


def test_what_is_no_path_is_refused(samples: Path) -> None:
    for path in (None, 3, b"colour.onnx"):
        with pytest.raises(BadInput, match="path: expected the path of a model file, found"):
            load(path)  # type: ignore[arg-type]
    with load(samples / "colour.onnx") as model, pytest.raises(BadInput, match="takes 1 array, none given$"):
        model()


def test_predict_takes_the_networks_input_and_array_files(colour_bundle: Path, tmp_path: Path) -> None:
    pixels = np.full((8, 12, 3), (30, 200, 40), np.uint8)
    with load(colour_bundle) as model:
        wanted = model.predict(pixels).scores.tolist()
        preprocess = model.inputs[0].preprocess  # type: ignore[attr-defined]
        for name, array in (("pixels", pixels), ("ready", preprocess(pixels))):
            np.save(tmp_path / f"{name}.npy", array)
            assert model.predict(array).scores.tolist() == wanted
            assert model.predict(tmp_path / f"{name}.npy").scores.tolist() == wanted
        np.save(tmp_path / "wide.npy", preprocess(pixels).astype(np.float64))
        with pytest.raises(BadInput, match=r"wide\.npy: float64 array .* expected float32"):
            model.predict(tmp_path / "wide.npy")
        np.save(tmp_path / "odd.npy", np.zeros((4, 5, 7)))
        with pytest.raises(BadInput, match=r"odd\.npy: image array of shape \[4, 5, 7\]"):
            model.predict(tmp_path / "odd.npy")


def test_damaged_array_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(3, 4))
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_array(path), np.arange(12).reshape(3, 4))
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    archive = tmp_path / "archive.npy"
    with archive.open("wb") as file:
        np.savez(file, x=np.zeros(3))
    for bad in (objects, archive, tmp_path, tmp_path / "none.npy"):
        with pytest.raises(BadFile, match=re.escape(f"{bad}: ")):
            read_array(bad)
    with pytest.raises(BadFile, match="holds Python objects"):
        read_array(objects)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile, match=r"x\.npy: "):
            read_array(path)
    for header in (
        b"(3, 4)",
        b"(3, -4)",
        b"(1<<60,)",
        b"(9999999999999, 999999)",
        b"(True,)",
        b"3, 4",
        b"((((((((((",
        b"\xff",
    ):
        path.write_bytes(whole.replace(b"(3, 4)", header))
        with contextlib.suppress(BadFile):
            read_array(path)
    random = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(whole)
        for at in random.integers(0, len(whole) - 48, random.integers(1, 4)):
            data[at] = random.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(BadFile):
            read_array(path)


def test_predict_without_a_manifest(samples: Path, tmp_path: Path) -> None:
    with load(samples / "colour.pte") as model:
        array = np.full((1, 3, 8, 12), -1, np.float32)
        array[:, 2] = 1
        found = model.predict(array)
        assert (found.label, found.index, found.labels) == ("2", 2, ("0", "1", "2"))
        np.save(tmp_path / "x.npy", array)
        assert model.predict(str(tmp_path / "x.npy")).scores.tolist() == found.scores.tolist()
        with pytest.raises(BadInput, match="has no preprocessing: expected an array, not list"):
            model.predict([0.0])
        with pytest.raises(BadFile, match=r"picture\.png: no such file"):
            model.predict(tmp_path / "picture.png")
        (tmp_path / "picture.png").touch()
        with pytest.raises(BadFile, match=r"picture\.png: the model takes arrays: expected a \.npy file"):
            model.predict(tmp_path / "picture.png")
        with pytest.raises(BadInput, match="NaN or infinity"):
            model.predict(np.full((1, 3, 8, 12), np.nan, np.float32))


def test_closed_model(samples: Path) -> None:
    model = load(samples / "pair.onnx")
    assert repr(model).endswith("pair.onnx on onnx>")
    model.close()
    model.close()
    with pytest.raises(BadInput, match="the model is closed"):
        model(np.zeros((2, 3), np.float32), np.zeros((1, 4), np.float32))


def test_bad_paths(tmp_path: Path) -> None:
    for name, message in (
        ("none.edge", "no such file"),
        ("none.pte", "no such file"),
        ("none.txt", "none.txt: no such file"),
        ("digits", "digits: no such file"),
        ("text.txt", r"unknown kind of file: expected \.edge, \.pte, \.tflite, \.onnx"),
        ("folder.pte", "folder.pte"),
        ("empty.pte", "0 bytes"),
    ):
        (tmp_path / "folder.pte").mkdir(exist_ok=True)
        (tmp_path / "empty.pte").touch()
        (tmp_path / "text.txt").touch()
        with pytest.raises(BadFile, match=message):
            load(tmp_path / name)


def test_damaged_program_in_a_bundle_names_it(colour_bundle: Path, colour_manifest: Manifest, tmp_path: Path) -> None:
    with zipfile.ZipFile(colour_bundle) as archive:
        cut = archive.read("model.pte")[:-500]
    entries = {"model.pte": file_entry(cut, ("core",))}
    write_bundle(tmp_path / "x.edge", replace(colour_manifest, files=entries), {"model.pte": cut})
    with pytest.raises(BadFile, match=r"x\.edge/model\.pte: "):
        load(tmp_path / "x.edge")


def test_public_names_are_lazy_and_complete() -> None:
    import edge.runtime

    for name in edge.runtime.__all__:
        assert getattr(edge.runtime, name) is not None
    assert set(edge.runtime.__all__) <= set(dir(edge.runtime))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edge.runtime.nothing  # noqa: B018


def test_a_core_model_needs_numpy_only(colour_bundle: Path, tmp_path: Path) -> None:
    """Predicting with the core from an array imports neither an engine, nor Pillow, nor zipfile's heavier friends."""
    code = (
        "import sys, json, numpy as np; from edge.runtime import load\n"
        f"with load({str(colour_bundle)!r}) as model: label = model.predict(np.zeros((9, 9, 3), np.uint8)).label\n"
        "print(json.dumps([model.backend, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    environment = {**os.environ, "EDGE_CACHE": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    backend, modules = json.loads(result.stdout)
    assert backend == "core"
    heavy = {"torch", "executorch", "onnxruntime", "ai_edge_litert", "tflite_runtime", "PIL", "scipy", "rich", "click"}
    assert not heavy & set(modules)
    assert not (tmp_path / "cache").exists()
