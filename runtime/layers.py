"""The layers of a model file as its bytes tell them: kind, bits, shape, stored bytes, zeros, MACs.

A `.pte` keeps no names of modules, so a layer is called by its place: "17 edge::ternary_linear". A `.tflite` and an
`.onnx` name their tensors and nodes; reading them takes the packages that hold their schemas.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.runtime.errors import BadFile, MissingDependency
from edge.runtime.layouts import unpack_layout
from edge.runtime.manifest import LayerRecord

if TYPE_CHECKING:
    from edge.runtime._core import Program

# Operators whose weight is packed, and where among the arguments the bits are (None: 2-bit ternary codes).
_PACKED: dict[str, int | None] = {
    "edge::ternary_linear.out": None,
    "edge::ternary_conv1x1.out": None,
    "edge::int_linear.out": 5,
    "edge::int_conv1x1.out": 5,
    "edge::ternary_conv2d.out": None,
    "edge::ternary_conv2d_max_pool2d.out": None,
}
# Where the kernel's size is, of a packed convolution.
_KERNEL = {"edge::ternary_conv2d.out": 5, "edge::ternary_conv2d_max_pool2d.out": 4}
# Operators whose weight is a plain tensor, and which argument it is.
_PLAIN: dict[str, int] = {
    "edge::linear.out": 1,
    "edge::conv2d.out": 1,
    "edge::conv2d_int8.out": 1,
    "edge::conv2d_max_pool2d.out": 1,
    "edge::conv2d_int8_max_pool2d.out": 1,
    "edge::add_quantized.out": 1,
    "edge::sequence_pool.out": 1,
    "aten::addmm.out": 2,
    "aten::mm.out": 1,
    "aten::convolution.out": 1,
    "aten::embedding.out": 0,
}
_KINDS = {
    "linear": "linear",
    "conv1x1": "conv1x1",
    "conv2d": "conv2d",
    "addmm": "linear",
    "mm": "linear",
    "convolution": "conv2d",
    # A table that is added to an activation: a positional embedding as a rule, but the program does not tell.
    "add_quantized": "constant",
}


def program_layers(program: Program) -> list[LayerRecord]:
    """Every layer of `program` that holds weights, in the order of execution.

    The program is run once, on zeros: only a run shows the values of its constants.

    Args:
        program: An open program of the core.

    Returns:
        Records whose `name` is the place of the instruction and its operator; `bits` is 1.58 for ternary weights.
    """
    zeros = [np.zeros(shape, dtype=dtype) for dtype, shape in program.inputs]
    layers = []
    instructions = program.instructions
    for place, (operator, inputs, _) in enumerate(program.trace(zeros)):
        macs = instructions[place][1]
        constant = [argument[0] == "tensor" and argument[3] for argument in map(_as_tuple, instructions[place][2])]
        if operator in _PACKED:
            position = _PACKED[operator]
            kernel = inputs[_KERNEL[operator]] if operator in _KERNEL else (1, 1)
            bits = None if position is None else inputs[position]
            layers.append(_packed_layer(place, operator, macs, inputs, bits, kernel))
        elif operator in _PLAIN and constant[_PLAIN[operator]]:
            layers.append(_plain_layer(place, operator, macs, inputs[_PLAIN[operator]]))
    return layers


def _as_tuple(argument: Any) -> tuple[Any, ...]:
    return argument if isinstance(argument, tuple) else ("value",)


def _name(place: int, operator: str) -> str:
    return f"{place} {operator.rpartition('.')[0]}"


def _kind(operator: str) -> str:
    base = operator.partition("::")[2].partition(".")[0].removesuffix("_max_pool2d")
    return next((kind for part, kind in _KINDS.items() if base.endswith((part, f"{part}_int8"))), base)


def _packed_layer(
    place: int, operator: str, macs: int, inputs: list[Any], bits: int | None, kernel: Sequence[int]
) -> LayerRecord:
    """A layer with packed codes; its K is the length of its input's tokens, or a convolution's taps."""
    x, packed = inputs[0], inputs[1]
    columns = (x.shape[1] if "conv" in operator else x.shape[-1]) * math.prod(kernel)
    width = bits or 2
    zero = {None: 1, 2: 2, 4: 8, 8: 0}[bits]
    if packed.ndim > 2:  # a microcontroller's layout
        codes: NDArray[Any] = unpack_layout(packed, columns) + 1
    else:
        codes = _unpack(packed, columns, width)
    return LayerRecord(
        name=_name(place, operator),
        kind=_kind(operator),
        bits=1.58 if bits is None else float(bits),
        shape=_packed_shape(packed, x, columns, kernel),
        bytes=int(packed.nbytes),
        zero_fraction=float(np.mean(codes == zero)) if codes.size else 0.0,
        macs=macs,
    )


def _packed_shape(packed: Any, x: Any, columns: int, kernel: Sequence[int]) -> tuple[int, ...]:
    outputs = int(packed.shape[0])
    if math.prod(kernel) == 1:
        return (outputs, int(columns))
    return (outputs, int(x.shape[1]), *(int(k) for k in kernel))


def _plain_layer(place: int, operator: str, macs: int, weight: NDArray[Any]) -> LayerRecord:
    return LayerRecord(
        name=_name(place, operator),
        kind=_kind(operator),
        bits=float(8 * weight.dtype.itemsize),
        shape=tuple(int(size) for size in weight.shape),
        bytes=int(weight.nbytes),
        zero_fraction=float(np.mean(weight == 0)) if weight.size else 0.0,
        macs=macs,
    )


def _unpack(packed: NDArray[Any], columns: int, width: int) -> NDArray[Any]:
    """The codes [N, columns] of rows packed little end first, `width` bits each, without their padding."""
    if width == 8:
        return packed[:, :columns]
    fields = [(packed >> shift) & ((1 << width) - 1) for shift in range(0, 8, width)]
    codes: NDArray[Any] = np.stack(fields, axis=-1).reshape(packed.shape[0], -1)
    return codes[:, :columns]


@dataclass(frozen=True)
class StoredLayer:
    """A layer of a `.tflite` or `.onnx`.

    As `LayerRecord`, but `bits` are those of the storage (1.58 where 2-bit codes take three values only), `bytes` are
    the weight's alone, and `macs` are None where the shapes do not tell.
    """

    name: str
    kind: str
    bits: float
    shape: tuple[int, ...]
    bytes: int
    zero_fraction: float
    macs: int | None


def _stored(
    name: str, kind: str, width: int, codes: NDArray[Any], zero: Any, size: int, macs: int | None
) -> StoredLayer:
    """A layer whose weight has `codes` of `width` bits, of which `zero` (broadcast over them) stands for 0."""
    difference = codes.astype(np.float32) - zero
    ternary = width == 2 and bool((np.abs(difference) <= 1).all())
    share = float(np.mean(difference == 0)) if codes.size else 0.0
    shape = tuple(int(length) for length in codes.shape)
    return StoredLayer(name, kind, 1.58 if ternary else float(width), shape, size, share, macs)


_NUMPY_TYPES = frozenset(("FLOAT16", "FLOAT32", "FLOAT64", "INT8", "UINT8", "INT16", "INT32", "INT64"))

# What a damaged file makes the parsers of flatbuffers and protobuf, and NumPy behind them, raise.
_DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error)

# Kind of a layer by operator of LiteRT; its weight is the second input, its outputs first where it is a convolution.
_TFLITE_KINDS = {
    "FULLY_CONNECTED": "linear",
    "BATCH_MATMUL": "linear",
    "CONV_2D": "conv2d",
    "DEPTHWISE_CONV_2D": "conv2d",
}


def tflite_layers(data: bytes) -> list[StoredLayer]:
    """Every layer of a `.tflite` that holds weights, in the order of execution.

    Args:
        data: The file, which its engine has opened already.

    Raises:
        MissingDependency: ai-edge-litert, which has the schema, is not installed (tflite-runtime has none).
        BadFile: The file is damaged.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        raise MissingDependency(
            "the layers of a .tflite need ai-edge-litert: pip install 'edge-deploy[litert]'"
        ) from None
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        operators = _names(schema.BuiltinOperator)
        types = _names(schema.TensorType)
        return [layer for graph in model.subgraphs for layer in _tflite_graph(data, model, graph, operators, types)]
    except _DAMAGED as error:
        raise BadFile(f"not a whole .tflite model: {error}") from None


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _tflite_graph(
    data: bytes, model: Any, graph: Any, operators: Mapping[int, str], types: Mapping[int, str]
) -> Iterator[StoredLayer]:
    """The layers of one subgraph. A weight may be a constant, or a constant behind a DEQUANTIZE."""
    source: dict[int, int] = {}
    for place, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        name = operators.get(max(int(code.builtinCode), int(code.deprecatedBuiltinCode)), "")
        if name == "DEQUANTIZE":
            source[int(operator.outputs[0])] = int(operator.inputs[0])
        if name not in _TFLITE_KINDS:
            continue
        index = int(operator.inputs[1])
        tensor = graph.tensors[source.get(index, index)]
        values = _tflite_values(data, model, tensor, types[tensor.type])
        if values is None:  # computed, as the second factor of an attention
            continue
        codes, width, size = values
        outputs = math.prod(int(length) for length in graph.tensors[operator.outputs[0]].shape)
        inner = codes.shape[-1] if name == "FULLY_CONNECTED" else math.prod(codes.shape[1:])
        if name == "DEPTHWISE_CONV_2D":
            inner = math.prod(codes.shape[1:3])
        elif name == "BATCH_MATMUL":
            inner = codes.shape[-1 if operator.builtinOptions.adjY else -2]
        zeros = tensor.quantization.zeroPoint if tensor.quantization is not None else None
        yield _stored(
            _module(tensor.name.decode() if tensor.name else "") or f"{place} {name}",
            "conv1x1" if name == "CONV_2D" and codes.shape[1:3] == (1, 1) else _TFLITE_KINDS[name],
            width,
            codes,
            int(zeros[0]) if zeros is not None and len(zeros) else 0,
            size,
            outputs * inner,
        )


