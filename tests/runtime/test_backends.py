"""Each backend on its real engine: results, errors, profiles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.runtime import BadFile, BadInput, EdgeError, MissingDependency, Unsupported, backends, load
from edge.runtime.backends import backend_module, default_threads

FORMATS = {"core": "pte", "executorch": "pte", "litert": "tflite", "onnx": "onnx"}
BACKENDS = tuple(FORMATS)
SampleArrays: TypeAlias = Callable[[str], tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]]


@pytest.mark.parametrize("sample", ["colour", "pitch", "pair"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_engine_agrees_with_torch(samples: Path, sample_arrays: SampleArrays, backend: str, sample: str) -> None:
    inputs, expected = sample_arrays(sample)
    with load(samples / f"{sample}.{FORMATS[backend]}", backend=backend, threads=1) as model:
        assert model.backend == backend and model.manifest is None and model.labels == ()
        assert [(spec.dtype, spec.shape) for spec in model.inputs] == [("float32", x.shape) for x in inputs]
        assert [(spec.dtype, spec.shape) for spec in model.outputs] == [("float32", y.shape) for y in expected]
        outputs = model(*inputs)
        found = list(outputs) if isinstance(outputs, tuple) else [outputs]
    for given, wanted in zip(found, expected, strict=True):
        assert given.dtype == wanted.dtype
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=2e-5)


def test_an_edge_operator_is_the_same_in_the_core_and_in_executorch(edge_op_sample: Path) -> None:
    """The op library is built on demand, with the compiler of this machine, and cached."""
    arrays = np.load(edge_op_sample / "ternary.npz")
    with (
        load(edge_op_sample / "ternary.pte", backend="core") as core,
        load(edge_op_sample / "ternary.pte", backend="executorch") as reference,
    ):
        found = core(arrays["input0"])
        np.testing.assert_array_equal(found, reference(arrays["input0"]))
    np.testing.assert_allclose(found, arrays["output0"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_engines_keep_quiet(samples: Path, capfd: pytest.CaptureFixture[str], backend: str) -> None:
    with load(samples / f"colour.{FORMATS[backend]}", backend=backend, threads=2) as model:
        model(np.zeros((1, 3, 8, 12), np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_the_callers(samples: Path, sample_arrays: SampleArrays, backend: str) -> None:
    inputs, expected = sample_arrays("colour")
    frozen = inputs[0].copy()
    frozen.setflags(write=False)
    with load(samples / f"colour.{FORMATS[backend]}", backend=backend, threads=2) as model:
        first = model(frozen)
        kept = first.copy()
        model(-inputs[0])
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(first, expected[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_profile(samples: Path, backend: str) -> None:
    with load(samples / f"pitch.{FORMATS[backend]}", backend=backend, threads=1) as model:
        ops = model.profile()
    assert all(op.seconds >= 0 for op in ops)
    if backend in ("core", "onnx"):
        assert len(ops) > 1
        assert any("addmm" in op.op or "linear" in op.op or "Gemm" in op.op for op in ops)
    else:
        assert [op.op for op in ops] == ["(whole model)"]
    if backend == "core":
        assert sum(op.macs or 0 for op in ops) >= 480 * 2 + 2 * 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.97])
def test_truncated_file(samples: Path, tmp_path: Path, backend: str, keep: float) -> None:
    data = (samples / f"pitch.{FORMATS[backend]}").read_bytes()
    path = tmp_path / f"cut.{FORMATS[backend]}"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BadFile, match=r"cut\.") as caught:
        load(path, backend=backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [b"serving_default_args_0", b"serving_default_output_0_output"])
def test_tflite_names_that_are_no_text(samples: Path, tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "odd.tflite"
    path.write_bytes((samples / "colour.tflite").read_bytes().replace(name, b"\xff" + name[1:]))
    with pytest.raises(BadFile, match="litert refuses the model"):
        load(path)


def test_a_tflite_signature_of_tensors_that_are_not_there(samples: Path, tmp_path: Path) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf((samples / "colour.tflite").read_bytes())
    model.signatureDefs[0].outputs[0].tensorIndex = 7685
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "odd.tflite").write_bytes(builder.Output())
    with pytest.raises(BadFile, match="litert refuses the model"):
        load(tmp_path / "odd.tflite")


def test_a_damaged_onnx_is_refused_without_a_word(
    samples: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime would announce on stdout, in the middle of our JSON, that it falls back from the CPU to the CPU."""
    path = tmp_path / "odd.onnx"
    path.write_bytes((samples / "colour.onnx").read_bytes().replace(b"AveragePool", b"\xffveragePool"))
    with pytest.raises(BadFile, match="onnxruntime refuses the model"):
        load(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_a_model(tmp_path: Path, backend: str) -> None:
    path = tmp_path / f"text.{FORMATS[backend]}"
    path.write_bytes(b"This is no model, but a text that is long enough to be read as one. " * 20)
    with pytest.raises(BadFile):
        load(path, backend=backend)


def test_wrong_backend_for_a_format(samples: Path) -> None:
    with pytest.raises(BadInput, match="holds no file for the litert backend; it has one for core, executorch"):
        load(samples / "pair.pte", backend="litert")
    with pytest.raises(BadInput, match="expected auto, core, executorch, litert, onnx"):
        load(samples / "pair.pte", backend="tensorrt")
    with pytest.raises(BadInput, match="expected auto, core"):
        backend_module("tensorrt")


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("executorch", "executorch", "edge-deploy[executorch]"),
        ("litert", "ai_edge_litert", "edge-deploy[litert]"),
        ("onnx", "onnxruntime", "edge-deploy[onnx]"),
    ],
)
def test_missing_engine_names_the_extra(
    samples: Path, monkeypatch: pytest.MonkeyPatch, backend: str, package: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in (package, "tflite_runtime") else find(name)
    )
    with pytest.raises(MissingDependency, match=r"pip install '" + extra.replace("[", r"\[").replace("]", r"\]")):
        load(samples / f"pair.{FORMATS[backend]}", backend=backend)
    with pytest.raises(MissingDependency):
        backend_module(backend).open(b"anything", 1)


