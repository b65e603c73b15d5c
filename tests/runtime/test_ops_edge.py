"""The edge:: operators against the numpy oracle, bit by bit, and against what torch computes, within rounding."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge.export import reference, reference_math
from edge.runtime._core import CoreError, run_op
from tests.conftest import ROOT
from tests.runtime.compilers import SANITIZERS, sanitizing_compiler

SPECIAL = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -3e38])


def run(name: str, args: list, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, 113, dtype=np.float32)
    run_op(f"edge::{name}.out", [*args, out])
    return out


def bits(array: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(array), np.float32(np.nan), array).astype(np.float32).view(np.uint32)


def check(name: str, args: list) -> np.ndarray:
    """Runs the operator and the oracle; returns the output."""
    wanted = getattr(reference, name)(*args)
    assert wanted.dtype == np.float32
    got = run(name, args, wanted.shape)
    assert np.array_equal(bits(got), bits(wanted)), f"{name}: {np.nanmax(np.abs(got - wanted))}"
    return got


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def spoil(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Now and then a few special values."""
    if rng.random() < 0.2:
        at = rng.random(x.shape) < 0.05
        x[at] = rng.choice(SPECIAL, size=int(at.sum()))
    return x


def tame(x: np.ndarray) -> bool:
    """Whether torch, which sums in another order, must agree."""
    return bool((np.abs(x) < 1e6).all())


def optional(rng: np.random.Generator, *shape: int) -> np.ndarray | None:
    return normal(rng, *shape) if rng.random() < 0.5 else None


def some(rng: np.random.Generator, high: int) -> int:
    return int(rng.integers(1, high))


def weight_codes(rng: np.random.Generator, n: int, k: int, bits: float) -> np.ndarray:
    low, high = (-1, 1) if bits == 1.58 else (-(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1)
    return rng.integers(low, high + 1, size=(n, k)).astype(np.int8)


# --- quantized layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 4, 8])
def test_int_linear(width: int) -> None:
    rng = np.random.default_rng(width)
    for _ in range(150):
        n, k, lead = some(rng, 20), some(rng, 150), [some(rng, 5) for _ in range(rng.integers(0, 3))]
        x = spoil(rng, normal(rng, *lead, k) * 10)
        packed = reference.pack_codes(weight_codes(rng, n, k, width), width)
        scales, eps = normal(rng, n if rng.random() < 0.5 else 1), float(rng.choice([-1, 1e-5]))
        check(
            "int_linear", [x, packed, scales, optional(rng, n), optional(rng, *lead, n), width, eps, some(rng, 10) - 1]
        )


@pytest.mark.parametrize("width", [2, 4, 8])
def test_int_linear_largest_sums(width: int) -> None:
    lowest = -(2 ** (width - 1))
    k = 131_071 if width == 8 else 200_001
    x = np.full((1, k), -3.0, dtype=np.float32)
    packed = reference.pack_codes(np.full((2, k), lowest, dtype=np.int8), width)
    got = check("int_linear", [x, packed, np.float32([1.0]), None, None, width, -1.0, 0])
    assert got[0, 0] > 0


@pytest.mark.parametrize("width", [1.58, 2, 4, 8])
def test_conv1x1(width: float) -> None:
    rng = np.random.default_rng(int(width * 100))
    for _ in range(60):
        b, k, n, h, w = (some(rng, v) for v in (4, 60, 20, 8, 8))
        x = spoil(rng, normal(rng, b, k, h, w) * 3)
        packed = reference.pack_codes(weight_codes(rng, n, k, width), width)
        scales, eps = normal(rng, n if rng.random() < 0.5 else 1), float(rng.choice([-1, 1e-5]))
        rest = [eps, some(rng, 10) - 1] if width == 1.58 else [width, eps, some(rng, 10) - 1]
        name = "ternary_conv1x1" if width == 1.58 else "int_conv1x1"
        check(name, [x, packed, scales, optional(rng, n), optional(rng, b, n, h, w), *rest])


@pytest.mark.parametrize("width", [1.58, 2, 4, 8])
def test_eager_torch_has_the_same_bits(width: float) -> None:
    """What a frozen model computes in PyTorch is what the exported file computes, norm and relu included."""
    pytest.importorskip("edge.export.ops")
    rng = np.random.default_rng(int(width * 10))
    for _ in range(40):
        b, k, n, h, w = (some(rng, v) for v in (4, 90, 20, 6, 6))
        packed, scales = reference.pack_codes(weight_codes(rng, n, k, width), width), normal(rng, n)
        rest = [float(rng.choice([-1, 1e-5])), some(rng, 3) - 1]
        rest = rest if width == 1.58 else [int(width), *rest]
        prefix = "ternary" if width == 1.58 else "int"
        for form, x, shape in [
            ("conv1x1", normal(rng, b, k, h, w), (b, n, h, w)),
            ("linear", normal(rng, b, k), (b, n)),
        ]:
            args = [x * 5, packed, scales, optional(rng, n), optional(rng, *shape), *rest]
            args += [False] if form == "linear" and width == 1.58 else []
            operator = getattr(torch.ops.edge, f"{prefix}_{form}")
            eager = operator(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args)).numpy()
            assert np.array_equal(bits(eager + 0), bits(run(f"{prefix}_{form}", args, shape) + 0))


