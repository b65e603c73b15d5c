"""Lowering to `.onnx` for onnxruntime, with the integer arithmetic of every quantized layer in the graph.

- Activations are quantized by ordinary operators (absolute maximum, Reciprocal, Mul, Round, which rounds halves to
  even), so that they are what they are in PyTorch. onnxruntime's own dynamic quantization saturates on AVX2, and
  MatMulNBits with accuracy_level 4 quantizes activations block by block: an error of 2e-2.
- Linear layers and 1x1 convolutions are `com.microsoft.MatMulNBits` of 2, 4 or 8 bits over integer-valued
  activations, with unit scales: the exact integer product (onnxruntime >= 1.32 for 2 bits).
- k x k convolutions are Conv over an int8 initializer behind DequantizeLinear, also exact integers.
- Large constants that are added to activations (positional embeddings) are int8 with one scale a row.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edge.export.lower.constants import compact_rows
from edge.export.lower.float_form import activation_scale, explicit_form, listed, used_layers
from edge.export.lower.freeze import FrozenConv2d, FrozenLayer
from edge.export.lower.output import quiet, refusal
from edge.runtime.errors import Unsupported
from edge.runtime.whole_file import whole_file

OPSET = 20
IR_VERSION = 10
"""Versions of the operator set and the file format; onnxruntime reads them since 1.18."""

MICROSOFT = "com.microsoft"

_BLOCKS = (256, 128, 64, 32, 16)
"""Sizes of MatMulNBits's blocks along K; 2 bits allow no larger one."""

