"""A `.tflite` file as objects that can be edited: operators, constants, packed integers, and writing it back."""

from __future__ import annotations

from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edge.runtime.errors import Unsupported

Op = schema.BuiltinOperator

WIDTH_TYPE = {2: schema.TensorType.INT2, 4: schema.TensorType.INT4, 8: schema.TensorType.INT8}
"""The tensor type of integers of 2, 4 or 8 bits."""

WEIGHTED = (Op.FULLY_CONNECTED, Op.CONV_2D, Op.DEPTHWISE_CONV_2D)
"""Operators whose second input is a layer's weight."""

_OPERATOR_NAMES: dict[int, str] = {value: name for name, value in vars(Op).items() if isinstance(value, int)}


class TfliteFile:
    """A model with one subgraph.

    Attributes:
        operators: the subgraph's operators in order (`OperatorT` of the schema).
        tensors: its tensors (`TensorT`), which operators name by index.

    Raises:
        Unsupported: the model has control flow, so more than one subgraph.
    """

    def __init__(self, data: bytes) -> None:
        self.model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
        if len(self.model.subgraphs) != 1:
            raise Unsupported(f".tflite with {len(self.model.subgraphs)} subgraphs: control flow cannot be lowered")
        self.graph: Any = self.model.subgraphs[0]
        self.operators: list[Any] = self.graph.operators
        self.tensors: list[Any] = self.graph.tensors
        for op in self.operators:  # read as views into `data`, which cannot be assigned to
            op.inputs, op.outputs = [int(i) for i in op.inputs], [int(i) for i in op.outputs]

    # Reading

    def builtin(self, op: Any) -> int:
        """The builtin operator (a `schema.BuiltinOperator`) that `op` calls."""
        code = self.model.operatorCodes[op.opcodeIndex]
        return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))

    def operator_name(self, op: Any) -> str:
        """The name of the builtin operator, for example FULLY_CONNECTED."""
        return _OPERATOR_NAMES.get(self.builtin(op), "UNKNOWN")

    def name(self, index: int) -> str:
        """A tensor's name."""
        name = self.tensors[index].name
        return str(name.decode() if isinstance(name, bytes) else name or "")

    def constant(self, index: int) -> NDArray[np.float32] | None:
        """The values of a float32 constant; None for any other tensor, an absent one (-1) included."""
        if index < 0:
            return None
        tensor = self.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or tensor.type != schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(self.shape(index))

    def integers(self, index: int) -> tuple[NDArray[np.int8], NDArray[np.float32], int]:
        """The codes (int8, in the tensor's shape), scales and quantized dimension of an integer constant."""
        tensor = self.tensors[index]
        width = next(w for w, kind in WIDTH_TYPE.items() if kind == tensor.type)
        codes = unpack_codes(np.asarray(self.model.buffers[tensor.buffer].data), width, self.shape(index))
        scales = np.asarray(tensor.quantization.scale, np.float32)
        return codes, scales, int(tensor.quantization.quantizedDimension)

    def shape(self, index: int) -> tuple[int, ...]:
        """A tensor's shape; () for a scalar."""
        shape = self.tensors[index].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def consumers(self, index: int) -> list[Any]:
        """The operators that read a tensor."""
        return [op for op in self.operators if index in op.inputs]

    def weight(self, op: Any) -> int:
        """The weight of one of the `WEIGHTED` operators, looking through a DEQUANTIZE."""
        source = next((other for other in self.operators if other.outputs[0] == op.inputs[1]), None)
        dequantized = source is not None and self.builtin(source) == Op.DEQUANTIZE
        return int(source.inputs[0] if source is not None and dequantized else op.inputs[1])

    def chain(self, op: Any, name: str) -> list[Any]:
        """The operators from `op` to the tensor that carries `name`, or to an output, whichever comes first."""
        chain = [op]
        while self.name(chain[-1].outputs[0]) != name and self.consumers(chain[-1].outputs[0]):
            chain.append(self.consumers(chain[-1].outputs[0])[0])
        return chain

    def epilogue(self, chain: list[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The constants, [N] or [1], that a chain multiplies with and adds, its first operator's bias included."""
        factor, offset = np.ones(1, np.float32), np.zeros(1, np.float32)
        bias = self.constant(chain[0].inputs[2]) if len(chain[0].inputs) > 2 else None
        if bias is not None:
            offset = offset + bias.reshape(-1)
        for op in chain[1:]:
            for constant in (c for i in op.inputs if (c := self.constant(i)) is not None):
                if self.builtin(op) == Op.MUL:
                    factor = factor * constant.reshape(-1)
                elif self.builtin(op) == Op.ADD:
                    offset = offset + constant.reshape(-1)
        return factor, offset

    # Editing

    def add_tensor(self, shape: tuple[int, ...], values: NDArray[np.float32] | None = None) -> int:
        """Adds a float32 tensor, a constant if it has values, and returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = "", np.array(shape, np.int32), 0
        tensor.type = schema.TensorType.FLOAT32
        if values is not None:
            tensor.buffer = self._add_buffer(np.ascontiguousarray(values).view(np.uint8).reshape(-1))
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def set_integers(
        self, index: int, name: str, codes: NDArray[np.int8], scales: NDArray[np.float32], width: int, axis: int
    ) -> None:
        """Makes a tensor an integer constant.

        Args:
            index: the tensor; its shape stays.
            name: its new name.
            codes: int8, in the tensor's shape.
            scales: float32 [1], or one for every index of dimension `axis`.
            width: 2, 4 or 8 bits a code.
            axis: the quantized dimension where there is more than one scale.
        """
        tensor = self.tensors[index]
        tensor.name, tensor.type = name, WIDTH_TYPE[width]
        tensor.buffer = self._add_buffer(pack_codes(codes, width))
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales
        tensor.quantization.zeroPoint = np.zeros(scales.size, np.int64)
        tensor.quantization.quantizedDimension = axis if scales.size > 1 else 0

    def opcode(self, builtin: int, version: int) -> int:
        """The index of an operator code, added if it is not there."""
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def insert(
        self, anchor: Any, builtin: int, version: int, inputs: list[int], output: int, options: Any, *, behind: bool
    ) -> Any:
        """Inserts an operator in front of or behind `anchor` and returns it."""
        op = schema.OperatorT()
        op.opcodeIndex = self.opcode(builtin, version)
        op.inputs, op.outputs, op.builtinOptions = inputs, [output], options
        op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        position = next(i for i, other in enumerate(self.operators) if other is anchor)
        self.operators.insert(position + behind, op)
        return op

    def _add_buffer(self, data: NDArray[np.uint8]) -> int:
        buffer = schema.BufferT()
        buffer.data = data
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    # Writing

    def to_bytes(self) -> bytes:
        """The file, without tensors, operator codes and buffers that nothing uses, and without equal buffers."""
        self._drop_unused_tensors()
        used = sorted({op.opcodeIndex for op in self.operators})
        self.model.operatorCodes = [self.model.operatorCodes[i] for i in used]
        for op in self.operators:
            op.opcodeIndex = used.index(op.opcodeIndex)
        self._merge_buffers()
        # The converter's metadata speaks of the file before it was edited (the oldest runtime that reads it).
        self.model.metadata, self.model.metadataBuffer, self.model.description = None, None, "edge"
        builder = _AlignedBuilder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _drop_unused_tensors(self) -> None:
        graph = self.graph
        edges = [graph.inputs, graph.outputs, *([*op.inputs, *op.outputs] for op in self.operators)]
        used = sorted({int(i) for edge in edges for i in edge if i >= 0})
        place = {old: new for new, old in enumerate(used)} | {-1: -1}
        graph.tensors = self.tensors = [self.tensors[i] for i in used]
        graph.inputs = [place[int(i)] for i in graph.inputs]
        graph.outputs = [place[int(i)] for i in graph.outputs]
        for op in self.operators:
            op.inputs, op.outputs = [place[i] for i in op.inputs], [place[i] for i in op.outputs]
        for signature in self.model.signatureDefs or []:
            for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
                entry.tensorIndex = place[int(entry.tensorIndex)]

    def _merge_buffers(self) -> None:
        buffers, place = [schema.BufferT()], {b"": 0}
        for tensor in self.tensors:
            data = self.model.buffers[tensor.buffer].data
            content = b"" if data is None else bytes(data)
            if content not in place:
                place[content] = len(buffers)
                buffers.append(schema.BufferT())
                buffers[-1].data = np.frombuffer(content, np.uint8)
            tensor.buffer = place[content]
        self.model.buffers = buffers


def pack_codes(codes: NDArray[np.int8], width: int) -> NDArray[np.uint8]:
    """Packs integers as TFLite stores them: row-major, rows not padded, low bits first, two's complement.

    Args:
        codes: int8 of any shape, each within -2^(width-1) .. 2^(width-1) - 1.
        width: 2, 4 or 8 bits a code.

    Returns:
        uint8 [ceil(codes.size * width / 8)]; the last byte is padded with zeros.
    """
    flat = np.ascontiguousarray(codes, np.int8).reshape(-1).view(np.uint8)
    per_byte = 8 // width
    fields = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte) & np.uint8((1 << width) - 1)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(fields << np.arange(0, 8, width, dtype=np.uint8), axis=1)
    return packed


def unpack_codes(packed: NDArray[np.uint8], width: int, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The integers behind `pack_codes`, int8 in `shape`."""
    fields = packed.reshape(-1, 1) >> np.arange(0, 8, width, dtype=np.uint8)
    # Up to the top of the byte and back: the shift right repeats the sign.
    signed = (fields << np.uint8(8 - width)).astype(np.uint8).view(np.int8) >> (8 - width)
    codes: NDArray[np.int8] = signed.reshape(-1)[: int(np.prod(shape))].reshape(shape)
    return codes


def outputs_axis(builtin: int) -> int:
    """The dimension that counts outputs in the weight of one of the `WEIGHTED` operators."""
    return 3 if builtin == Op.DEPTHWISE_CONV_2D else 0


def laid_out(codes: NDArray[np.int8], builtin: int) -> NDArray[np.int8]:
    """Codes [N, K] or OIHW as an operator wants its weight: [N, K], OHWI, or 1HWO for a depthwise convolution."""
    if codes.ndim != 4:
        return codes
    return codes.transpose(1, 2, 3, 0) if builtin == Op.DEPTHWISE_CONV_2D else codes.transpose(0, 2, 3, 1)


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]  # untyped base
    """Puts byte vectors at multiples of 16, as the schema's `force_align` asks; flatbuffers' Python ignores it."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)
