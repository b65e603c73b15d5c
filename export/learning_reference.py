"""On-device learning in numpy: what runtime/core/learn must compute, to the last bit.

A tail is a list of layers; each goes forward and back in the order of operations of runtime/core/learn/layers.c, in
float32. `LearningReference` takes one step of stochastic gradient descent a sample, as edge_learn_class does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.export.reference import conv2d, lane_sum, linear, softmax, unpack_codes
from edge.export.reference_math import F32, f32

RELU, RELU6, SIGMOID, TANH = 1, 5, 7, 8
"""The activation functions whose slope follows from their value, as the operators number them."""


def slope(y: F32, activation: int) -> F32:
    """The derivative of an activation function where it has the value `y`."""
    if activation == RELU:
        return (y > 0).astype(np.float32)
    if activation == RELU6:
        return ((y > 0) & (y < 6)).astype(np.float32)
    if activation == SIGMOID:
        return y * (f32(1) - y)
    if activation == TANH:
        return f32(1) - y * y
    return np.ones_like(y)


def sequential_sum(x: F32) -> F32:
    """Sum of the last dimension, one value after the other."""
    return np.add.accumulate(x, axis=-1, dtype=np.float32)[..., -1]


@dataclass
class Dense:
    """weight [N, K], bias [N]."""

    weight: F32
    bias: F32
    activation: int = 0

    def forward(self, x: F32) -> F32:
        return linear(x.reshape(1, -1), self.weight, self.bias, None, self.activation)[0]

    def back(self, x: F32, gradient: F32, rate: np.float32) -> F32:
        flat = x.reshape(-1)
        passed = np.zeros_like(flat)
        for n, g in enumerate(gradient):
            passed += self.weight[n] * g
            self.weight[n] -= (rate * g) * flat
        self.bias -= rate * gradient
        return passed.reshape(x.shape)


@dataclass
class Norm:
    """Layer normalization without affine parameters."""

    eps: float

    def _moments(self, x: F32) -> tuple[np.float32, np.float32]:
        count = f32(x.size)
        mean = lane_sum(x) / count
        off = x - mean
        return mean, f32(1) / np.sqrt(lane_sum(off * off) / count + f32(self.eps))

    def forward(self, x: F32) -> F32:
        mean, rstd = self._moments(x.reshape(-1))
        return (x.reshape(-1) - mean) * rstd

    def back(self, x: F32, gradient: F32, rate: np.float32) -> F32:
        mean, rstd = self._moments(x.reshape(-1))
        normal = (x.reshape(-1) - mean) * rstd
        share = f32(1) / f32(x.size)
        mean_gradient = sequential_sum(gradient) * share
        mean_moment = sequential_sum(gradient * normal) * share
        return (rstd * ((gradient - mean_gradient) - normal * mean_moment)).reshape(x.shape)


@dataclass
class Window:
    """The windows of a convolution or pool over [C, H, W]."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    out: tuple[int, int] = (1, 1)

    def counts(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of outputs over an image of this height and width."""
        rows, columns = (
            (size[d] + 2 * self.padding[d] - self.dilation[d] * (self.kernel[d] - 1) - 1) // self.stride[d] + 1
            for d in range(2)
        )
        return rows, columns

    def taps(self, height: int, width: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """For each tap (row, column of the kernel): (output index, position in the plane) of the outputs it meets."""
        for kh in range(self.kernel[0]):
            for kw in range(self.kernel[1]):
                met = []
                for i in range(self.out[0] * self.out[1]):
                    row = i // self.out[1] * self.stride[0] + kh * self.dilation[0] - self.padding[0]
                    column = i % self.out[1] * self.stride[1] + kw * self.dilation[1] - self.padding[1]
                    if 0 <= row < height and 0 <= column < width:
                        met.append((i, row * width + column))
                yield kh, kw, met


@dataclass
class Convolution:
    """weight [O, C / groups, kh, kw], bias [O], over [C, H, W]."""

    weight: F32
    bias: F32
    window: Window
    groups: int = 1
    activation: int = 0

    def forward(self, x: F32) -> F32:
        at = self.window
        args = (list(at.stride), list(at.padding), list(at.dilation), self.groups, self.activation)
        return conv2d(x[None], self.weight, self.bias, None, *args)[0]

    def back(self, x: F32, gradient: F32, rate: np.float32) -> F32:
        channels, height, width = x.shape
        outputs, depth = self.weight.shape[:2]
        group = outputs // self.groups
        gradient = gradient.reshape(outputs, -1)
        passed = np.zeros_like(x).reshape(channels, -1)
        taps = list(self.window.taps(height, width))
        for c in range(channels):
            plane = x[c].reshape(-1)
            for o in range(c // depth * group, c // depth * group + group):
                for kh, kw, met in taps:
                    weight = self.weight[o, c % depth, kh, kw]
                    total = f32(0)
                    for i, at in met:
                        total += gradient[o, i] * plane[at]
                        passed[c, at] += weight * gradient[o, i]
                    self.weight[o, c % depth, kh, kw] = weight - rate * total
        self.bias -= rate * sequential_sum(gradient)
        return passed.reshape(x.shape)


@dataclass
class Pool:
    """The largest or the mean of each window; the largest is the first of equals."""

    window: Window
    mean: bool = False

    def forward(self, x: F32) -> F32:
        values, _ = self._run(x, None)
        return values.reshape(x.shape[0], *self.window.out)

    def back(self, x: F32, gradient: F32, rate: np.float32) -> F32:
        return self._run(x, gradient.reshape(x.shape[0], -1))[1]

    def _run(self, x: F32, gradient: F32 | None) -> tuple[F32, F32]:
        channels, height, width = x.shape
        planes = x.reshape(channels, -1)
        outputs = self.window.out[0] * self.window.out[1]
        values, passed = np.zeros((channels, outputs), np.float32), np.zeros_like(planes)
        share = f32(1) / f32(self.window.kernel[0] * self.window.kernel[1])
        met: list[list[int]] = [[] for _ in range(outputs)]
        for _, _, pairs in self.window.taps(height, width):
            for i, at in pairs:
                met[i].append(at)
        for c in range(channels):
            for i, positions in enumerate(met):
                seen = planes[c, positions]
                if self.mean:
                    values[c, i] = sequential_sum(seen) * share
                    if gradient is not None:
                        passed[c, positions] += gradient[c, i] * share
                    continue
                values[c, i] = seen.max() if len(positions) else f32(-np.inf)
                if gradient is not None and positions:
                    passed[c, positions[int(np.argmax(seen))]] += gradient[c, i]
        return values, passed.reshape(x.shape)


Layer = Dense | Norm | Convolution | Pool


@dataclass
class LearningReference:
    """A tail that learns.

    Attributes:
        layers: from the entry to the output.
        rate: of learning.
        squared: the loss is half the squared error, not the cross-entropy of the softmax.
    """

    layers: list[Layer]
    rate: float
    squared: bool = False

    def forward(self, x: F32) -> list[F32]:
        """The values between the layers, the entry's and the output's included."""
        values = [x]
        for layer in self.layers:
            values.append(layer.forward(values[-1]))
        return values

    def learn(self, x: F32, target: int | F32) -> tuple[int, np.float32]:
        """One step. Returns what the class was predicted to be before, and how well the target fitted."""
        values = self.forward(x)
        y = values[-1].reshape(-1)
        wanted = np.zeros_like(y)
        if isinstance(target, int):
            wanted[target] = 1
        else:
            wanted[:] = target
        predicted = int(np.argmax(y))
        if self.squared:
            off = y - wanted
            fit = sequential_sum(f32(0.5) * (off * off))
            gradient = off * slope(y, self._activation(-1))
        else:
            probabilities = softmax(y[None])[0]
            fit = sequential_sum(wanted * probabilities)
            gradient = probabilities - wanted
        for i in reversed(range(len(self.layers))):
            gradient = self.layers[i].back(values[i], gradient, f32(self.rate))
            if i > 0:
                gradient = gradient * slope(values[i], self._activation(i - 1))
        return predicted, fit

    def weights(self) -> F32:
        """All weights as edge_learn_weights has them."""
        parts = [
            part.reshape(-1)
            for layer in self.layers
            if isinstance(layer, (Dense, Convolution))
            for part in (layer.weight, layer.bias)
        ]
        return np.concatenate(parts)

    def _activation(self, index: int) -> int:
        layer = self.layers[index]
        return layer.activation if isinstance(layer, (Dense, Convolution)) else 0


def _with_new_rows(matrix: F32, rows: int) -> F32:
    """A matrix of `rows` rows: those that are missing are the mean of those that are there."""
    total = np.zeros_like(matrix[0])
    for row in matrix:
        total = total + row
    mean = total * (f32(1) / f32(len(matrix)))
    return np.concatenate([matrix, np.repeat(mean[None], rows - len(matrix), 0)]).astype(np.float32)


def _dense(name: str, arguments: Sequence[Any]) -> list[Layer]:
    x, stored = arguments[0], arguments[1]
    activation, eps = 0, -1.0
    if name in ("edge::ternary_linear.out", "edge::int_linear.out"):
        bits, at = (1.58, 5) if name == "edge::ternary_linear.out" else (arguments[5], 6)
        weight = unpack_codes(stored, x.shape[-1], bits).astype(np.float32) * arguments[2].reshape(-1, 1)
        bias, eps, activation = arguments[3], float(arguments[at]), int(arguments[at + 1])
    elif name == "aten::addmm.out":
        weight, bias = arguments[2].T, arguments[0]
    elif name == "aten::mm.out":
        weight, bias = stored.T, None
    else:
        weight, bias = stored, arguments[2]
        activation = int(arguments[4]) if name == "edge::linear.out" else 0
    weight = np.array(weight, np.float32, order="C")
    bias = np.zeros(len(weight), np.float32) if bias is None else np.array(bias, np.float32).reshape(-1)
    dense = Dense(weight, bias, activation)
    return [Norm(eps), dense] if eps >= 0 else [dense]


def _windowed(name: str, arguments: Sequence[Any], out: tuple[int, ...]) -> list[Layer]:
    size, places = tuple(arguments[0].shape[-2:]), tuple(out[-2:])

    def pair(value: Sequence[int]) -> tuple[int, int]:
        return int(value[0]), int(value[-1])

    if name == "aten::mean.out" or name == "aten::_adaptive_avg_pool2d.out":
        return [Pool(Window(size, (1, 1)), mean=True)]
    if name == "aten::avg_pool2d.out":
        kernel = pair(arguments[1])
        return [Pool(Window(kernel, pair(arguments[2] or kernel), out=places), mean=True)]
    if name in ("edge::max_pool2d.out", "aten::max_pool2d_with_indices.out"):
        kernel = pair(arguments[1])
        return [Pool(Window(kernel, pair(arguments[2] or kernel), pair(arguments[3]), pair(arguments[4]), places))]
    # Where the stride, the groups and the activation are.
    at, groups_at, activation_at = {
        "edge::conv2d.out": (4, 7, 8),
        "edge::conv2d_max_pool2d.out": (3, 6, 7),
        "aten::convolution.out": (3, 8, None),
    }[name]
    groups, activation = arguments[groups_at], int(arguments[activation_at]) if activation_at else 0
    weight, bias = np.array(arguments[1]), arguments[2]
    bias = np.zeros(len(weight), np.float32) if bias is None else np.array(bias)
    window = Window(weight.shape[2:], pair(arguments[at]), pair(arguments[at + 1]), pair(arguments[at + 2]))
    window.out = window.counts(size)
    layers: list[Layer] = [Convolution(weight, bias, window, int(groups), activation)]
    if name == "edge::conv2d_max_pool2d.out":
        kernel = pair(arguments[8])
        stride, padding, dilation = pair(arguments[9] or kernel), pair(arguments[10]), pair(arguments[11])
        layers.append(Pool(Window(kernel, stride, padding, dilation, places)))
    return layers


def tail_of(
    calls: Sequence[tuple[str, Sequence[Any], Sequence[Any]]], layers: int, classes: int | None = None
) -> tuple[list[Layer], int]:
    """The last layers of a traced program, which must be a chain of them.

    Args:
        calls: from `edge.runtime._core.Program.trace`.
        layers: with weights; more than there are: all.
        classes: outputs of the last, if not the program's.

    Returns:
        The layers, and the index of the first one's instruction, whose input they take.
    """
    found: list[Layer] = []
    first, weighted, pending = len(calls), 0, 0
    kept = 0
    for index in range(len(calls) - 1, -1, -1):
        name, arguments, outputs = calls[index]
        if name in ("aten::relu.out", "aten::tanh.out", "aten::sigmoid.out", "aten::hardtanh.out"):
            pending = {"relu": RELU, "tanh": TANH, "sigmoid": SIGMOID, "hardtanh": RELU6}[name[6:-4]]
            continue
        if name.split("::")[1].split(".")[0] in ("view_copy", "permute_copy", "_clone_dim_order", "clone", "_softmax"):
            continue
        made = _dense(name, arguments) if name.split(".")[0].endswith(("linear", "mm")) else None
        made = made or _windowed(name, arguments, outputs[0].shape)
        found = made + found
        last = next((layer for layer in made if isinstance(layer, (Dense, Convolution))), None)
        if last is not None:
            last.activation, pending = pending or last.activation, 0
            weighted, first, kept = weighted + 1, index, len(found)
        if weighted == layers:
            break
    found = found[len(found) - kept :]
    head = found[-1]
    if classes is not None and isinstance(head, Dense):
        head.weight = _with_new_rows(head.weight, classes)
        head.bias = _with_new_rows(head.bias[:, None], classes)[:, 0]
    return found, first
