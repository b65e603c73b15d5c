"""A float module as `.onnx` files, quantized by onnxruntime's own tools.

Dynamic quantization is kept to matrix products: a convolution becomes ConvInteger by it, whose kernel is slower than
the float one. On AVX2 without VNNI the 8-bit products saturate, so that results there are wrong (not slower).

INT4 is MatMulNBits with int8 activations (accuracy level 4); convolutions stay float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

_OPSET = 20

_INT4_BLOCK = 32
"""Weights that share a scale: the tool's default. Smaller blocks are slower; larger ones pad narrow layers."""


def lower(form: str, model: nn.Module, samples: list[Tensor], folder: Path) -> bytes:
    """One form of `forms.PEERS`; see `edge.export.peers.worker`."""
    plain, prepared, quantized = (folder / f"{name}.onnx" for name in ("plain", "prepared", "quantized"))
    if not plain.exists():
        program = torch.onnx.export(
            model, (samples[0],), dynamo=True, optimize=True, verbose=False, opset_version=_OPSET, input_names=["input"]
        )
        assert program is not None
        onnx.save(program.model_proto, str(plain))
    if form == "fp32":
        return plain.read_bytes()
    if not prepared.exists():
        quant_pre_process(str(plain), str(prepared))
    if form == "int4 dynamic":
        data: bytes = to_int4(onnx.load(prepared)).SerializeToString()
        return data
    if form == "int8 dynamic":
        quantize_dynamic(
            prepared,
            quantized,
            op_types_to_quantize=["MatMul", "Gemm", "Attention"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    else:
        quantize_static(
            prepared,
            quantized,
            _Samples(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return quantized.read_bytes()


def to_int4(model: ModelProto, block: int = _INT4_BLOCK) -> ModelProto:
    """Products by constant matrices as `com.microsoft.MatMulNBits` of 4 bits, biases within.

    Args:
        model: float32; changed.
        block: a power of two from 16 on.
    """
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    biases = {**_split_linear(model, constants), **_take_sums(model, constants)}
    quantizer = MatMulNBitsQuantizer(
        model, block_size=block, is_symmetric=True, accuracy_level=4, op_types_to_quantize=("MatMul",)
    )
    quantizer.process()
    quantized: ModelProto = quantizer.model.model
    for node in quantized.graph.node:
        output = node.output[0]
        if node.op_type == "MatMulNBits" and output in biases:
            quantized.graph.initializer.append(numpy_helper.from_array(biases[output], f"{output}_bias"))
            node.input.extend(["", "", f"{output}_bias"])  # after the zero points and the order of groups
    return quantized


def _split_linear(model: ModelProto, constants: dict[str, TensorProto]) -> dict[str, NDArray[Any]]:
    """Makes products, which is all that the quantizer knows, of Gemms that are linear layers.

    Returns:
        Their biases by the name of the output.
    """
    linear = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    biases = {}
    for node in model.graph.node:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or {**linear, "transB": 0, **given} != linear:
            continue
        weight, bias = (constants.get(name) for name in (*node.input[1:], "")[:2])
        if weight is None or bias is None:
            continue
        name = f"{node.output[0]}_weight"
        model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), name))
        biases[node.output[0]] = numpy_helper.to_array(bias)
        node.op_type = "MatMul"
        del node.attribute[:], node.input[1:]
        node.input.append(name)
    return biases


def _take_sums(model: ModelProto, constants: dict[str, TensorProto]) -> dict[str, NDArray[Any]]:
    """Has products by a constant write what an Add of a constant vector would make of them.

    Returns:
        The vectors by the name of the output.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    biases = {}
    for node in list(model.graph.node):
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        following = readers.get(node.output[0], [])
        if weight is None or len(weight.dims) != 2 or [reader.op_type for reader in following] != ["Add"]:
            continue
        [add] = following
        vectors = [constants[name] for name in add.input if name in constants]
        if [list(vector.dims) for vector in vectors] == [[weight.dims[1]]]:
            biases[add.output[0]] = numpy_helper.to_array(vectors[0])
            node.output[0] = add.output[0]
            model.graph.node.remove(add)
    return biases


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, samples: list[Tensor]) -> None:
        self._feeds = iter([{"input": sample.numpy()} for sample in samples])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
