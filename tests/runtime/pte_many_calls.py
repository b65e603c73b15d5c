"""Programs of very many operator calls, and what the oracle says of them: `python pte_many_calls.py OUTPUT_FOLDER`.

many_*.pte have together the 1,000 calls of edge::ternary_linear that test_ops_ternary.py makes and 20 of every edge
operator, put together with ExecuTorch's schema (tracing that many would take minutes); many_*.npz have each call's
input x0 …, wanted output y0 …, and for the 1,000 t0 …, what torch's eager operator computes. The first tensor of a call
is an input of the program, the others are constants. refused_*.pte hold one call that no kernel takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from executorch.exir.schema import Bool, Double, Int, Null

from edge.export import reference
from edge.runtime._core import operators
from edge.runtime.layouts import LAYOUTS, pack_layout
from tests.runtime.pte_handmade import Handmade
from tests.runtime.ternary_cases import SEEDS, hundred_cases, in_torch

OTHER_CALLS = 20
CALLS_PER_PROGRAM = 60
"""The core takes at most 64 inputs and outputs."""


def value(p: Handmade, argument: Any) -> int:
    """The index of an argument other than the first."""
    match argument:
        case None:
            return p.value(Null())
        case bool():
            return p.value(Bool(argument))
        case int():
            return p.value(Int(argument))
        case float():
            return p.value(Double(argument))
        case list():
            return p.ints(*argument)
        case _:
            return p.constant(argument)


def without_residual(arguments: list[Any], place: int) -> list[Any]:
    assert arguments[place] is None
    return arguments[:place] + arguments[place + 1 :]


class Cases:
    """Random arguments for each operator."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def normal(self, *shape: int) -> Any:
        return self.random.normal(size=shape).astype(np.float32)

    def maybe(self, *shape: int) -> Any:
        return self.normal(*shape) if self.random.random() < 0.5 else None

    def size(self, high: int) -> int:
        return int(self.random.integers(1, high))

    def input(self, *shape: int) -> Any:
        x = self.normal(*shape) * np.float32(10.0 ** self.random.integers(-6, 7))
        match self.random.integers(0, 12):
            case 0:
                x[self.random.random(shape) < 0.2] = np.nan
            case 1:
                x[self.random.random(shape) < 0.1] = np.inf
            case 2:
                x[...] = 0
            case 3:
                x = self.random.choice([-1.0, 1.0], size=shape).astype(np.float32)
        return x

    def packed(self, n: int, k: int, bits: float) -> Any:
        low = -1 if bits == 1.58 else -(2 ** (int(bits) - 1))
        codes = self.random.integers(low, 2 if bits == 1.58 else -low, size=(n, k)).astype(np.int8)
        if self.random.random() < 0.1:
            codes[:] = codes[0, 0]
        if bits == 1.58 and self.random.random() < 0.5:  # as of a microcontroller
            return pack_layout(codes, str(self.random.choice(LAYOUTS)))
        return reference.pack_codes(codes, bits)

    def scales(self, n: int) -> Any:
        return self.normal(n if self.random.random() < 0.5 else 1)

    def eps(self) -> float:
        return float(self.random.choice([-1.0, 1e-5]))

    def activation(self) -> int:
        return int(self.random.integers(0, 9))

    def ternary_linear(self) -> list[Any]:
        k = self.size(40) if self.random.random() < 0.5 else self.size(500)
        n, lead = self.size(40), [self.size(6) for _ in range(self.random.integers(0, 3))]
        compat = bool(self.random.random() < 0.1)
        return [self.input(*lead, k), self.packed(n, k, 1.58), self.scales(n), self.maybe(n), self.maybe(*lead, n),
                self.eps(), self.activation(), compat]  # fmt: skip

    def int_linear(self) -> list[Any]:
        bits, k, n, m = int(self.random.choice([2, 4, 8])), self.size(200), self.size(40), self.size(20)
        return [self.input(m, k), self.packed(n, k, bits), self.scales(n), self.maybe(n), self.maybe(m, n), bits,
                self.eps(), self.activation()]  # fmt: skip

    def linear(self) -> list[Any]:
        k, n, m = self.size(60), self.size(20), self.size(10)
        return [self.input(m, k), self.normal(n, k), self.maybe(n), self.maybe(m, n), self.activation()]

    def ternary_conv1x1(self) -> list[Any]:
        b, k, n, h, w = self.size(3), self.size(60), self.size(20), self.size(7), self.size(7)
        return [self.input(b, k, h, w), self.packed(n, k, 1.58), self.scales(n), self.maybe(n),
                self.maybe(b, n, h, w), self.eps(), self.activation()]  # fmt: skip

    def int_conv1x1(self) -> list[Any]:
        bits = int(self.random.choice([2, 4, 8]))
        b, k, n, h, w = self.size(3), self.size(60), self.size(20), self.size(7), self.size(7)
        return [self.input(b, k, h, w), self.packed(n, k, bits), self.scales(n), self.maybe(n),
                self.maybe(b, n, h, w), bits, self.eps(), self.activation()]  # fmt: skip

    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], list[Any]]:
        groups = self.size(3)
        c, o = groups * self.size(4), groups * self.size(4)
        kernel, steps = [self.size(4), self.size(4)], [[self.size(3), self.size(3)] for _ in range(2)]
        return (2, c, 9, 8), (o, c // groups, *kernel), [steps[0], [1, 0], steps[1], groups]

    def conv2d(self) -> list[Any]:
        x, weight, geometry = self.geometry()
        return [self.input(*x), self.normal(*weight), self.maybe(weight[0]), None, *geometry, self.activation()]

    def conv2d_int8(self) -> list[Any]:
        x, weight, geometry = self.geometry()
        codes = self.random.integers(-127, 128, size=weight).astype(np.int8)
        return [self.input(*x), codes, self.scales(weight[0]), self.maybe(weight[0]), None, *geometry,
                self.activation()]  # fmt: skip

    def ternary_conv2d(self) -> list[Any]:
        x, weight, geometry = self.geometry()
        codes = self.random.integers(-1, 2, size=(weight[0], x[1], *weight[2:])).astype(np.int8)
        packed = reference.pack_taps(codes)
        if self.random.random() < 0.5:  # as of a microcontroller
            packed = pack_layout(codes.transpose(0, 2, 3, 1).reshape(len(codes), -1), str(self.random.choice(LAYOUTS)))
        return [self.input(*x), packed, self.scales(weight[0]), self.maybe(weight[0]), None,
                list(weight[2:]), *geometry[:3], self.activation()]  # fmt: skip

    def pool(self) -> list[Any]:
        return [[2, 3], [1, 2], [1, 1], [1, 1], bool(self.random.random() < 0.5)]

    def conv2d_max_pool2d(self) -> list[Any]:
        return without_residual(self.conv2d(), 3) + self.pool()

    def conv2d_int8_max_pool2d(self) -> list[Any]:
        return without_residual(self.conv2d_int8(), 4) + self.pool()

    def ternary_conv2d_max_pool2d(self) -> list[Any]:
        return without_residual(self.ternary_conv2d(), 4) + self.pool()

    def layer_norm(self) -> list[Any]:
        k = self.size(100)
        return [self.input(3, k), self.maybe(k), self.maybe(k), 1e-5]

    def attention(self) -> list[Any]:
        b, h, t, s, d = self.size(3), self.size(4), self.size(12), self.size(20), self.size(20)
        return [self.normal(b, h, t, d), self.normal(b, h, s, d), self.normal(b, h, s, d), self.maybe(t, s), 0.3,
                bool(self.random.random() < 0.5)]  # fmt: skip

    def attention_qkv(self) -> list[Any]:
        heads, depth, tokens = self.size(4), self.size(16), self.size(30)
        return [self.normal(2, tokens, 3 * heads * depth), heads, 0.3, bool(self.random.random() < 0.5)]

    def attention_int8(self) -> list[Any]:
        return self.attention()

    def attention_qkv_int8(self) -> list[Any]:
        return self.attention_qkv()

    def max_pool2d(self) -> list[Any]:
        return [self.input(2, 3, 9, 8), [3, 2], [2, 1], [1, 1], [1, 2], bool(self.random.random() < 0.5)]

    def add_quantized(self) -> list[Any]:
        t, d = self.size(20), self.size(30)
        return [self.input(2, t, d), self.random.integers(-128, 128, size=(t, d)).astype(np.int8), self.normal(t)]

    def sequence_pool(self) -> list[Any]:
        t, d = self.size(40), self.size(30)
        return [self.normal(2, t, d), self.normal(d), self.maybe(1)]


def many(target: Path) -> None:
    cases = Cases(2024)
    names = sorted(
        name.removeprefix("edge::").removesuffix(".out") for name in operators() if name.startswith("edge::")
    )
    calls = [("ternary_linear", case) for seed in SEEDS for case in hundred_cases(seed)]
    torch_calls = len(calls)
    calls += [(name, getattr(cases, name)()) for name in names for _ in range(OTHER_CALLS)]
    for start in range(0, len(calls), CALLS_PER_PROGRAM):
        p, arrays, inputs, outputs = Handmade(), {}, [], []
        for i, (name, arguments) in enumerate(calls[start : start + CALLS_PER_PROGRAM]):
            wanted = getattr(reference, name)(*arguments)
            arrays |= {f"x{i}": arguments[0], f"y{i}": wanted}
            if start + i < torch_calls:
                arrays[f"t{i}"] = in_torch(arguments)
            inputs.append(p.tensor(*arguments[0].shape))
            outputs.append(p.tensor(*wanted.shape))
            p.call(f"edge::{name}.out", inputs[-1], *(value(p, a) for a in arguments[1:]), outputs[-1])
        (target / f"many_{start:04}.pte").write_bytes(p.finish(inputs, outputs))
        np.savez(target / f"many_{start:04}.npz", **arrays)


def refused(name: str) -> bytes:
    """A call whose arguments do not fit each other."""
    p = Handmade()
    none, off, plain, no = p.value(Null()), p.value(Double(-1.0)), p.value(Int(0)), p.value(Bool(False))
    x, y = p.tensor(2, 8), p.tensor(2, 3)
    if name == "packed_width":
        p.call("edge::ternary_linear.out", x, p.codes(3, 12), p.floats(1), none, none, off, plain, no, y)
    elif name == "activation":
        p.call("edge::ternary_linear.out", x, p.codes(3, 8), p.floats(1), none, none, off, p.value(Int(9)), no, y)
    elif name == "kind":
        p.call("edge::ternary_linear.out", x, p.codes(3, 8), p.floats(1), none, none, none, plain, no, y)
    elif name == "channels_last":
        x, y = p.tensor(1, 4, 3, 3, dim_order=[0, 2, 3, 1]), p.tensor(1, 2, 3, 3, dim_order=[0, 2, 3, 1])
        p.call("edge::ternary_conv1x1.out", x, p.codes(2, 4), p.floats(1), none, none, off, plain, y)
    return p.finish([x], [y])


REFUSED = ("packed_width", "activation", "kind", "channels_last")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    many(folder)
    for key in REFUSED:
        (folder / f"refused_{key}.pte").write_bytes(refused(key))
