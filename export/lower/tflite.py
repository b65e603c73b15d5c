"""Lowering to `.tflite` with INT2, INT4 or INT8 weights for the kernels that LiteRT already has.

The converter sees float weights. Then the file is rewritten with the schema's own objects:

- A quantized linear layer or 1x1 convolution stays one FULLY_CONNECTED whose weight becomes an integer constant. Its
  *hybrid* kernel quantizes each token symmetrically to int8, multiplies integers and rescales: BitNet's arithmetic.
- A k x k convolution keeps float arithmetic on integer-valued activations; its weight is an int8 constant behind a
  DEQUANTIZE, which runs once. (The hybrid CONV_2D quantizes asymmetrically: an error of 5e-3. INT2 and INT4 weights in
  CONV_2D are silently wrong.) Layers with the numerics of PyPI `bitlinear` are stored the same way.
- Large constants that are added to activations (positional embeddings) become int8 with one scale a row.

What the engines make of it, as measured (ai-edge-litert 2.3.0, tflite-runtime 2.14.0):

- LiteRT's own kernels are exact. tflite-runtime is, too, with INT4 and INT8; it refuses INT2.
- XNNPACK, LiteRT's default delegate, takes INT4 and INT8 layers over and quantizes their activations asymmetrically:
  differences of about 1 % of a layer's output range. It leaves INT2 alone while there is one scale for the tensor.
- XNNPACK refuses negative scales, and tflite-runtime ignores all but the first scale of an INT8 (and of an INT4 with
  K < 32) layer: scales that differ by output are a MUL behind the layer, whose own scale is 1.
- The kernels negate a weight in its own width, so that the lowest code of INT4 and INT8 (-8, -128) gives garbage: a
  layer that has it gets the next width.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.export.lower.constants import compact_rows
from edge.export.lower.float_form import hybrid_form, listed, same_weights, used_layers
from edge.export.lower.freeze import FrozenLayer
from edge.export.lower.output import quiet, refusal
from edge.export.lower.tflite_check import check_layers
from edge.export.lower.tflite_file import WEIGHTED, WIDTH_TYPE, Op, TfliteFile, laid_out, outputs_axis
from edge.runtime.errors import BadInput, Unsupported
from edge.runtime.whole_file import whole_file

__all__ = ["check_layers", "hybrid_width", "to_tflite"]

_EXACT_CODES = {2: (-2, 1), 4: (-7, 7), 8: (-127, 127)}
"""Codes that the hybrid kernels multiply correctly, by width."""

_HYBRID_VERSION = {2: 14, 4: 10, 8: 5}
"""FULLY_CONNECTED versions with hybrid kernels; an older runtime refuses the file by them instead of misreading it."""

_DEQUANTIZE_VERSION = {2: 7, 4: 6, 8: 5}

# The converter rounds once when it folds a factor into a weight.
_FOLDING_TOLERANCE = 1e-6


def to_tflite(
    frozen: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    bits: Literal[2, 4, 8] = 2,
    *,
    compact_constants: bool = True,
) -> dict[str, Any]:
    """Writes `frozen` as a `.tflite` file with float32 inputs and outputs.

    Args:
        frozen: from `edge.export.lower.freeze.freeze`.
        example: inputs of the shapes the file is to have.
        path: where to write; written to a temporary name first.
        bits: width of the weights of linear layers and 1x1 convolutions. A layer that needs more gets more.
        compact_constants: store large added constants (positional embeddings) as int8 with one scale a row.

    Returns:
        {"bytes": size, "ops": {operator: count}, "layers": {layer: how its weight is stored}, "notes": [one line for
        each layer that is stored wider or computed in another way than `bits` suggests]}.

    Raises:
        BadInput: `bits` is not 2, 4 or 8.
        Unsupported: the converter refuses an operator (named with its module) or dropped a quantized layer.
    """
    if bits not in WIDTH_TYPE:
        raise BadInput(f"tflite bits: expected 2, 4 or 8, found {bits!r}")
    layers = used_layers(frozen, example)
    form = hybrid_form(frozen, lambda layer: hybrid_width(layer, bits) is not None)
    rewriter = _Rewriter(TfliteFile(_convert(form, example)), layers, bits)
    rewriter.run(compact_constants)
    data = rewriter.file.to_bytes()
    with whole_file(path) as file:
        file.write(data)
    ops = Counter(rewriter.file.operator_name(op) for op in rewriter.file.operators)
    return {"bytes": len(data), "ops": dict(ops), "layers": rewriter.stored, "notes": rewriter.notes}


def hybrid_width(layer: FrozenLayer, bits: int) -> int | None:
    """Bits of the narrowest weight type of at least `bits` whose hybrid kernel runs `layer` exactly; None for none."""
    if layer.kind == "conv2d" or layer.bitlinear_compat:
        return None
    codes = layer.codes
    low, high = int(codes.min()), int(codes.max())
    fitting = (w for w, (least, most) in _EXACT_CODES.items() if w >= bits and least <= low and high <= most)
    return next(fitting, None)


def _convert(form: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    with quiet():  # the import alone logs
        import litert_torch

        try:
            converted = litert_torch.convert(form, example)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.tflite"
                converted.export(str(file))
                return file.read_bytes()
        except Exception as error:
            raise refusal(error, form, example, "litert-torch") from error


class _Match(NamedTuple):
    name: str
    layer: FrozenLayer
    scales: NDArray[np.float32]
    folded: bool


class _Rewriter:
    """Puts integer weights in the place of the converter's float ones.

    Names in the file: a layer's weight is `<layer>.weight` (`<layer>.folded` where the converter folded a constant of
    the model into it or its bias, so that it cannot be compared with the layer's own), the tensor that leaves the
    layer is `<layer>`, inputs and outputs are `input` and `output` (numbered if there are more). All others lose
    theirs (MLIR locations).
    """

    def __init__(self, file: TfliteFile, layers: list[tuple[str, FrozenLayer]], bits: int) -> None:
        self.file = file
        self.layers = layers
        self.bits = bits
        self.stored: dict[str, str] = {}
        self.notes: list[str] = []
        self.dequantized: dict[int, int] = {}
        self.folded: set[int] = set()

    def run(self, compact_constants: bool) -> None:
        for tensor in self.file.tensors:
            tensor.name = ""
        missing = dict(self.layers)
        matches: dict[int, _Match] = {}
        for op in list(self.file.operators):
            builtin = self.file.builtin(op)
            if builtin in WEIGHTED:
                weight = op.inputs[1]
                # A layer that runs twice may have two constants, if a factor was folded into one of them.
                match = (
                    matches.get(weight)
                    or self._match(weight, builtin, missing)
                    or self._match(weight, builtin, dict(self.layers))
                )
                if match is not None:
                    matches[weight] = match
                    missing.pop(match.name, None)
                    self._store(op, builtin, match)
                    self._note_folding(op, match)
            elif builtin == Op.ADD and compact_constants:
                self._compact(op)
        for kind, indices in (("input", self.file.graph.inputs), ("output", self.file.graph.outputs)):
            for number, index in enumerate(indices):
                self.file.tensors[index].name = kind if len(indices) == 1 else f"{kind}_{number}"
        for name, layer in list(missing.items()):
            # Layers with equal weights share one constant, which carries the name of the first.
            twin = next((m.name for m in matches.values() if same_weights(layer, m.layer)), None)
            if twin is not None:
                self.stored[name] = self.stored[twin]
                del missing[name]
        if missing:
            raise Unsupported(
                f"litert-torch kept no FULLY_CONNECTED or CONV_2D with a constant weight for {listed(missing)}: "
                "leave that layer in float with --keep, or leave .tflite out"
            )

    def _match(self, weight: int, builtin: int, layers: dict[str, FrozenLayer]) -> _Match | None:
        """The layer of whose codes this float weight is a multiple, row by row."""
        values = self.file.constant(weight)
        if values is None:
            return None
        for name, layer in layers.items():
            found = _row_scales(values, laid_out(layer.codes.numpy(), builtin), layer, outputs_axis(builtin))
            if found is not None:
                return _Match(name, layer, *found)
        return None

    def _note_folding(self, op: Any, match: _Match) -> None:
        """Renames the weight of a layer if its constants are not the layer's own."""
        _, offset = self.file.epilogue(self.file.chain(op, match.name))
        bias = np.zeros(1, np.float32) if match.layer.bias is None else match.layer.bias.numpy()
        weight = self.file.weight(op)
        if match.folded or not (offset == bias).all():
            self.folded.add(weight)
        if weight in self.folded:  # by this operator or by another one with the same weight
            self.file.tensors[weight].name = f"{match.name}.folded"

    def _store(self, op: Any, builtin: int, match: _Match) -> None:
        width = hybrid_width(match.layer, self.bits)
        if width is None:
            self._store_explicit(op, builtin, match)
            return
        name, layer, scales, _ = match
        codes = layer.codes.numpy()
        behind = scales.size > 1 or scales[0] < 0
        self.file.set_integers(
            op.inputs[1], f"{name}.weight", codes, np.ones(1, np.float32) if behind else scales, width, 0
        )
        op.opcodeIndex = self.file.opcode(Op.FULLY_CONNECTED, _HYBRID_VERSION[width])
        op.builtinOptions.asymmetricQuantizeInputs = False
        self.file.tensors[op.outputs[0]].name = name
        if behind:
            self._scale_behind(op, scales)
        if name not in self.stored and width > max(self.bits, int(layer.bits)) and layer.bits >= 2:
            self.notes.append(f"{name}: no exact INT{layer.bits:g} kernel for code {codes.min()}, stored as INT{width}")
        self.stored[name] = f"INT{width}"

    def _scale_behind(self, op: Any, scales: NDArray[np.float32]) -> None:
        """FULLY_CONNECTED + bias + activation → FULLY_CONNECTED, MUL by the scales, ADD of the bias + activation."""
        output, bias = op.outputs[0], op.inputs[2] if len(op.inputs) > 2 else -1
        activation, op.builtinOptions.fusedActivationFunction = op.builtinOptions.fusedActivationFunction, 0
        shape = self.file.shape(output)
        product = self.file.add_tensor(shape)
        op.inputs, op.outputs = [op.inputs[0], op.inputs[1], -1], [product]
        multiply, add = schema.MulOptionsT(), schema.AddOptionsT()
        (multiply if bias < 0 else add).fusedActivationFunction = activation
        scaled = output if bias < 0 else self.file.add_tensor(shape)
        factors = self.file.add_tensor(scales.shape, scales)
        last = self.file.insert(op, Op.MUL, 1, [product, factors], scaled, multiply, behind=True)
        if bias >= 0:
            self.file.insert(last, Op.ADD, 1, [scaled, bias], output, add, behind=True)

    def _store_explicit(self, op: Any, builtin: int, match: _Match) -> None:
        """An integer constant behind a DEQUANTIZE; the activations are quantized by operators of their own."""
        name, layer, scales, _ = match
        weight = op.inputs[1]
        if weight not in self.dequantized:
            codes = laid_out(layer.codes.numpy(), builtin)
            # DEQUANTIZE, unlike the hybrid kernels, knows the lowest code of a width.
            span = max(-int(codes.min()), int(codes.max()) + 1)
            least = 8 if layer.kind == "conv2d" else self.bits
            width = next(w for w in WIDTH_TYPE if w >= least and span <= 1 << (w - 1))
            # The weight tensor keeps its index for the constant; the layer reads what is dequantized from it.
            self.file.set_integers(weight, f"{name}.weight", codes, scales, width, outputs_axis(builtin))
            self.dequantized[weight] = self.file.add_tensor(self.file.shape(weight))
            version = 2 if width == 8 and scales.size == 1 else _DEQUANTIZE_VERSION[width]
            options = schema.DequantizeOptionsT()
            self.file.insert(op, Op.DEQUANTIZE, version, [weight], self.dequantized[weight], options, behind=False)
            self.stored[name] = f"INT{width} dequantized"
            if layer.bitlinear_compat:
                self.notes.append(f"{name}: no hybrid kernel has bitlinear's numerics, computed in float on integers")
            elif layer.kind != "conv2d":
                self.notes.append(f"{name}: no exact kernel for code {int(codes.min())}, computed in float on integers")
        op.inputs[1] = self.dequantized[weight]
        # The layer ends with the MUL (or DIV) by its activation scale, or with the ADD of its bias behind that. The
        # converter may put a layout change between any two of them.
        last = self._following(op, (Op.MUL, Op.DIV))
        while any(self.file.constant(i) is not None for i in last.inputs):
            last = self._following(last, (Op.MUL, Op.DIV))
        if layer.bias is not None and not layer.bitlinear_compat:
            last = self._following(last, (Op.ADD,))
        self.file.tensors[last.outputs[0]].name = name

    def _following(self, op: Any, builtins: tuple[int, ...]) -> Any:
        while True:
            op = self.file.consumers(op.outputs[0])[0]
            if self.file.builtin(op) in builtins:
                return op

    def _compact(self, op: Any) -> None:
        """ADD of a large float constant → ADD of the DEQUANTIZE of an int8 one with a scale a row."""
        for position in (0, 1):
            index = op.inputs[position]
            constant = self.file.constant(index)
            quantized = None if constant is None else compact_rows(constant)
            if quantized is None:
                continue
            codes, scales = quantized
            compact, restored = self.file.add_tensor(codes.shape), self.file.add_tensor(codes.shape)
            self.file.set_integers(compact, "", codes, scales, 8, codes.ndim - 2)
            op.inputs[position] = restored
            self.file.insert(op, Op.DEQUANTIZE, 5, [compact], restored, schema.DequantizeOptionsT(), behind=False)