def test_core_that_is_not_built(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge.runtime._core", None)
    with pytest.raises(MissingDependency, match="the C core is not built"):
        load(samples / "pair.pte", backend="core")


@pytest.mark.parametrize(
    ("sample", "old", "new", "message"),
    [
        ("pitch", b"aten::addmm", b"aten::addmx", r"no operator aten::addmx\.out"),
        ("pitch_xnnpack", b"XnnpackBackend", b"YnnpackBackend", "no delegate YnnpackBackend"),
    ],
)
def test_what_executorch_lacks_is_named(
    samples: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], sample: str, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "odd.pte"
    path.write_bytes((samples / f"{sample}.pte").read_bytes().replace(old, new))
    with pytest.raises(Unsupported, match=message):
        load(path, backend="executorch")
    with pytest.raises(Unsupported, match=f"core: .*; executorch: .*{message}"):
        load(path)
    assert ".cpp:" not in capfd.readouterr().err


def test_onnx_dynamic_shape_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "dynamic.onnx"))
    with pytest.raises(Unsupported, match=r"'x' has a dynamic shape \['batch', 3\]"):
        load(tmp_path / "dynamic.onnx")


def test_executorch_is_imported_lean_and_exporting_still_works(samples: Path) -> None:
    """Loading leaves the exporter unimported; importing the exporter afterwards gives the real one."""
    code = (
        "import sys; from edge.runtime import load; import numpy as np\n"
        f"m = load({str(samples / 'colour.pte')!r}, backend='executorch')\n"
        "m(np.zeros((1, 3, 8, 12), np.float32))\n"
        "assert 'executorch.exir' not in sys.modules and 'torchao' not in sys.modules\n"
        "from executorch.exir import to_edge; from executorch.exir._warnings import experimental\n"
        "m(np.zeros((1, 3, 8, 12), np.float32)); print('fine')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "fine\n", result.stderr
    assert ".cpp:" not in result.stderr, "ExecuTorch's log reached the user"


def test_tflite_runtime_with_numpy_1(samples: Path, colour_bundle: Path, tflite_runtime: Path, tmp_path: Path) -> None:
    """The older interpreter, and all that a bundle needs, in an environment of its own, which has no C core."""
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "runtime").symlink_to(Path(backends.__file__).parents[1])
    code = (
        "import sys; import numpy as np; from edge.runtime import load\n"
        "folder, bundle = sys.argv[1:]\n"
        "for name in ('colour', 'pitch', 'pair'):\n"
        "    arrays = np.load(f'{folder}/{name}.npz')\n"
        "    model = load(f'{folder}/{name}.tflite')\n"
        "    found = model(*(arrays[key] for key in sorted(arrays) if key.startswith('input')))\n"
        "    for i, output in enumerate(found if isinstance(found, tuple) else [found]):\n"
        "        np.testing.assert_allclose(output, arrays[f'output{i}'], rtol=1e-5, atol=2e-5)\n"
        "blue = np.zeros((20, 20, 3), np.uint8); blue[..., 2] = 255\n"
        "print(np.__version__[0], 'ai_edge_litert' in sys.modules, load(bundle, backend='litert').predict(blue).label)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [str(tflite_runtime), "-c", code, str(samples), str(colour_bundle)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1", "False", "blue"]


def test_default_threads() -> None:
    assert 1 <= default_threads() <= 4


@pytest.mark.parametrize("threads", [0, -1, 257, True, 1.5, "2"])
def test_thread_count_is_checked(samples: Path, threads: object) -> None:
    with pytest.raises(BadInput, match="threads: expected 1 to 256"):
        load(samples / "pair.pte", threads=threads)  # type: ignore[arg-type]


def test_errors_are_of_one_family() -> None:
    assert all(issubclass(kind, EdgeError) for kind in (BadFile, BadInput, MissingDependency, Unsupported))
