"""Comparison of a `.tflite` file, as LiteRT runs it, with integer arithmetic, one quantized layer at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.export.lower.float_form import MIN_AMAX, activation_scale, listed, same_weights, used_layers
from edge.export.lower.freeze import FrozenLayer
from edge.export.lower.output import quiet
from edge.export.lower.tflite_file import WEIGHTED, Op, TfliteFile, laid_out
from edge.runtime.errors import Unsupported


def check_layers(path: Path, frozen: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[tuple[str, float, float]]:
    """Runs a file on LiteRT and compares every quantized layer with integer arithmetic in numpy.

    A layer is fed what the engine itself fed it, so that no earlier rounding shows: the comparison goes from the
    input of the activation quantizer (behind the inner normalization) to the layer's output. LiteRT's own kernels
    run, not XNNPACK's. The integers in the file are compared with the model's, too.

    Args:
        path: from `to_tflite`.
        frozen: what it was made of.
        example_inputs: one input.

    Returns:
        [(layer, largest absolute difference, largest absolute output)] in the order of the file; a layer that runs
        twice appears twice. The difference is infinite where integers differ.

    Raises:
        Unsupported: the file is another model's.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    data = path.read_bytes()
    with quiet():
        interpreter = Interpreter(
            model_content=data,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
            num_threads=1,
        )
        interpreter.allocate_tensors()
        for detail, value in zip(interpreter.get_input_details(), example_inputs, strict=True):
            interpreter.set_tensor(detail["index"], value.detach().numpy())
        interpreter.invoke()
    layers = dict(used_layers(frozen, example_inputs))
    run = _Run(TfliteFile(data), interpreter)
    results = []
    for op, name in run.layer_operators():
        if name not in layers:
            raise Unsupported(f"{path.name} holds a layer {name} that the model lacks: it is another model's file")
        results.append((name, *run.compare(op, name, layers[name])))
    found = [layers[name] for name, _, _ in results]
    missing = [name for name, layer in layers.items() if not any(same_weights(layer, other) for other in found)]
    if missing:
        raise Unsupported(f"{path.name} lacks {listed(missing)}: it is another model's file")
    return results