def _row_scales(
    weight: NDArray[np.float32], codes: NDArray[np.int8], layer: FrozenLayer, axis: int
) -> tuple[NDArray[np.float32], bool] | None:
    """The factors, one an output, with which `codes` gives `weight`; [1] where all are equal, None if there are none.

    They are the layer's scales unless (then True) the converter folded something that follows the layer into the
    weight.
    """
    if weight.shape != codes.shape:
        return None
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1).astype(np.float32)
    values = np.moveaxis(weight, axis, 0).reshape(rows.shape)
    largest = np.abs(rows).argmax(1)[:, None]
    code = np.take_along_axis(rows, largest, 1)[:, 0]
    own = np.ones(1, np.float32) if hybrid_width(layer, 2) is None else layer.scales.numpy()
    scales = np.broadcast_to(own, code.shape)
    ratio = np.take_along_axis(values, largest, 1)[:, 0] / np.where(code == 0, 1, code)
    folded = (code != 0) & ~np.isclose(ratio, scales, rtol=_FOLDING_TOLERANCE, atol=0)
    scales = np.where(folded, ratio, scales).astype(np.float32)
    if not np.allclose(rows * scales[:, None], values, rtol=_FOLDING_TOLERANCE, atol=0):
        return None
    return scales[:1] if (scales == scales[0]).all() else scales, bool(folded.any())