_FLOAT_ACTIVATIONS = 1
"""The accuracy_level that computes in float32."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def to_onnx(
    frozen: nn.Module, example: tuple[Tensor, ...], path: Path, *, compact_constants: bool = True
) -> dict[str, Any]:
    """Writes `frozen` as an `.onnx` file with float32 inputs and outputs.

    Args:
        frozen: from `edge.export.lower.freeze.freeze`.
        example: inputs of the shapes the file is to have.
        path: where to write; written to a temporary name first.
        compact_constants: store large added constants (positional embeddings) as int8 with one scale a row.

    Returns:
        {"bytes": size, "ops": {operator: count}, "layers": {layer: how its weight is stored}, "notes": []}.

    Raises:
        Unsupported: the exporter refuses an operator (named with its module) or dropped a quantized layer.
    """
    layers = used_layers(frozen, example)
    rewriter = _Rewriter(_convert(explicit_form(frozen), example), dict(layers))
    rewriter.run(compact_constants)
    data = rewriter.model.SerializeToString()
    onnx.checker.check_model(data)
    with whole_file(path) as file:
        file.write(data)
    ops = Counter(node.op_type for node in rewriter.graph.node)
    return {"bytes": len(data), "ops": dict(ops), "layers": rewriter.stored, "notes": []}


def pack_blocks(codes: NDArray[np.int8], bits: int, block: int) -> NDArray[np.uint8]:
    """Packs a weight as MatMulNBits stores it: blocks along K, low bits first, the zero point 2^(bits-1) added.

    Args:
        codes: int8 [N, K], each within -2^(bits-1) .. 2^(bits-1) - 1.
        bits: 2, 4 or 8.
        block: values a block; K is padded with zeros to a multiple of it.

    Returns:
        uint8 [N, ceil(K / block), block * bits / 8].
    """
    offset = 1 << (bits - 1)
    per_byte = 8 // bits
    padded = np.pad(codes.astype(np.int16), ((0, 0), (0, -codes.shape[1] % block)))
    fields = (padded + offset).astype(np.uint8).reshape(len(codes), -1, block // per_byte, per_byte)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(fields << np.arange(0, 8, bits, dtype=np.uint8), axis=-1)
    return packed


def _convert(form: nn.Module, example: tuple[Tensor, ...]) -> Any:
    inputs = ["input"] if len(example) == 1 else [f"input_{i}" for i in range(len(example))]
    with quiet():
        try:
            program = torch.onnx.export(
                form,
                example,
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=OPSET,
                input_names=inputs,
            )
        except Exception as error:
            raise refusal(error, form, example, "the ONNX exporter") from error
        assert program is not None
        return program.model_proto


class _Rewriter:
    """Puts packed integers in the place of the float-valued codes; a layer's node and weight carry its name."""

    def __init__(self, model: Any, layers: dict[str, FrozenLayer]) -> None:
        self.model = model
        self.graph = model.graph
        self.layers = layers
        self.stored: dict[str, str] = {}
        self.initializers = {initializer.name: initializer for initializer in self.graph.initializer}

    def run(self, compact_constants: bool) -> None:
        nodes = []
        calls: Counter[str] = Counter()
        for node in self.graph.node:
            weight = node.input[1] if len(node.input) > 1 else ""
            layer = self._layer_of(node)
            if layer and weight.endswith(".codes") and node.op_type in ("MatMul", "Conv"):
                node.name = f"{layer}@{calls[layer]}" if calls[layer] else layer
                calls[layer] += 1
                nodes += self._pack_linear(node, layer) if node.op_type == "MatMul" else self._pack_conv(node, layer)
            elif node.op_type == "Add" and compact_constants:
                nodes += self._compact(node)
            nodes.append(node)
        missing = [name for name in self.layers if name not in self.stored]
        if missing:
            raise Unsupported(
                f"the ONNX exporter kept no MatMul or Conv with a constant weight for {listed(missing)}: "
                "leave that layer in float with --keep, or leave .onnx out"
            )
        self._finish(nodes)

    def _layer_of(self, node: Any) -> str | None:
        """The quantized layer whose `forward` made a node, by the scopes that the exporter notes."""
        noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        return next((scope for scope in reversed(ast.literal_eval(noted)) if scope in self.layers), None)

    def _pack_linear(self, node: Any, name: str) -> list[Any]:
        layer = self.layers[name]
        codes = layer.codes.numpy()
        outputs, columns = codes.shape
        bits = 2 if layer.bits == 1.58 else int(layer.bits)
        block = min(_BLOCKS, key=lambda size: -(-columns // size) * (size * bits // 8 + 4))
        # Layers with equal weights share one initializer, which carries the name of the first.
        weight, ones = node.input[1].removesuffix(".codes") + ".weight", f"edge.ones.{outputs * -(-columns // block)}"
        self._constant(weight, pack_blocks(codes, bits, block))
        # One float a block; the layers share them.
        self._constant(ones, np.ones(outputs * -(-columns // block), np.float32))
        node.op_type, node.domain = "MatMulNBits", MICROSOFT
        del node.input[1:]
        node.input.extend([weight, ones])
        sizes = {"K": columns, "N": outputs, "bits": bits, "block_size": block}
        attributes = {**sizes, "accuracy_level": _FLOAT_ACTIVATIONS}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.stored[name] = f"MatMulNBits {bits}"
        return []

    def _pack_conv(self, node: Any, name: str) -> list[Any]:
        values = node.input[1]
        weight = values.removesuffix(".codes") + ".weight"
        self.stored[name] = "int8 dequantized"
        if weight in self.initializers:
            return []
        self._constant(weight, self.layers[name].codes.numpy())
        self._constant("edge.one", np.ones((), np.float32))
        del self.initializers[values]
        return [helper.make_node("DequantizeLinear", [weight, "edge.one"], [values], name=weight)]

    def _compact(self, node: Any) -> list[Any]:
        added = []
        for value in node.input:
            initializer = self.initializers.get(value)
            if initializer is None or initializer.data_type != onnx.TensorProto.FLOAT:
                continue
            compact = compact_rows(numpy_helper.to_array(initializer))
            if compact is None:
                continue
            self._constant(f"{value}.compact", compact[0])
            self._constant(f"{value}.scales", compact[1])
            del self.initializers[value]
            inputs, axis = [f"{value}.compact", f"{value}.scales"], compact[0].ndim - 2
            added.append(helper.make_node("DequantizeLinear", inputs, [value], name=value, axis=axis))
        return added

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(values, name)

    def _finish(self, nodes: list[Any]) -> None:
        model, graph = self.model, self.graph
        for node in nodes:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        used = {value for node in nodes for value in node.input} | {output.name for output in graph.output}
        for field in ("node", "initializer", "value_info", "metadata_props"):
            graph.ClearField(field)
        graph.node.extend(nodes)
        graph.initializer.extend(value for name, value in self.initializers.items() if name in used)
        for entry in [*graph.initializer, *graph.input, *graph.output]:
            entry.ClearField("metadata_props")
            entry.ClearField("doc_string")
        graph.name = "edge"
        model.ClearField("metadata_props")
        model.ClearField("opset_import")
        model.ir_version, model.producer_name = IR_VERSION, "edge"
        model.opset_import.append(helper.make_opsetid("", OPSET))
        if any(node.domain == MICROSOFT for node in nodes):
            model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def check_layers(path: Path, frozen: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[tuple[str, float, float]]:
    """Runs a file on onnxruntime and compares every quantized layer with integer arithmetic in numpy.

    A layer is fed what the engine itself fed it, so that no earlier rounding shows: the comparison goes from the
    input of the activation quantizer (behind the inner normalization) to the layer's output.

    Args:
        path: from `to_onnx`.
        frozen: what it was made of.
        example_inputs: one input.

    Returns:
        [(layer, largest absolute difference, largest absolute output)] in the order of the file; a layer that runs
        twice appears twice. The difference is infinite where the activation codes are not the same integers.

    Raises:
        Unsupported: the file is another model's.
    """
    import onnxruntime

    layers = dict(used_layers(frozen, example_inputs))
    model = onnx.load(path)
    graph = _Graph(model)
    taps = {node.name: graph.taps(node, layers) for node in model.graph.node if graph.is_layer(node)}
    unknown = [name for name, tap in taps.items() if tap is None]
    missing = [name for name in layers if name not in taps]
    if unknown or missing:
        raise Unsupported(f"{path.name}: layers {listed(unknown + missing)} do not fit: it is another model's file")
    if not taps:
        return []
    wanted = sorted({value for tap in taps.values() if tap is not None for value in tap})
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in wanted if value not in outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    fed = {name: value.detach().numpy() for name, value in zip(names, example_inputs, strict=True)}
    values = dict(zip(wanted, session.run(wanted, fed), strict=True))
    results = []
    for name, tap in taps.items():
        assert tap is not None
        layer, (x, q, y) = layers[name.partition("@")[0]], (values[value] for value in tap)
        expected = _integer_layer(layer, x, q)
        difference = float("inf") if expected is None else float(np.abs(expected - y).max())
        results.append((name.partition("@")[0], difference, float(np.abs(y).max())))
    return results


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, model: Any) -> None:
        self.producer = {output: node for node in model.graph.node for output in node.output}
        self.consumer = {value: node for node in model.graph.node for value in node.input}

    def is_layer(self, node: Any) -> bool:
        """Whether a node multiplies with a quantized layer's weight."""
        return node.op_type == "MatMulNBits" or (
            node.op_type == "Conv" and node.input[1] in self.producer and node.name != ""
        )

    def taps(self, node: Any, layers: dict[str, FrozenLayer]) -> tuple[str, str, str] | None:
        """The values that hold a layer's float activations, their codes, and the layer's output."""
        layer = layers.get(node.name.partition("@")[0])
        if layer is None:
            return None
        source = self.producer[node.input[0]]
        while source.op_type != "Round":
            source = self.producer[source.input[0]]
        # acc * (scales / s_x) + bias; with bitlinear's numerics (acc + bias) / (scales * s_x).
        last = self.consumer[node.output[0]]
        if layer.bias is not None:
            last = self.consumer[last.output[0]]
        return self.producer[source.input[0]].input[0], node.input[0], last.output[0]


def _integer_layer(layer: FrozenLayer, x: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """A layer's output for float activations `x`; None where the codes `q` are not those of `x`."""
    levels = 128 if layer.bitlinear_compat else 127
    dims = (-1,) if layer.kind != "conv2d" else (1, 2, 3)
    factor = activation_scale(x, dims, levels)
    if not np.array_equal(np.clip(np.rint(x * factor), -levels, 127), q):
        return None
    scales: NDArray[np.float32] = layer.scales.numpy()
    bias: NDArray[np.float32] = np.zeros(1, np.float32) if layer.bias is None else layer.bias.numpy()
    if layer.kind == "conv2d":
        assert isinstance(layer, FrozenConv2d)
        weight, geometry = layer.codes.double(), (layer.stride, layer.padding, layer.dilation, layer.groups)
        acc = F.conv2d(torch.from_numpy(q).double(), weight, None, *geometry).float().numpy()
        scales, bias = scales.reshape(-1, 1, 1), bias.reshape(-1, 1, 1)
    else:
        acc = (q.astype(np.int64) @ layer.codes.numpy().astype(np.int64).T).astype(np.float32)
    inside = layer.bitlinear_compat
    y: NDArray[np.float32] = (acc + bias) / (scales * factor) if inside else acc * (scales / factor) + bias
    return y
