"""Lowering to .tflite, on the engines themselves: ai-edge-litert, and tflite-runtime 2.14 in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("litert_torch", reason="litert-torch (edge-deploy[tflite-export]) is not installed")

from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.schema_py_generated import TensorType

from edge.export.lower.constants import compact_rows
from edge.export.lower.tflite import check_layers, to_tflite
from edge.export.lower.tflite_file import WIDTH_TYPE, Op, TfliteFile, pack_codes, unpack_codes
from edge.runtime.errors import BadInput, Unsupported
from tests.export.conftest import Lowered, Strided, layer_names, linear, lowered, sample

EXACT = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

CASES = [
    ("transformer", 2),
    ("transformer", 4),
    ("transformer", 8),
    ("depthwise", 2),
    ("depthwise", 4),
    ("depthwise", 8),
    ("depthwise2", 2),
    ("ternary", 2),
    ("compat", 2),
    ("compat", 8),
    ("int2", 2),
    ("int4", 4),
    ("int8", 8),
    ("lowest4", 4),
    ("lowest8", 8),
    ("negative4", 4),
    ("odd", 2),
    ("layer", 2),
    ("batch", 2),
    ("twice", 2),
    ("twice", 8),
    ("pair", 2),
]


def tflite(name: str, bits: int) -> Lowered:
    return lowered(name, "tflite", to_tflite, bits=bits)


def run(path: Path, example: tuple[Tensor, ...], resolver: Any = EXACT) -> list[NDArray[np.float32]]:
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), example, strict=True):
        interpreter.set_tensor(detail["index"], value.numpy())
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def error(path: Path, made: Lowered, resolver: Any = EXACT) -> float:
    """Largest difference from PyTorch, relative to the largest output."""
    outputs = run(path, made.example, resolver)
    return max(float(np.abs(y - e.numpy()).max() / e.abs().max()) for y, e in zip(outputs, made.expected, strict=True))


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_every_layer_agrees_with_integer_arithmetic(name: str, bits: int) -> None:
    made = tflite(name, bits)
    layers = check_layers(made.path, made.model, made.example)
    # Equal weights are one constant in the file, which carries one name.
    assert {layer for layer, _, _ in layers} >= set(layer_names(made.model)) - {"twin"}
    for layer, difference, scale in layers:
        assert difference <= 1e-6 * scale, layer


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_model_agrees_with_torch(name: str, bits: int) -> None:
    # 1e-7 of noise in a float operator flips an int8 rounding now and then, and random weights do not forgive it.
    made = tflite(name, bits)
    assert error(made.path, made) <= 2e-2


@pytest.mark.parametrize("norm_eps", [-1.0, 1e-5])
@pytest.mark.parametrize("lowest", [-1, -8, -128])
def test_strided_pointwise_convolutions(norm_eps: float, lowest: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = Strided(norm_eps, lowest).eval(), (torch.randn(1, 8, 7, 13),)
    report = to_tflite(model, example, tmp_path / "m.tflite")
    layers = check_layers(tmp_path / "m.tflite", model, example)
    assert [layer for layer, _, _ in layers] == list(report["layers"]) == ["first", "second", "line"]
    assert all(difference <= 1e-6 * scale for _, difference, scale in layers)
    (y,), expected = run(tmp_path / "m.tflite", example), model(*example).numpy()
    assert y.shape == (1, 7, 12) and np.abs(y - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["layer", "odd"])
def test_int2_is_exact_with_default_delegates(name: str) -> None:
    made = tflite(name, 2)
    assert error(made.path, made, OpResolverType.AUTO) <= 1e-6


@pytest.mark.parametrize(("bits", "negative"), [(1.58, True), (2, False), (2, True)])
def test_int2_with_a_scale_an_output_is_exact_with_default_delegates(
    tmp_path: Path, bits: float, negative: bool
) -> None:
    # XNNPACK would take such a layer over (K a multiple of 4) and quantize its activations asymmetrically.
    torch.manual_seed(0)
    model, x = nn.Sequential(linear(32, 24, bits, negative=negative)), torch.randn(6, 32)
    to_tflite(model, (x,), tmp_path / "m.tflite", 2)
    expected = model(x).numpy()
    (y,) = run(tmp_path / "m.tflite", (x,), OpResolverType.AUTO)
    assert np.abs(y - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_stored_at_their_width(bits: int) -> None:
    file = TfliteFile(tflite("transformer", bits).path.read_bytes())
    kinds = {file.name(i): tensor.type for i, tensor in enumerate(file.tensors) if file.name(i).endswith(".weight")}
    assert kinds.pop("stem.weight") == WIDTH_TYPE[8]
    assert set(kinds) == {f"blocks.0.{layer}.weight" for layer in ("qkv", "proj", "up", "down")}
    assert set(kinds.values()) == {WIDTH_TYPE[bits]}


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_no_convolution_reads_integers_itself(name: str, bits: int) -> None:
    # The hybrid CONV_2D quantizes asymmetrically, and its INT2 and INT4 forms are silently wrong.
    file = TfliteFile(tflite(name, bits).path.read_bytes())
    for op in file.operators:
        if file.builtin(op) in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D):
            assert file.tensors[op.inputs[1]].type == TensorType.FLOAT32


def test_ternary_convolutions_are_int8() -> None:
    file = TfliteFile(tflite("ternary", 2).path.read_bytes())
    kinds = {file.name(i): tensor.type for i, tensor in enumerate(file.tensors) if file.name(i).endswith(".weight")}
    assert [kinds[f"{layer}.weight"] for layer in (0, 2, 5, 8)] == [WIDTH_TYPE[8]] * 3 + [WIDTH_TYPE[2]]


def test_report() -> None:
    made = tflite("lowest4", 4)
    assert made.report["bytes"] == made.path.stat().st_size
    assert made.report["ops"]["FULLY_CONNECTED"] == 6
    assert made.report["layers"]["blocks.0.qkv"] == "INT8"
    assert made.report["layers"]["stem"] == "INT8 dequantized"
    assert made.report["notes"][0] == "blocks.0.qkv: no exact INT4 kernel for code -8, stored as INT8"
    assert tflite("transformer", 2).report["notes"] == []
    compat = tflite("compat", 2).report
    assert compat["layers"]["blocks.0.qkv"] == "INT2 dequantized"
    assert "bitlinear" in compat["notes"][0]


def test_cct_7_is_small_enough() -> None:
    made = tflite("cct7", 2)
    assert made.path.stat().st_size <= 1_600_000
    assert max(difference / scale for _, difference, scale in check_layers(made.path, made.model, made.example)) <= 1e-6


def test_positional_embedding_is_int8() -> None:
    made = tflite("transformer", 2)
    file = TfliteFile(made.path.read_bytes())
    position = made.model.get_parameter("position").detach().numpy()
    # The converter adds the transposed table in front of a transposition.
    shapes = (position.shape, position.mT.shape)
    (index,) = [i for i, t in enumerate(file.tensors) if t.type == TensorType.INT8 and file.shape(i) in shapes]
    codes, scales, axis = file.integers(index)
    assert axis == 1
    values = codes * scales[:, None]
    values = values if values.shape == position.shape else values.mT
    assert np.abs(values - position).max() <= 0.5001 * scales.max()


def test_only_dense_constants_are_compacted() -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((1, 64, 32)).astype(np.float32)
    assert compact_rows(dense) is not None
    assert compact_rows(dense[:, :8]) is None  # too small to be worth it
    assert compact_rows(np.stack([dense[0], dense[0]])) is None  # more than one table
    causal = np.where(np.tri(64, dtype=bool), np.float32(0), np.float32(-np.inf))
    assert compact_rows(causal) is None
    spiked = np.tile(dense, 4)
    spiked[0, 3, 5] = 1e4
    assert compact_rows(spiked) is None


def test_file_is_tidy() -> None:
    file = TfliteFile(tflite("transformer", 2).path.read_bytes())
    buffers = [bytes(b.data) for b in file.model.buffers if b.data is not None]
    assert len(buffers) == len(set(buffers)) == len(file.model.buffers) - 1
    used = {tensor.buffer for tensor in file.tensors}
    assert used == set(range(len(file.model.buffers)))
    data = tflite("transformer", 2).path.read_bytes()
    for content in (b for b in buffers if len(set(b)) > 32):
        assert data.find(content) % 16 == 0  # force_align in the schema


def test_inputs_and_outputs_have_names() -> None:
    single = Interpreter(str(tflite("transformer", 2).path))
    assert [d["name"] for d in single.get_input_details() + single.get_output_details()] == ["input", "output"]
    pair = Interpreter(str(tflite("pair", 2).path))
    assert [d["name"] for d in pair.get_input_details()] == ["input_0", "input_1"]
    assert [tuple(d["shape"]) for d in pair.get_output_details()] == [(2, 3, 5), (1, 16)]


_RUN_ON_TFLITE_RUNTIME = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter, OpResolverType
model, inputs, output = sys.argv[1:]
resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
interpreter = Interpreter(model, experimental_op_resolver_type=resolver, num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(inputs))
interpreter.invoke()
np.save(output, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


def run_on_tflite_runtime(python: Path, made: Lowered, folder: Path) -> subprocess.CompletedProcess[str]:
    np.save(folder / "x.npy", made.example[0].numpy())
    command = [python, "-c", _RUN_ON_TFLITE_RUNTIME, made.path, folder / "x.npy", folder / "y.npy"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("transformer", 4),
        ("transformer", 8),
        ("depthwise", 4),
        ("depthwise", 8),
        ("int4", 4),
        ("int8", 8),
        ("negative4", 4),
        ("lowest4", 4),
        ("lowest8", 8),
        ("compat", 8),
        ("twice", 8),
    ],
)
def test_int4_and_int8_run_on_tflite_runtime(name: str, bits: int, tflite_runtime: Path, tmp_path: Path) -> None:
    made = tflite(name, bits)
    result = run_on_tflite_runtime(tflite_runtime, made, tmp_path)
    assert result.returncode == 0, result.stderr
    expected = made.expected[0].numpy()
    assert np.abs(np.load(tmp_path / "y.npy") - expected).max() <= 2e-2 * np.abs(expected).max()


def test_tflite_runtime_refuses_int2(tflite_runtime: Path, tmp_path: Path) -> None:
    result = run_on_tflite_runtime(tflite_runtime, tflite("layer", 2), tmp_path)
    assert result.returncode != 0
    assert "FULLY_CONNECTED" in result.stderr  # it lacks the version, instead of misreading the weight


@given(width=st.sampled_from([2, 4, 8]), data=st.data())
def test_packing_round_trips(width: int, data: st.DataObject) -> None:
    half = 1 << (width - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=40))
    codes = np.array(values, np.int8)
    packed = pack_codes(codes, width)
    assert packed.size == -(-codes.size * width // 8)
    assert np.array_equal(unpack_codes(packed, width, codes.shape), codes)


def test_packing_is_low_bits_first() -> None:
    assert pack_codes(np.array([1, -1, 0, -2, 1], np.int8), 2).tolist() == [0b10_00_11_01, 0b01]
    assert pack_codes(np.array([1, -1, 7], np.int8), 4).tolist() == [0xF1, 0x07]


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x)


def test_unsupported_operator_is_named_with_its_module(tmp_path: Path) -> None:
    model = nn.Sequential(linear(8, 8), nn.Sequential(nn.ReLU(), Inverse())).eval()
    with pytest.raises(Unsupported, match=r"litert-torch cannot lower aten.erfinv.default in 1.1: rewrite"):
        to_tflite(model, (torch.randn(2, 8),), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_data_dependent_control_flow_is_refused(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(Unsupported, match=r"torch.export cannot trace the model: .*control flow"):
        to_tflite(nn.Sequential(linear(8, 8), Branch()).eval(), (torch.randn(2, 8),), tmp_path / "m.tflite")


def test_bits_are_checked(tmp_path: Path) -> None:
    model, example = sample("layer")
    with pytest.raises(BadInput, match="expected 2, 4 or 8, found 3"):
        to_tflite(model, example, tmp_path / "m.tflite", 3)  # type: ignore[arg-type]


def test_lowering_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, example = sample("layer")
    to_tflite(model, example, tmp_path / "m.tflite")
    check_layers(tmp_path / "m.tflite", model, example)
    assert capfd.readouterr() == ("", "")


def test_check_sees_a_wrong_weight(tmp_path: Path) -> None:
    made = tflite("layer", 2)
    file = TfliteFile(made.path.read_bytes())
    (op,) = [op for op in file.operators if file.builtin(op) == Op.FULLY_CONNECTED]
    codes, scales, _ = file.integers(op.inputs[1])
    codes[0, 0] = 1 if codes[0, 0] != 1 else 0
    file.set_integers(op.inputs[1], "model.weight", codes, scales, 2, 0)
    (tmp_path / "m.tflite").write_bytes(file.to_bytes())
    assert check_layers(tmp_path / "m.tflite", made.model, made.example)[0][1] == float("inf")


def test_check_sees_a_wrong_scale(tmp_path: Path) -> None:
    made = tflite("layer", 2)
    file = TfliteFile(made.path.read_bytes())
    (op,) = [op for op in file.operators if file.builtin(op) == Op.FULLY_CONNECTED]
    codes, scales, _ = file.integers(op.inputs[1])
    file.set_integers(op.inputs[1], "model.weight", codes, scales * np.float32(1.01), 2, 0)
    (tmp_path / "m.tflite").write_bytes(file.to_bytes())
    assert check_layers(tmp_path / "m.tflite", made.model, made.example)[0][1] == float("inf")


def test_check_refuses_another_models_file() -> None:
    made = tflite("odd", 2)
    model, example = nn.Sequential(linear(33, 21)), made.example
    with pytest.raises(Unsupported, match="another model's file"):
        check_layers(made.path, model, example)