def _tflite_values(data: bytes, model: Any, tensor: Any, type_name: str) -> tuple[NDArray[Any], int, int] | None:
    """A constant's values in its shape, the bits of one, and its bytes; None for what is computed or sparse."""
    buffer = model.buffers[tensor.buffer]
    stored = buffer.data
    if stored is None and buffer.offset > 1:  # beyond the flatbuffer, as in files over 2 GB
        stored = np.frombuffer(data, np.uint8)[buffer.offset : buffer.offset + buffer.size]
    if stored is None or not len(stored) or tensor.sparsity is not None:
        return None
    raw = np.asarray(stored, np.uint8)
    shape = tuple(int(length) for length in tensor.shape)
    width = _width(type_name)
    if width >= 8 and type_name not in _NUMPY_TYPES:
        return None
    count = math.prod(shape)
    if width < 8:
        values: NDArray[Any] = _unpack(raw[None], count, width)[0].astype(np.int8)
        if not type_name.startswith("U"):
            values = values - (1 << width) * (values >= 1 << (width - 1))
    else:
        values = raw.view(type_name.lower())[:count]
    return values.reshape(shape), width, int(raw.nbytes)


def _width(type_name: str) -> int:
    """ "INT4" -> 4; "FLOAT" -> 32; "DOUBLE" -> 64."""
    digits = re.search(r"[0-9]+", type_name)
    return int(digits[0]) if digits else {"FLOAT": 32, "DOUBLE": 64}[type_name]