def test_conv1x1_is_a_linear_over_pixels() -> None:
    rng = np.random.default_rng(1)
    x, codes = normal(rng, 2, 24, 5, 6), weight_codes(rng, 10, 24, 1.58)
    packed, scales = reference.pack_codes(codes, 1.58), normal(rng, 10)
    pixels = run("ternary_linear", [x.transpose(0, 2, 3, 1).copy(), packed, scales, None, None, 1e-5, 0, False],
                 (2, 5, 6, 10))  # fmt: skip
    image = run("ternary_conv1x1", [x, packed, scales, None, None, 1e-5, 0], (2, 10, 5, 6))
    assert np.array_equal(image, pixels.transpose(0, 3, 1, 2))


def convolutions(rng: np.random.Generator, count: int):
    for _ in range(count):
        groups = int(rng.choice([1, 1, 2, 3]))
        depthwise = rng.random() < 0.3
        c = groups * some(rng, 4)
        groups = c if depthwise else groups
        o = groups * some(rng, 4)
        kernel = [some(rng, 5), some(rng, 5)]
        stride, dilation = [some(rng, 4), some(rng, 4)], [some(rng, 3), some(rng, 3)]
        padding = [int(rng.integers(0, 4)), int(rng.integers(0, 4))]
        size = [dilation[d] * (kernel[d] - 1) + 1 + int(rng.integers(0, 12)) for d in range(2)]
        if rng.random() < 0.1:
            size[1] += 130  # longer than a span of the kernel
        b = some(rng, 3)
        out = [(size[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2)]
        residual = optional(rng, b, o, *out)
        yield b, c, o, groups, kernel, size, [stride, padding, dilation, groups], residual


def test_conv2d_int8() -> None:
    rng = np.random.default_rng(2)
    for b, c, o, groups, kernel, size, geometry, residual in convolutions(rng, 120):
        x = spoil(rng, normal(rng, b, c, *size) * 4)
        weight = rng.integers(-128, 128, size=(o, c // groups, *kernel)).astype(np.int8)
        scales = normal(rng, o if rng.random() < 0.5 else 1)
        check("conv2d_int8", [x, weight, scales, optional(rng, o), residual, *geometry, some(rng, 10) - 1])


def test_ternary_conv2d() -> None:
    rng = np.random.default_rng(7)
    for b, c, o, _, kernel, size, geometry, residual in convolutions(rng, 120):
        if rng.random() < 0.2:
            c *= 70  # deeper than what is unpacked at once
        x = spoil(rng, normal(rng, b, c, *size) * 4)
        codes = rng.integers(-1, 2, size=(o, c, *kernel)).astype(np.int8)
        scales, bias, activation = normal(rng, o if rng.random() < 0.5 else 1), optional(rng, o), some(rng, 10) - 1
        got = check(
            "ternary_conv2d",
            [x, reference.pack_taps(codes), scales, bias, residual, kernel, *geometry[:3], activation],
        )
        as_int8 = run("conv2d_int8", [x, codes, scales, bias, residual, *geometry[:3], 1, activation], got.shape)
        assert np.array_equal(bits(got), bits(as_int8))


def test_eager_ternary_conv2d_has_the_same_bits() -> None:
    pytest.importorskip("edge.export.ops")
    rng = np.random.default_rng(8)
    for b, c, o, _, kernel, size, geometry, residual in convolutions(rng, 40):
        packed = reference.pack_taps(rng.integers(-1, 2, size=(o, c, *kernel)).astype(np.int8))
        args = [normal(rng, b, c, *size) * 5, packed, normal(rng, o), optional(rng, o), residual, kernel, *geometry[:3]]
        args.append(some(rng, 3) - 1)
        eager = torch.ops.edge.ternary_conv2d(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args))
        assert np.array_equal(bits(eager.numpy() + 0), bits(run("ternary_conv2d", args, tuple(eager.shape)) + 0))


def pooled_convolutions(rng: np.random.Generator, count: int):
    """Arguments of (name, convolution before the residual, behind it, pool)."""
    for b, c, o, groups, kernel, size, geometry, _ in convolutions(rng, count):
        kind = str(rng.choice(["conv2d", "conv2d_int8", "ternary_conv2d"]))
        x, scales = spoil(rng, normal(rng, b, c, *size) * 4), normal(rng, o if rng.random() < 0.5 else 1)
        rest = [*geometry, some(rng, 10) - 1]
        if kind == "conv2d":
            layer = [x, normal(rng, o, c // groups, *kernel), optional(rng, o)]
        elif kind == "conv2d_int8":
            codes = rng.integers(-128, 128, size=(o, c // groups, *kernel)).astype(np.int8)
            layer = [x, codes, scales, optional(rng, o)]
        else:
            packed = reference.pack_taps(rng.integers(-1, 2, size=(o, c, *kernel)).astype(np.int8))
            layer, rest = [x, packed, scales, optional(rng, o)], [kernel, *geometry[:3], rest[-1]]
        made = [(size[d] + 2 * geometry[1][d] - geometry[2][d] * (kernel[d] - 1) - 1) // geometry[0][d] + 1
                for d in range(2)]  # fmt: skip
        window = [min(some(rng, 4), made[d]) for d in range(2)]
        wide = [2 if (n - 1) // 2 >= w - 1 and rng.random() < 0.3 else 1 for n, w in zip(made, window, strict=True)]
        stride = [] if rng.random() < 0.2 else [some(rng, 4), some(rng, 4)]
        padding = [int(rng.integers(0, w // 2 + 1)) for w in window]
        yield kind, layer, rest, [window, stride, padding, wide, bool(rng.random() < 0.5)], (b, o, *made)


@pytest.mark.parametrize("threads", [1, 3])
def test_convolution_with_a_pool(threads: int) -> None:
    """The two operators one after the other, and the oracle, bit by bit."""
    rng = np.random.default_rng(11)
    for kind, layer, rest, pool, shape in pooled_convolutions(rng, 150):
        wanted = getattr(reference, f"{kind}_max_pool2d")(*layer, *rest, *pool)
        got = np.full(wanted.shape, 113, dtype=np.float32)
        run_op(f"edge::{kind}_max_pool2d.out", [*layer, *rest, *pool, got], threads)
        assert np.array_equal(bits(got), bits(wanted))
        apart = run("max_pool2d", [run(kind, [*layer, None, *rest], shape), *pool], wanted.shape)
        assert np.array_equal(bits(got), bits(apart))


def test_threads_share_a_convolution_with_a_pool() -> None:
    """Large enough that each thread gets rows, with windows that reach into its neighbour's."""
    rng = np.random.default_rng(12)
    x, weight = normal(rng, 2, 16, 40, 36), rng.integers(-1, 2, size=(70, 16, 3, 3)).astype(np.int8)
    calls = {
        "conv2d": ([x, weight.astype(np.float32), None], [[1, 1], [1, 1], [1, 1], 1, 1]),
        "conv2d_int8": ([x, weight, normal(rng, 70), None], [[1, 1], [1, 1], [1, 1], 1, 1]),
        "ternary_conv2d": ([x, reference.pack_taps(weight), normal(rng, 70), None],
                           [[3, 3], [1, 1], [1, 1], [1, 1], 1]),
    }  # fmt: skip
    for kind, (layer, rest) in calls.items():
        for pool in ([[3, 3], [2, 2], [1, 1], [1, 1], False], [[5, 2], [1, 2], [2, 0], [2, 1], True]):
            apart = run(kind, [*layer, None, *rest], (2, 70, 40, 36))
            shape = reference.max_pool2d(apart, *pool).shape
            wanted = run("max_pool2d", [apart, *pool], shape)
            for threads in (1, 2, 5):
                got = np.full(shape, 113, dtype=np.float32)
                run_op(f"edge::{kind}_max_pool2d.out", [*layer, *rest, *pool, got], threads)
                assert np.array_equal(bits(got), bits(wanted)), (kind, pool, threads)


def test_eager_convolutions_with_a_pool() -> None:
    pytest.importorskip("edge.export.ops")
    rng = np.random.default_rng(13)
    for kind, layer, rest, pool, _ in pooled_convolutions(rng, 60):
        if not tame(layer[0]) or rest[-1] > 1:
            continue
        args = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in [*layer, *rest, *pool]]
        eager = getattr(torch.ops.edge, f"{kind}_max_pool2d")(*args).numpy()
        got = run(f"{kind}_max_pool2d", [*layer, *rest, *pool], eager.shape)
        if kind == "conv2d":
            np.testing.assert_allclose(got, eager, rtol=1e-4, atol=1e-4)
        else:
            assert np.array_equal(bits(got + 0), bits(eager + 0))


def test_quantizing_a_large_sample_does_not_overflow(tmp_path: Path) -> None:
    """17 million codes of 127 add up to more than an int32 holds, which C leaves undefined for signed ones."""
    (tmp_path / "main.c").write_text(
        """#include <stdlib.h>
        #include "kernels/scalar/scalar.h"
        int main(void) {
          const size_t k = 17000000;
          float *x = malloc(k * sizeof *x);
          int8_t *codes = malloc(k);
          for (size_t i = 0; i < k; ++i) x[i] = 1.0f;
          edge_row row;
          edge_f32_qd8_quantize__scalar(1, k, x, -1.0f, false, k, codes, &row);
          return codes[k - 1] == 127 && row.sum == (int32_t)(127u * 17000000u) ? 0 : 3;
        }"""
    )
    core = ROOT / "runtime" / "core"
    source = core / "kernels" / "scalar" / "f32_qd8_quantize.c"
    command = [sanitizing_compiler(), "-O1", *SANITIZERS, f"-I{core}", "main.c", source, "-o", "main", "-lm"]
    subprocess.run(command, check=True, cwd=tmp_path)
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run([tmp_path / "main"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


def test_conv2d_int8_is_close_to_float() -> None:
    rng = np.random.default_rng(3)
    x, weight = normal(rng, 1, 8, 12, 12), rng.integers(-127, 128, size=(6, 8, 3, 3)).astype(np.int8)
    scale = np.float32([0.01])
    got = run("conv2d_int8", [x, weight, scale, None, None, [1, 1], [1, 1], [1, 1], 1, 0], (1, 6, 12, 12))
    wanted = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight * scale), padding=1).numpy()
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


# --- float layers ---------------------------------------------------------------------------------------------------


def test_conv2d() -> None:
    rng = np.random.default_rng(4)
    for b, c, o, groups, kernel, size, geometry, residual in convolutions(rng, 120):
        x, weight = spoil(rng, normal(rng, b, c, *size)), normal(rng, o, c // groups, *kernel)
        bias = optional(rng, o)
        got = check("conv2d", [x, weight, bias, residual, *geometry, 0])
        tensors = [None if t is None else torch.from_numpy(t) for t in (x, weight, bias)]
        wanted = F.conv2d(*tensors, *geometry).numpy() + (0 if residual is None else residual)
        if tame(x):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", range(9))
def test_linear_and_its_activations(activation: int) -> None:
    rng = np.random.default_rng(5)
    functions = [lambda y: y, F.relu, F.gelu, lambda y: F.gelu(y, approximate="tanh"), F.silu, F.relu6, F.hardswish,
                 torch.sigmoid, torch.tanh]  # fmt: skip
    for _ in range(40):
        n, k, lead = some(rng, 20), some(rng, 60), [some(rng, 5) for _ in range(rng.integers(0, 3))]
        x, weight, bias = spoil(rng, normal(rng, *lead, k)), normal(rng, n, k), optional(rng, n)
        residual = optional(rng, *lead, n)
        got = check("linear", [x, weight, bias, residual, activation])
        tensors = [None if t is None else torch.from_numpy(t) for t in (x, weight, bias)]
        wanted = functions[activation](F.linear(*tensors)).numpy() + (0 if residual is None else residual)
        if tame(x):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_layer_norm() -> None:
    rng = np.random.default_rng(6)
    for k in [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 257]:
        x = spoil(rng, normal(rng, 3, 4, k) * 5 + 1)
        for weight, bias in [(None, None), (normal(rng, k), normal(rng, k)), (normal(rng, k), None)]:
            got = check("layer_norm", [x, weight, bias, 1e-5])
            tensors = [None if t is None else torch.from_numpy(t) for t in (weight, bias)]
            if tame(x):
                wanted = F.layer_norm(torch.from_numpy(x), (k,), *tensors, 1e-5).numpy()
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


# --- attention and pooling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        b, h, t, s, d = (some(rng, v) for v in (3, 4, 20, 40, 20))
        q, k, v = normal(rng, b, h, t, d), normal(rng, b, h, s, d), normal(rng, b, h, s, d)
        shapes = [None, (s,), (t, s), (t, 1), (b, 1, 1, s), (b, h, t, s), (1, 1, t, s), ()]
        shape = shapes[rng.integers(0, len(shapes))]
        mask = None if shape is None else normal(rng, *shape)
        if shape and rng.random() < 0.5:
            mask[rng.random(shape) < 0.5] = -np.inf  # whole rows too
        got = check("attention", [q, k, v, mask, 0.37, causal])
        allowed = torch.ones(t, s, dtype=torch.bool).tril() if causal else torch.ones(t, s, dtype=torch.bool)
        bias = torch.zeros(t, s).masked_fill(~allowed, -np.inf) + (0 if mask is None else torch.from_numpy(mask))
        tensors = [torch.from_numpy(a) for a in (q, k, v)]
        wanted = F.scaled_dot_product_attention(*tensors, attn_mask=bias.expand(b, h, t, s), scale=0.37)
        np.testing.assert_allclose(got, wanted.nan_to_num(0).numpy(), rtol=1e-4, atol=1e-5)


def test_attention_of_fully_masked_rows_is_zero() -> None:
    rng = np.random.default_rng(8)
    q = normal(rng, 1, 1, 2, 4)
    mask = np.float32([[0, 0], [-np.inf, -np.inf]])
    got = check("attention", [q, q, q, mask, 0.5, False])
    assert np.array_equal(got[0, 0, 1], np.zeros(4)) and np.abs(got[0, 0, 0]).min() > 0


@pytest.mark.parametrize("causal", [False, True])
def test_attention_qkv(causal: bool) -> None:
    rng = np.random.default_rng(9)
    for _ in range(30):
        b, t, h, d = (some(rng, v) for v in (3, 40, 5, 18))
        qkv = spoil(rng, normal(rng, b, t, 3 * h * d))
        got = check("attention_qkv", [qkv, h, d**-0.5, causal])
        if tame(qkv):
            q, k, v = torch.from_numpy(qkv).view(b, t, 3, h, d).permute(2, 0, 3, 1, 4)
            wanted = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(b, t, h * d)
            np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_int8(causal: bool) -> None:
    """Bit for bit the oracle's, and as near to float attention as eight bits allow."""
    rng = np.random.default_rng(17)
    for _ in range(60):
        b, h, t, s, d = (some(rng, v) for v in (3, 4, 60, 80, 40))
        q, k, v = spoil(rng, normal(rng, b, h, t, d)), normal(rng, b, h, s, d), normal(rng, b, h, s, d)
        shapes = [None, None, (s,), (t, s), (t, 1), (b, 1, 1, s), (b, h, t, s)]
        shape = shapes[rng.integers(0, len(shapes))]
        mask = None if shape is None else normal(rng, *shape)
        if shape and rng.random() < 0.5:
            mask[rng.random(shape) < 0.5] = -np.inf  # whole rows too
        got = check("attention_int8", [q, k, v, mask, d**-0.5, causal])
        if tame(q):
            wanted = reference.attention(q, k, v, mask, d**-0.5, causal)
            assert np.abs(got - wanted).max() < 0.06 * np.abs(v).max(), (b, h, t, s, d)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_qkv_int8_as_eager_torch(causal: bool) -> None:
    """Bit for bit: the weights are integers there too."""
    import edge.export.ops  # noqa: F401 - registers the operators

    rng = np.random.default_rng(19)
    for _ in range(20):
        b, t, h, d = (some(rng, v) for v in (3, 70, 5, 40))
        qkv = normal(rng, b, t, 3 * h * d)
        got = check("attention_qkv_int8", [qkv, h, d**-0.5, causal])
        wanted = torch.ops.edge.attention_qkv_int8(torch.from_numpy(qkv), h, d**-0.5, causal)
        assert np.array_equal(bits(got), bits(wanted.numpy())), (b, t, h, d)


def test_attention_int8_of_small_weights_counts_them_by_number() -> None:
    """One key of weight 1 and a thousand of 0.001: together as much as the first."""
    keys = 1001
    q = np.zeros((1, 1, 1, 4), np.float32)
    mask = np.full(keys, np.log(np.float32(1e-3)), np.float32)
    mask[0] = 0
    v = np.zeros((1, 1, keys, 4), np.float32)
    v[0, 0, 0] = 1
    got = check("attention_int8", [q, q.repeat(keys, 2), v, mask, 1.0, False])
    assert np.abs(got - 0.5).max() < 0.01


def test_attention_int8_of_more_keys_than_a_block_of_sums() -> None:
    """Sums of 1,024 keys fit 32 bits: the largest weights and values, of more keys than that."""
    rng = np.random.default_rng(23)
    for causal in (False, True):
        q, k = np.zeros((1, 1, 3, 4), np.float32), normal(rng, 1, 1, 2500, 4)
        v = rng.choice(np.float32([-1, 1]), (1, 1, 2500, 5))
        v[..., 0] = 1
        padded = np.ascontiguousarray(v[..., :4])
        got = check("attention_int8", [q, k, padded, None, 1.0, causal])
        np.testing.assert_allclose(got[0, 0, 2, 0], 1, rtol=1e-6)
        if not causal:
            np.testing.assert_allclose(got[0, 0], np.broadcast_to(padded.mean(-2), (1, 1, 3, 4))[0, 0], atol=1e-6)


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
def test_attention_int8_is_off_by_its_codes_alone(spread: float) -> None:
    """Its error is that of exact attention of the same codes: weights in integers add nothing."""
    rng = np.random.default_rng(29)
    q, k, v = (normal(rng, 2, 2, 256, 64) for _ in range(3))
    q *= np.float32(spread)
    exact = exact_attention(q, k, v)
    got = check("attention_int8", [q, k, v, None, 0.125, False])
    of_codes = exact_attention(rounded(q), rounded(k), rounded(v.swapaxes(-1, -2)).swapaxes(-1, -2))
    error, least = (np.sqrt(np.mean((y - exact) ** 2)) for y in (got, of_codes))
    assert error < 1.01 * least, (error, least)


def exact_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Softmax attention of scale 0.125 in float64."""
    score = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * 0.125
    weight = np.exp(score - score.max(-1, keepdims=True))
    return weight @ v.astype(np.float64) / weight.sum(-1, keepdims=True)


def rounded(x: np.ndarray) -> np.ndarray:
    """What the codes of each row stand for."""
    codes, scale = reference.quantize_activation(x, -1.0)
    return codes.astype(np.float32) / scale[..., None]


def test_attention_of_no_depth_is_refused() -> None:
    """Empty tensors would take any number of heads, and scores cost time whatever the depth."""
    empty, out = np.zeros((1, 1, 0), "f4"), np.zeros((1, 1, 0), "f4")
    with pytest.raises(CoreError, match=r"qkv has shape \[1, 1, 0\], expected \[B, T, 3 \* 2000000 \* depth\]"):
        run_op("edge::attention_qkv.out", [empty, 2_000_000, 1.0, False, out])
    q = np.zeros((1, 1, 6, 0), "f4")
    with pytest.raises(CoreError, match="q has heads of depth 0"):
        run_op("edge::attention.out", [q, q, q, None, 1.0, False, q.copy()])


def test_max_pool2d() -> None:
    rng = np.random.default_rng(10)
    for _ in range(100):
        kernel, stride, dilation = ([some(rng, 4), some(rng, 4)] for _ in range(3))
        padding = [int(rng.integers(0, kernel[d] // 2 + 1)) for d in range(2)]
        size = [dilation[d] * (kernel[d] - 1) + 1 + int(rng.integers(0, 9)) for d in range(2)]
        x = spoil(rng, normal(rng, 2, 3, *size))
        args = [kernel, stride if rng.random() < 0.8 else [], padding, dilation, bool(rng.random() < 0.5)]
        got = check("max_pool2d", [x, *args])
        wanted = torch.ops.aten.max_pool2d(torch.from_numpy(x), *args)
        assert np.array_equal(bits(got), bits(wanted.numpy()))


def test_sequence_pool() -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        b, t, d = (some(rng, v) for v in (4, 70, 40))
        x, weight, bias = spoil(rng, normal(rng, b, t, d)), normal(rng, d), optional(rng, 1)
        got = check("sequence_pool", [x, weight, bias])
        if tame(x):
            y, w = torch.from_numpy(x), torch.from_numpy(weight)
            p = (y @ w + (0 if bias is None else float(bias[0]))).softmax(-1)
            np.testing.assert_allclose(got, (p[:, None] @ y)[:, 0].numpy(), rtol=1e-4, atol=1e-5)


def test_add_quantized() -> None:
    rng = np.random.default_rng(12)
    for lead, table in [((2,), (5, 8)), ((), (3, 4)), ((2, 3), (7,)), ((3,), (2, 4, 6)), ((1,), (1, 1))]:
        codes = rng.integers(-128, 128, size=table).astype(np.int8)
        check("add_quantized", [normal(rng, *lead, *table), codes, normal(rng, int(np.prod(table[:-1])))])


# --- elementary functions -------------------------------------------------------------------------------------------


def test_gelu_equals_the_oracle_and_the_truth() -> None:
    ends = np.float32([1e-30, -1e-30, 3e38, -3e38, np.nan])
    x = np.concatenate([np.linspace(-8, 8, 400_001, dtype=np.float32), ends])
    got = np.empty_like(x)
    run_op("aten::gelu.out", [x, "none", got])
    assert np.array_equal(bits(got), bits(reference_math.gelu(x)))
    truth = torch.nn.functional.gelu(torch.from_numpy(x.astype(np.float64))).numpy()
    inside = np.abs(x) <= 8
    assert np.abs(got - truth)[inside].max() < 9e-7
    assert got[-3] == np.float32(3e38) and got[-2] == 0 and np.isnan(got[-1])


@pytest.mark.parametrize("name", ["exp", "erf", "tanh"])
def test_elementary_functions_equal_the_oracle_and_the_truth(name: str) -> None:
    rng = np.random.default_rng(13)
    spread = (rng.normal(size=200_000) * 10.0 ** rng.integers(-20, 3, size=200_000)).astype(np.float32)
    near = np.linspace(-100, 100, 200_001, dtype=np.float32)
    x = np.concatenate([spread, near, near / 20, SPECIAL])
    got = np.empty_like(x)
    run_op(f"aten::{name}.out", [x, got])
    assert np.array_equal(bits(got), bits(getattr(reference_math, name)(x)))
    with np.errstate(all="ignore"):
        truth = getattr(torch, name)(torch.from_numpy(x.astype(np.float64))).numpy()
        ordinary = np.isfinite(truth) & (np.abs(truth) > 2.0**-126) & (np.abs(truth) < 3.4e38)
        error = np.abs(got[ordinary] - truth[ordinary]) / np.abs(truth[ordinary])
    assert error.max() < 3e-7
    assert np.array_equal(np.isnan(got), np.isnan(x))


@pytest.mark.parametrize("activation", range(9))
def test_activations_of_special_values(activation: int) -> None:
    """Infinities, NaN and zeros through an identity matrix of one."""
    x = SPECIAL[:, None]
    check("linear", [x, np.float32([[1.0]]), None, None, activation])


@pytest.mark.parametrize(
    ("name", "dtype", "value", "expected"),
    [
        ("full", "i8", 16777217.0, 16777217),
        ("full", "i8", -1e300, -(2**63)),
        ("full", "i8", 9.3e18, 2**63 - 1),
        ("full", "i4", 2147483646.9, 2147483646),
        ("full", "i4", 3e9, 2**31 - 1),
        ("full", "i4", float("nan"), 0),
        ("full", "?", 1e-50, 1),
        ("full", "f4", 16777217.0, 16777216),
        ("_to_copy", "i4", 3e9, 2**31 - 1),
        ("_to_copy", "i4", -3e9, -(2**31)),
        ("_to_copy", "i8", 1e30, 2**63 - 1),
        ("_to_copy", "i2", -4e4, -(2**15)),
        ("_to_copy", "i1", 127.9, 127),
        ("_to_copy", "i1", -129.0, -128),
        ("_to_copy", "u1", 256.0, 255),
        ("_to_copy", "u1", -1.0, 0),
        ("_to_copy", "i4", float("nan"), 0),
    ],
)
def test_floats_become_integers_by_saturation(name: str, dtype: str, value: float, expected: int) -> None:
    out = np.zeros(2, dtype)
    given = [[2], value] if name == "full" else [np.full(2, value, "f4"), False, None]
    run_op(f"aten::{name}.out", [*given, out])
    assert out.tolist() == [expected, expected]