class _Run:
    """A file with the values that every tensor had in one run."""

    def __init__(self, file: TfliteFile, interpreter: Any) -> None:
        self.file = file
        self.interpreter = interpreter
        self.producer = {op.outputs[0]: op for op in file.operators}

    def layer_operators(self) -> list[tuple[Any, str]]:
        """The operators that multiply with a quantized layer's weight, and the layer's name."""
        found = []
        for op in self.file.operators:
            if self.file.builtin(op) in WEIGHTED:
                name, _, kind = self.file.name(self.file.weight(op)).rpartition(".")
                if kind in ("weight", "folded"):
                    found.append((op, name))
        return found

    def compare(self, op: Any, name: str, layer: FrozenLayer) -> tuple[float, float]:
        """The largest difference of a layer's output from integer arithmetic, and its largest output."""
        chain = self.file.chain(op, name)
        y = self._value(chain[-1].outputs[0])
        largest = float(np.abs(y).max())
        if not self._holds(op, chain, layer):
            return float("inf"), largest
        errors = [np.abs(answer.reshape(y.shape) - y).max(-1) for answer in self._expected(op, layer, chain)]
        return float(np.min(errors, axis=0).max()) if errors else float("inf"), largest

    def _holds(self, op: Any, chain: list[Any], layer: FrozenLayer) -> bool:
        """Whether the file holds the layer's integers, and its scales and bias if nothing was folded into them."""
        weight = self.file.weight(op)
        stored, scales, _ = self.file.integers(weight)
        own = laid_out(layer.codes.numpy(), self.file.builtin(op))
        if not np.array_equal(stored, own):
            return False
        if self.file.name(weight).endswith(".folded"):
            return True
        factor, offset = self.file.epilogue(chain)
        # An explicit layer multiplies with its scales at run time.
        own_scales = np.ones(1, np.float32) if self._is_explicit(op) else layer.scales.numpy()
        bias = np.zeros(1, np.float32) if layer.bias is None else layer.bias.numpy()
        same_scales = np.allclose(scales * factor, own_scales, rtol=1e-6, atol=0)
        return bool(same_scales and np.all(offset == bias))

    def _expected(self, op: Any, layer: FrozenLayer, chain: list[Any]) -> list[NDArray[np.float32]]:
        """What the layer should give; several answers where several roundings are right, none if codes differ."""
        given = self._value(op.inputs[0])
        codes, scales, _ = self.file.integers(self.file.weight(op))
        if not self._is_explicit(op):
            # The hybrid kernels round halves away from zero, and divide once where the core takes a reciprocal.
            factor = activation_scale(given, (-1,), 127)
            engine = np.float32(127) / np.maximum(np.abs(given).max(-1, keepdims=True), np.float32(MIN_AMAX))
            away = np.trunc(given * engine + np.copysign(np.float32(0.5), given))
            answers = ((np.rint(given * factor), factor), (np.rint(given * engine), engine), (away, engine))
            products = [_multiply(np.clip(q, -127, 127), codes) * (scales / f) for q, f in answers]
            return [self._finish(product, op, chain) for product in products]
        quantized, x = self._quantizer(op)
        levels = 128 if layer.bitlinear_compat else 127
        dims = (-1,) if layer.kind != "conv2d" else tuple(range(1, x.ndim))
        factor = activation_scale(x, dims, levels)
        if not np.array_equal(np.clip(np.rint(x * factor), -levels, 127), quantized.reshape(x.shape)):
            return []
        if layer.kind == "conv2d":
            product = _convolve(given, codes, op.builtinOptions)
            factor = factor.reshape(-1, 1, 1, 1)
        else:
            product = _multiply(quantized, codes)
        product = product * scales
        own: NDArray[np.float32] = layer.scales.numpy()
        if layer.bitlinear_compat:
            return [self._finish(product, op, chain) / (own * factor)]
        return [self._finish(product * (own / factor), op, chain)]

    def _finish(self, product: NDArray[np.float32], op: Any, chain: list[Any]) -> NDArray[np.float32]:
        """Applies what stands between a layer's product and its output: constants, layout changes, the activation."""
        bias = self.file.constant(op.inputs[2]) if len(op.inputs) > 2 else None
        y = product if bias is None else product + bias.astype(np.float32)
        for follower in chain[1:]:
            builtin = self.file.builtin(follower)
            if builtin == Op.TRANSPOSE:
                y = y.transpose(self.interpreter.get_tensor(follower.inputs[1]))
            elif builtin == Op.RESHAPE:
                y = y.reshape(self.file.shape(follower.outputs[0]))
            for constant in (c for i in follower.inputs if (c := self.file.constant(i)) is not None):
                y = y * constant if builtin == Op.MUL else y + constant
        activation = chain[-1].builtinOptions.fusedActivationFunction
        low, high = {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}[activation]
        return np.clip(y, np.float32(low), np.float32(high))

    def _quantizer(self, op: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The activation codes that an explicit layer computes and the float activations it takes them from."""
        source = self.producer[op.inputs[0]]
        while self.file.builtin(source) != Op.ROUND:
            source = self.producer[source.inputs[0]]
        # A convolution's codes may be padded and transposed on their way to it; a linear layer's are clipped.
        quantized = op.inputs[0] if self.file.builtin(op) == Op.FULLY_CONNECTED else source.outputs[0]
        operands = [self._value(i) for i in self.producer[source.inputs[0]].inputs]
        return self._value(quantized), max(operands, key=lambda v: v.size)

    def _is_explicit(self, op: Any) -> bool:
        """Whether a layer's activations are quantized by operators of their own, not by its kernel."""
        return self.file.weight(op) != int(op.inputs[1])

    def _value(self, index: int) -> NDArray[np.float32]:
        value: NDArray[np.float32] = self.interpreter.get_tensor(index)
        return value


def _multiply(q: NDArray[np.float32], codes: NDArray[np.int8]) -> NDArray[np.float32]:
    product: NDArray[np.int64] = q.astype(np.int64) @ codes.astype(np.int64).T
    return product.astype(np.float32)


def _convolve(q: NDArray[np.float32], codes: NDArray[np.int8], options: Any) -> NDArray[np.float32]:
    """The integer convolution of NHWC codes with an OHWI or 1HWO weight, as float32."""
    depthwise = hasattr(options, "depthMultiplier")
    weight = torch.from_numpy(codes).double().permute(*((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)))
    x = torch.from_numpy(q).double().permute(0, 3, 1, 2)
    stride, dilation = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    if options.padding == schema.Padding.SAME:
        margins = []
        for size, kernel, step, gap in zip(x.shape[2:], weight.shape[2:], stride, dilation, strict=True):
            total = max((-(-size // step) - 1) * step + (kernel - 1) * gap + 1 - size, 0)
            margins.append((total // 2, total - total // 2))
        x = F.pad(x, (*margins[1], *margins[0]))
    groups = x.shape[1] // weight.shape[1]
    product: NDArray[np.float32] = F.conv2d(x, weight, None, stride, 0, dilation, groups).float().numpy()
    return product.transpose(0, 2, 3, 1)