def _module(tensor: str) -> str:
    """A module's name from that of its weight: "classifier.fc.weight" -> "classifier.fc"."""
    return tensor.removesuffix(".weight")


# Kind of a layer by operator of ONNX, and which input is its weight.
_ONNX_KINDS = {
    "MatMulNBits": ("linear", 1),
    "Gemm": ("linear", 1),
    "MatMul": ("linear", 1),
    "MatMulInteger": ("linear", 1),
    "QLinearMatMul": ("linear", 3),
    "Conv": ("conv2d", 1),
    "ConvInteger": ("conv2d", 1),
    "QLinearConv": ("conv2d", 3),
}
_DEQUANTIZE = "DequantizeLinear"


def onnx_layers(data: bytes) -> list[StoredLayer]:
    """Every layer of an `.onnx` that holds weights, in the order of its nodes; those of inner graphs are left out.

    Args:
        data: The file, which its engine has opened already.

    Raises:
        MissingDependency: The package onnx, which has the schema, is not installed.
        BadFile: The file is damaged.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDependency("the layers of an .onnx need onnx: pip install onnx") from None
    try:
        model = onnx.load_model_from_string(data)
        return list(_onnx_graph(onnx, model))
    except (*_DAMAGED, DecodeError) as error:
        raise BadFile(f"not a whole .onnx model: {error}") from None


def _onnx_graph(onnx: Any, model: Any) -> Iterator[StoredLayer]:
    constants = {constant.name: constant for constant in model.graph.initializer}
    shapes = _onnx_shapes(onnx, model)
    # A weight may be a constant, or a constant behind a DequantizeLinear.
    source = {node.output[0]: node for node in model.graph.node if node.op_type == _DEQUANTIZE}
    for place, node in enumerate(model.graph.node):
        if node.op_type not in _ONNX_KINDS:
            continue
        kind, position = _ONNX_KINDS[node.op_type]
        dequantize = source.get(node.input[position])
        weight = constants.get(dequantize.input[0] if dequantize else node.input[position])
        if weight is None:
            continue
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        codes = onnx.numpy_helper.to_array(weight)
        size = -(-codes.size * _width(onnx.TensorProto.DataType.Name(weight.data_type)) // 8)
        zero: Any = 0
        if node.op_type == "MatMulNBits":
            width = int(attributes.get("bits", 4))
            points = constants.get(node.input[3]) if len(node.input) > 3 else None
            codes, zero = _onnx_blocks(
                codes, None if points is None else onnx.numpy_helper.to_array(points), attributes, width
            )
        else:
            width = _width(onnx.TensorProto.DataType.Name(weight.data_type))
            zero = _onnx_zero(onnx, node, dequantize, constants)
        inner = math.prod(codes.shape[1:])
        if kind == "linear" and node.op_type != "MatMulNBits":
            inner = codes.shape[-1 if attributes.get("transB") else -2]
        outputs = shapes.get(node.output[0])
        yield _stored(
            node.name or _module(weight.name) or f"{place} {node.op_type}",
            "conv1x1" if kind == "conv2d" and set(codes.shape[2:]) == {1} else kind,
            width,
            codes,
            zero,
            size,
            None if outputs is None else math.prod(outputs) * inner,
        )


def _onnx_blocks(
    packed: NDArray[Any], points: NDArray[Any] | None, attributes: Mapping[str, Any], width: int
) -> tuple[NDArray[Any], Any]:
    """Codes [N, K] of a MatMulNBits weight [N, blocks, bytes], and what stands for zero: one for all, or [N, K]."""
    rows, columns, block = packed.shape[0], int(attributes["K"]), int(attributes["block_size"])
    blocks = packed.shape[1]
    codes = _unpack(packed.reshape(rows * blocks, -1), block, width).reshape(rows, -1)[:, :columns]
    if points is None:
        return codes, 1 << (width - 1)
    if points.dtype == np.uint8:
        points = _unpack(points.reshape(rows, -1), blocks, width)
    return codes, np.repeat(points.reshape(rows, blocks).astype(np.float32), block, axis=1)[:, :columns]


def _onnx_zero(onnx: Any, node: Any, dequantize: Any, constants: Mapping[str, Any]) -> int:
    """The code that stands for 0 in a plain weight: the first of its zero points, 0 where there is none."""
    place = {"ConvInteger": 3, "MatMulInteger": 3, "QLinearConv": 5, "QLinearMatMul": 5}.get(node.op_type)
    inputs: Sequence[str] = dequantize.input[2:3] if dequantize else node.input[place : place + 1] if place else ()
    if not inputs or inputs[0] not in constants:
        return 0
    return int(onnx.numpy_helper.to_array(constants[inputs[0]]).reshape(-1)[0])


def _onnx_shapes(onnx: Any, model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that ONNX's inference can tell; a MatMulNBits counts as the MatMul that it stands for."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type == "MatMulNBits":
            factor = {item.name: item.i for item in node.attribute}
            name = f"{node.output[0]} weight"
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [factor["K"], factor["N"]])
            plain.graph.input.append(value)
            node.op_type, node.domain = "MatMul", ""
            node.input[:] = [node.input[0], name]
            del node.attribute[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    except Exception:  # onnx's own InferenceError and whatever its C++ throws: shapes are a courtesy
        return {}
    shapes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
        if all(sizes):
            shapes[value.name] = tuple(sizes)
    return shapes
