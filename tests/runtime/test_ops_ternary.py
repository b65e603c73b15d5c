"""edge::ternary_linear against eager torch and the numpy oracle, bit by bit, and against PyPI bitlinear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge.export import reference
from edge.runtime._core import run_op
from tests.runtime.ternary_cases import SEEDS, bits, hundred_cases, in_torch


def ternary_linear(x, packed, scales, bias=None, residual=None, norm_eps=-1.0, activation=0, compat=False):
    out = np.full((*x.shape[:-1], packed.shape[0]), 7.0, dtype=np.float32)
    run_op("edge::ternary_linear.out", [x, packed, scales, bias, residual, norm_eps, activation, compat, out])
    return out


def assert_equal_to_oracle(*args) -> None:
    got, wanted = ternary_linear(*args), reference.ternary_linear(*args)
    assert np.array_equal(bits(got), bits(wanted)), (args[0].shape, args[1].shape, np.abs(got - wanted).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hundred_random_shapes(seed: int) -> None:
    """Torch's very bits, and the oracle's, the latter with every activation."""
    rng = np.random.default_rng(seed)
    for case in hundred_cases(seed):
        core = ternary_linear(*case)
        assert np.array_equal(bits(core + 0), bits(in_torch(case) + 0))  # + 0: relu's zero may have either sign
        assert_equal_to_oracle(*case)
        case[6] = int(rng.integers(0, 9))
        assert_equal_to_oracle(*case)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 15, 16, 17, 33])
def test_tails_of_rows_and_depth(k: int, rows: int) -> None:
    rng = np.random.default_rng(k * 100 + rows)
    x = rng.normal(size=(rows, k)).astype(np.float32)
    packed = reference.pack_codes(rng.integers(-1, 2, size=(9, k)).astype(np.int8), 1.58)
    assert_equal_to_oracle(x, packed, np.float32([0.3]), None, None, 1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("k", [7, 4096, 200_003])
def test_largest_sums(k: int, sign: int) -> None:
    """All ±127 times all ±1: nothing saturates or wraps, at depths beyond int16 and float32's exact integers."""
    x = np.full((2, k), 5.0, dtype=np.float32)
    x[1] *= -1
    packed = reference.pack_codes(np.full((3, k), sign, dtype=np.int8), 1.58)
    got = ternary_linear(x, packed, np.float32([1.0]))
    exact = np.float32(sign * 127 * k) * np.float32(np.float32(1) / (np.float32(1) / np.float32(5) * np.float32(127)))
    assert np.array_equal(got, [[exact] * 3, [-exact] * 3])
    assert_equal_to_oracle(x, packed, np.float32([1.0]))


def test_nan_becomes_code_zero_and_spoils_nothing_else() -> None:
    x = np.float32([[1.0, np.nan, -2.0, 0.5]])
    packed = reference.pack_codes(np.ones((1, 4), dtype=np.int8), 1.58)
    clean = np.float32([[1.0, 0.0, -2.0, 0.5]])
    scale = np.float32([1.0])
    assert np.array_equal(ternary_linear(x, packed, scale), ternary_linear(clean, packed, scale))


def test_padding_bits_do_not_count() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 6)).astype(np.float32)
    packed = reference.pack_codes(rng.integers(-1, 2, size=(4, 6)).astype(np.int8), 1.58)
    dirty = packed.copy()
    dirty[:, -1] ^= 0xF0
    scale = np.float32([1.0])
    assert np.array_equal(ternary_linear(x, packed, scale), ternary_linear(x, dirty, scale))


def test_exact_values_by_hand() -> None:
    x = np.float32([[2.0, -4.0, 1.0]])  # s_x = 127 / 4: codes 64 (63.5 to even), -127, 32 (31.75)
    packed = reference.pack_codes(np.int8([[1, -1, 0], [0, 0, -1]]), 1.58)
    s_x = np.float32(np.float32(1) / np.float32(4)) * np.float32(127)
    wanted = np.float32([[191, -32]]) * (np.float32(0.5) * (np.float32(1) / s_x)) + np.float32([1, 2])
    assert np.array_equal(ternary_linear(x, packed, np.float32([0.5]), np.float32([1, 2])), wanted)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 17, 5), (8, 64, 32), (1, 300, 10), (20, 48, 96)])
def test_reproduces_pypi_bitlinear_without_norm(shape: tuple[int, int, int], bias: bool) -> None:
    """The package's own layer, its own weights: exactly the same numbers."""
    bitlinear = pytest.importorskip("bitlinear")
    rows, k, n = shape
    torch.manual_seed(rows * k + n)
    layer = bitlinear.BitLinear(k, n, bias=bias, norm=None)
    x = torch.randn(rows, k) * 3
    w_scale, codes = bitlinear_weights(layer)
    got = ternary_linear(
        x.numpy(),
        reference.pack_codes(codes, 1.58),
        w_scale,
        None if layer.bias is None else layer.bias.detach().numpy(),
        None,
        -1.0,
        0,
        True,
    )
    with torch.no_grad():
        assert np.array_equal(got, layer(x).numpy())


def test_reproduces_pypi_bitlinear_with_its_layer_norm() -> None:
    """torch sums a norm in another order, so a code may round the other way: the outputs agree within one step."""
    bitlinear = pytest.importorskip("bitlinear")
    torch.manual_seed(5)
    layer = bitlinear.BitLinear(96, 64)
    x = torch.randn(50, 96)
    w_scale, codes = bitlinear_weights(layer)
    packed, bias = reference.pack_codes(codes, 1.58), layer.bias.detach().numpy()
    with torch.no_grad():
        wanted = layer(x).numpy()
        normed = torch.layer_norm(x, [96]).numpy()
    assert np.array_equal(ternary_linear(normed, packed, w_scale, bias, None, -1.0, 0, True), wanted)
    got = ternary_linear(x.numpy(), packed, w_scale, bias, None, 1e-5, 0, True)
    step = np.abs(normed).max(-1, keepdims=True) / 128 / w_scale
    assert (np.abs(got - wanted) <= 2.01 * step + 1e-5).all()
    assert (np.abs(got - wanted) < 1e-5).mean() > 0.98


def bitlinear_weights(layer) -> tuple[np.ndarray, np.ndarray]:
    """The package's weight factor, float32 [1], and ternary codes."""
    from bitlinear.bitlinear import round_clamp, scale

    with torch.no_grad():
        factor = scale(layer.weight, layer.weight_range, layer.weight_measure, False, layer.eps)
        codes = round_clamp(layer.weight * factor, layer.weight_range).round()
    return factor.reshape(1).numpy(), codes.to(torch.int8).numpy()
