"""Lowering to .onnx, on onnxruntime itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("onnxscript", reason="onnxscript (edge-deploy[export]) is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime (edge-deploy[onnx]) is not installed")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge.export.lower.onnx import IR_VERSION, MICROSOFT, OPSET, check_layers, pack_blocks, to_onnx
from edge.runtime.errors import Unsupported
from tests.export.conftest import Lowered, Strided, layer_names, linear, lowered, sample

CASES = [
    "transformer",
    "ternary",
    "compat",
    "int2",
    "int4",
    "int8",
    "lowest4",
    "lowest8",
    "depthwise",
    "depthwise2",
    "negative4",
    "odd",
    "layer",
    "batch",
    "twice",
    "pair",
]


def onnx_file(name: str) -> Lowered:
    return lowered(name, "onnx", to_onnx)


def session(path: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        path if isinstance(path, bytes) else str(path), options, providers=["CPUExecutionProvider"]
    )


def run(path: Path, example: tuple[Tensor, ...]) -> list[NDArray[np.float32]]:
    engine = session(path)
    names = [entry.name for entry in engine.get_inputs()]
    return engine.run(None, {name: value.numpy() for name, value in zip(names, example, strict=True)})


@pytest.mark.parametrize("name", CASES)
def test_every_layer_agrees_with_integer_arithmetic(name: str) -> None:
    made = onnx_file(name)
    layers = check_layers(made.path, made.model, made.example)
    assert {layer for layer, _, _ in layers} == set(layer_names(made.model))
    for layer, difference, scale in layers:
        assert difference <= 1e-6 * scale, layer


@pytest.mark.parametrize("name", CASES)
def test_model_agrees_with_torch(name: str) -> None:
    made = onnx_file(name)
    for y, expected in zip(run(made.path, made.example), made.expected, strict=True):
        # 1e-7 of noise in a float operator flips an int8 rounding now and then, and random weights do not forgive it.
        assert np.abs(y - expected.numpy()).max() <= 2e-2 * expected.abs().max()


@pytest.mark.parametrize("norm_eps", [-1.0, 1e-5])
@pytest.mark.parametrize("lowest", [-1, -8, -128])
def test_strided_pointwise_convolutions(norm_eps: float, lowest: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = Strided(norm_eps, lowest).eval(), (torch.randn(1, 8, 7, 13),)
    report = to_onnx(model, example, tmp_path / "m.onnx")
    layers = check_layers(tmp_path / "m.onnx", model, example)
    assert [layer for layer, _, _ in layers] == list(report["layers"]) == ["first", "second", "line"]
    assert all(difference <= 1e-6 * scale for _, difference, scale in layers)
    (y,), expected = run(tmp_path / "m.onnx", example), model(*example).numpy()
    assert y.shape == (1, 7, 12) and np.abs(y - expected).max() <= 1e-6 * np.abs(expected).max()


def test_a_layer_that_runs_twice_is_checked_twice() -> None:
    made = onnx_file("twice")
    names = [layer for layer, _, _ in check_layers(made.path, made.model, made.example)]
    assert sorted(names) == ["again", "again", "first", "twin", "twin"]


@pytest.mark.parametrize(
    ("name", "bits"), [("transformer", 2), ("compat", 2), ("int2", 2), ("int4", 4), ("lowest8", 8), ("depthwise", 2)]
)
def test_linear_layers_are_matmulnbits(name: str, bits: int) -> None:
    made = onnx_file(name)
    nodes = [node for node in onnx.load(made.path).graph.node if node.op_type == "MatMulNBits"]
    assert {node.name for node in nodes} == {n for n, kind in made.report["layers"].items() if kind[:6] == "MatMul"}
    for node in nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert node.domain == MICROSOFT
        assert (attributes["bits"], attributes["accuracy_level"]) == (bits, 1)


@pytest.mark.parametrize("name", ["transformer", "depthwise", "ternary"])
def test_convolution_weights_are_int8(name: str) -> None:
    graph = onnx.load(onnx_file(name).path).graph
    kinds = {initializer.name: initializer.data_type for initializer in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        source = producers[node.input[1]]
        assert source.op_type == "DequantizeLinear"
        assert kinds[source.input[0]] == TensorProto.INT8


def test_positional_embedding_is_int8() -> None:
    made = onnx_file("transformer")
    constants = {i.name: numpy_helper.to_array(i) for i in onnx.load(made.path).graph.initializer}
    codes, scales = constants["position.compact"], constants["position.scales"]
    assert codes.dtype == np.int8
    position = made.model.get_parameter("position").detach().numpy()
    assert np.abs(codes * scales[:, None] - position).max() <= 0.5001 * scales.max()


def test_constants_stay_float_where_told(tmp_path: Path) -> None:
    model, example = sample("transformer")
    to_onnx(model, example, tmp_path / "m.onnx", compact_constants=False)
    constants = {i.name: i.data_type for i in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert constants["position"] == TensorProto.FLOAT


def test_file_names_its_versions_and_passes_the_checker() -> None:
    model = onnx.load(onnx_file("transformer").path)
    onnx.checker.check_model(model)
    assert model.ir_version == IR_VERSION
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, MICROSOFT: 1}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    used = {value for node in model.graph.node for value in node.input}
    assert {initializer.name for initializer in model.graph.initializer} <= used


def test_layer_normalization_is_one_operator() -> None:
    assert onnx_file("transformer").report["ops"]["LayerNormalization"] == 7


def test_inputs_have_names() -> None:
    assert [entry.name for entry in session(onnx_file("layer").path).get_inputs()] == ["input"]
    pair = session(onnx_file("pair").path)
    assert [entry.name for entry in pair.get_inputs()] == ["input_0", "input_1"]
    assert [entry.shape for entry in pair.get_outputs()] == [[2, 3, 5], [1, 16]]


def test_cct_7_is_small_enough() -> None:
    made = onnx_file("cct7")
    assert made.path.stat().st_size == made.report["bytes"] <= 1_600_000


@given(bits=st.sampled_from([2, 4, 8]), block=st.sampled_from([16, 32]), data=st.data())
def test_packing_holds_every_code(bits: int, block: int, data: st.DataObject) -> None:
    half = 1 << (bits - 1)
    columns = data.draw(st.integers(1, 40))
    values = data.draw(st.lists(st.integers(-half, half - 1), min_size=2 * columns, max_size=2 * columns))
    codes = np.array(values, np.int8).reshape(2, columns)
    packed = pack_blocks(codes, bits, block)
    assert packed.shape == (2, -(-columns // block), block * bits // 8)
    fields = (packed[..., None] >> np.arange(0, 8, bits)) & ((1 << bits) - 1)
    assert np.array_equal(fields.reshape(2, -1)[:, :columns].astype(int) - half, codes)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("columns", "outputs", "rows"), [(70, 24, 5), (256, 33, 1), (2304, 16, 3), (3, 1, 2)])
def test_matmulnbits_is_the_integer_product(bits: int, columns: int, outputs: int, rows: int) -> None:
    rng = np.random.default_rng(columns)
    half = 1 << (bits - 1)
    model = nn.Sequential(linear(columns, outputs, 1.58 if bits == 2 else bits))
    codes = model[0].codes.numpy()
    x = rng.integers(-127, 128, (rows, columns)).astype(np.float32)
    packed = pack_blocks(codes, bits, 256)
    constants = [
        numpy_helper.from_array(packed, "w"),
        numpy_helper.from_array(np.ones(outputs * packed.shape[1], np.float32), "ones"),
    ]
    attributes = {"K": columns, "N": outputs, "bits": bits, "block_size": 256, "accuracy_level": 1}
    node = helper.make_node("MatMulNBits", ["x", "w", "ones"], ["y"], domain=MICROSOFT, **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [rows, columns])],
        [value("y", TensorProto.FLOAT, [rows, outputs])],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    file = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    (y,) = session(file).run(None, {"x": x})
    assert np.array_equal(y, x.astype(np.int64) @ codes.astype(np.int64).T)
    assert codes.min() >= -half


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x)


def test_unsupported_operator_is_named_with_its_module(tmp_path: Path) -> None:
    model = nn.Sequential(linear(8, 8), nn.Sequential(nn.ReLU(), Inverse())).eval()
    with pytest.raises(Unsupported, match=r"the ONNX exporter cannot lower prims.erf_inv.default in 1.1: rewrite"):
        to_onnx(model, (torch.randn(2, 8),), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_lowering_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, example = sample("layer")
    to_onnx(model, example, tmp_path / "m.onnx")
    check_layers(tmp_path / "m.onnx", model, example)
    assert capfd.readouterr() == ("", "")


def test_check_sees_a_wrong_weight(tmp_path: Path) -> None:
    made = onnx_file("layer")
    model = onnx.load(made.path)
    (weight,) = [i for i in model.graph.initializer if i.name == "model.weight"]
    packed = numpy_helper.to_array(weight).copy()
    packed[0, 0, 0] ^= 0b11
    weight.CopyFrom(numpy_helper.from_array(packed, weight.name))
    onnx.save(model, tmp_path / "m.onnx")
    ((_, difference, scale),) = check_layers(tmp_path / "m.onnx", made.model, made.example)
    assert difference > 1e-3 * scale


def test_check_refuses_another_models_file() -> None:
    made = onnx_file("odd")
    with pytest.raises(Unsupported, match="another model's file"):
        check_layers(made.path, nn.Sequential(linear(33, 21)), made.example)
