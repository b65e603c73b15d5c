"""onnxruntime's INT4 as a peer: the right products, by its own integer kernel, biases within."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxscript", reason="onnxscript (edge-deploy[export]) is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime (edge-deploy[onnx]) is not installed")

import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge.export.peers.onnx import to_int4

_RNG = np.random.default_rng(3)
_BLOCK = 32


def _codes(outputs: int, inputs: int) -> NDArray[np.float32]:
    """Weights that 4 bits hold exactly: each block has a -8, whose scale is 1."""
    weights = _RNG.integers(-8, 8, (outputs, inputs)).astype(np.float32)
    weights[:, ::_BLOCK] = -8
    return weights


def _activations(rows: int, inputs: int) -> NDArray[np.float32]:
    """Inputs that 8 bits hold exactly."""
    values = _RNG.integers(-127, 128, (rows, inputs)).astype(np.float32)
    values[:, ::_BLOCK] = 127
    return values


def _model(nodes: list[tuple[str, list[str], dict[str, float]]], **constants: NDArray[np.float32]) -> ModelProto:
    """Nodes that read "x", the constants named, or what earlier ones wrote: the first writes "y0", the next "y1", …"""
    made = [
        helper.make_node(kind, given, [f"y{place}"], name=f"n{place}", **attributes)
        for place, (kind, given, attributes) in enumerate(nodes)
    ]
    read = {name for _, given, _ in nodes for name in given}
    graph = helper.make_graph(
        made,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 96])],
        [
            helper.make_tensor_value_info(f"y{place}", TensorProto.FLOAT, None)
            for place in range(len(nodes))
            if f"y{place}" not in read
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _run(model: ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def test_int4_products_are_right() -> None:
    weight, bias = _codes(64, 96), _RNG.normal(size=64).astype(np.float32)
    x = _activations(5, 96)
    model = _model(
        [
            ("Gemm", ["x", "w", "b"], {"transB": 1}),
            ("MatMul", ["x", "wt"], {}),
            ("Add", ["b", "y1"], {}),
            ("MatMul", ["x", "wt"], {}),
            ("Gemm", ["x", "w", "b"], {"transB": 1, "alpha": 2.0}),
        ],
        w=weight,
        wt=weight.T.copy(),
        b=bias,
    )
    expected = _run(model, x)
    quantized = to_int4(model, _BLOCK)
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds == ["MatMulNBits", "MatMulNBits", "MatMulNBits", "Gemm"], "sums are within, and 2 x W is no layer"
    for node in quantized.graph.node[:3]:
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        assert (given["bits"], given["accuracy_level"], given["block_size"]) == (4, 4, _BLOCK)
    for found, wanted in zip(_run(quantized, x), expected, strict=True):
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_int4_is_as_far_off_as_4_bits_are() -> None:
    weight, bias = _RNG.normal(size=(64, 96)).astype(np.float32), np.zeros(64, np.float32)
    x = _RNG.normal(size=(5, 96)).astype(np.float32)
    model = _model([("Gemm", ["x", "w", "b"], {"transB": 1})], w=weight, b=bias)
    (wanted,) = _run(model, x)
    (found,) = _run(to_int4(model, _BLOCK), x)
    assert 0.02 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.15


def test_a_sum_that_others_need_stays() -> None:
    """The product is read twice, and what is added to it is no bias."""
    weight, bias = _codes(64, 96), _RNG.normal(size=64).astype(np.float32)
    x = _activations(5, 96)
    twice = [("MatMul", ["x", "wt"], {}), ("Add", ["y0", "b"], {}), ("Mul", ["y0", "y1"], {})]
    row = [("MatMul", ["x", "wt"], {}), ("Add", ["y0", "m"], {})]
    for nodes in (twice, row):
        used = {name for _, given, _ in nodes for name in given}
        constants = {"wt": weight.T.copy(), "b": bias, "m": _RNG.normal(size=(5, 64)).astype(np.float32)}
        model = _model(nodes, **{name: value for name, value in constants.items() if name in used})
        expected = _run(model, x)
        quantized = to_int4(model, _BLOCK)
        assert [node.op_type for node in quantized.graph.node][:2] == ["MatMulNBits", "Add"]
        for found, wanted in zip(_run(quantized, x), expected, strict=True):
            assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
