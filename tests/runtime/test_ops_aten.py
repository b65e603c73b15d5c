"""The portable ATen operators of the core against torch: shapes, dtypes, broadcasting, negative dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge.runtime._core import CoreError, run_op

SHAPES = [(), (1,), (5,), (3, 4), (2, 1, 7), (2, 3, 4, 5), (1, 2, 1, 3, 2)]


def numpy_of(value):
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous().numpy().copy()
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        return [numpy_of(v) for v in value]
    return value


def run(name: str, args: list, *wanted: torch.Tensor) -> list[np.ndarray]:
    """Runs the operator into outputs of the wanted shapes and dtypes, filled with garbage first."""
    outs = [np.full(tuple(w.shape), 113, dtype=numpy_of(w).dtype) for w in wanted]
    run_op(name, [numpy_of(a) for a in args] + outs)
    return outs


def check(name: str, args: list, *wanted: torch.Tensor, tolerance: float = 2e-6) -> None:
    for out, want in zip(run(name, args, *wanted), wanted, strict=True):
        expected = numpy_of(want)
        if expected.dtype == np.float32:
            np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance, equal_nan=True, err_msg=name)
        else:
            np.testing.assert_array_equal(out, expected, err_msg=name)


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape) * 31)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator) * 3
    return torch.randint(-9, 10, shape, generator=generator, dtype=dtype)


# --- one operand ----------------------------------------------------------------------------------------------------

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "exp": torch.exp,
    "erf": torch.erf,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "neg": torch.neg,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    for shape in [*SHAPES, (0, 3)]:
        x = random(shape)
        check(f"aten::{name}.out", [x], UNARY[name](x))
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e30, 88.0, -104.0])
    if name not in ("sin", "cos", "hardswish", "silu"):  # inf * 0 and ∞ phases are no numbers anywhere
        check(f"aten::{name}.out", [special], UNARY[name](special))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    x = torch.linspace(-8, 8, 4001)
    check("aten::gelu.out", [x, approximate], F.gelu(x, approximate=approximate))


def test_clamps() -> None:
    x = random((3, 17))
    check("aten::hardtanh.out", [x, -1, 1.5], F.hardtanh(x, -1, 1.5))
    check("aten::clamp.out", [x, 0, None], x.clamp(min=0))
    check("aten::clamp.out", [x, None, 2.5], x.clamp(max=2.5))
    check("aten::clamp.out", [x, 2.0, -2.0], x.clamp(2.0, -2.0))
    check("aten::leaky_relu.out", [x, 0.1], F.leaky_relu(x, 0.1))
    check("aten::elu.out", [x, 1.3, 1, 1], F.elu(x, 1.3))


@pytest.mark.parametrize("exponent", [2, 3, 0.5, -0.5, -1, 0, 1.7])
def test_power_of_a_scalar(exponent: float) -> None:
    x = random((4, 9)).abs() + 0.1
    check("aten::pow.Tensor_Scalar_out", [x, exponent], torch.pow(x, exponent))


# --- two operands ---------------------------------------------------------------------------------------------------

BROADCASTS = [
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((4,), (3, 4)),
    ((3, 1), (1, 4)),
    ((2, 3, 4), ()),
    ((), (2, 3)),
    ((2, 1, 4, 1), (3, 1, 5)),
    ((1,), (2, 2)),
    ((0, 3), (1, 3)),
    ((), ()),
    ((2, 3, 2, 1, 2, 1, 2, 2), (1, 1, 2, 2, 1, 3, 2, 1)),
]
DTYPES = [torch.float32, torch.int64, torch.int32, torch.bool]


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "minimum", "maximum"])
def test_arithmetic(name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for a_type, b_type in itertools.product(DTYPES, DTYPES):
        if torch.bool in (a_type, b_type) and name == "sub":
            continue  # torch refuses it
        a, b = random(shapes[0], a_type), random(shapes[1], b_type, seed=1)
        if name in ("add", "sub"):
            check(f"aten::{name}.out", [a, b, 1], getattr(torch, name)(a, b))
            if a_type != torch.bool:
                check(f"aten::{name}.out", [a, b, 3], getattr(torch, name)(a, b, alpha=3))
        else:
            check(f"aten::{name}.out", [a, b], getattr(torch, name)(a, b))


@pytest.mark.parametrize("scalar", [3, -2.5, True])
def test_arithmetic_with_a_scalar(scalar: float) -> None:
    for dtype in (torch.float32, torch.int64, torch.int32):
        x = random((3, 5), dtype)
        check("aten::add.Scalar_out", [x, scalar, 1], torch.add(x, scalar))
        check("aten::mul.Scalar_out", [x, scalar], torch.mul(x, scalar))
        check("aten::div.Scalar_out", [x, scalar], torch.div(x, scalar))
        if scalar is not True:
            check("aten::sub.Scalar_out", [x, scalar, 2], torch.sub(x, scalar, alpha=2))


def test_arithmetic_alpha_and_wrapping() -> None:
    x = random((6,))
    check("aten::add.out", [x, x, -0.5], torch.add(x, x, alpha=-0.5))
    top = torch.tensor([2**63 - 1, -(2**63)])
    check("aten::add.out", [top, top, 1], top + top)
    check("aten::mul.out", [top, top], top * top)
    narrow = torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32)
    check("aten::add.out", [narrow, narrow, 1], narrow + narrow)


def test_extremes_propagate_nan() -> None:
    a, b = torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([0.0, float("nan"), 3.0])
    check("aten::minimum.out", [a, b], torch.minimum(a, b))
    check("aten::maximum.out", [a, b], torch.maximum(a, b))


def test_power_of_tensors() -> None:
    a, b = random((4, 1)).abs() + 0.1, random((5,))
    check("aten::pow.Tensor_Tensor_out", [a, b], torch.pow(a, b), tolerance=1e-5)


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons(name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for a_type, b_type in itertools.product(DTYPES, DTYPES):
        a, b = random(shapes[0], a_type), random(shapes[1], b_type, seed=1)
        check(f"aten::{name}.Tensor_out", [a, b], getattr(torch, name)(a, b))
    for scalar in (0, 0.5, -float("inf"), True):
        for dtype in DTYPES:
            a = random(shapes[0], dtype)
            check(f"aten::{name}.Scalar_out", [a, scalar], getattr(torch, name)(a, scalar))


def test_logic() -> None:
    for a_type, b_type in itertools.product(DTYPES, DTYPES):
        a, b = random((3, 1, 4), a_type), random((5, 1), b_type, seed=1)
        check("aten::logical_and.out", [a, b], torch.logical_and(a, b))
        check("aten::logical_or.out", [a, b], torch.logical_or(a, b))
        check("aten::logical_not.out", [a], torch.logical_not(a))


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
def test_bitwise_logic_of_truths(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = random(shapes[0], torch.bool), random(shapes[1], torch.bool, seed=1)
    check("aten::bitwise_and.Tensor_out", [a, b], a & b)
    check("aten::bitwise_not.out", [a], ~a)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32], ids=str)
def test_bitwise_logic_of_numbers_is_refused(dtype: torch.dtype) -> None:
    a, mask = random((3, 4), dtype), random((3, 4), torch.bool)
    for name, args in (("self", [a, mask]), ("other", [mask, a])):
        with pytest.raises(CoreError, match=f"{name} is .*, which this operator does not take"):
            run("aten::bitwise_and.Tensor_out", args, mask)
    with pytest.raises(CoreError, match=r"self is .*, which this operator does not take"):
        run("aten::bitwise_not.out", [a], mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where(dtype: torch.dtype) -> None:
    for shapes in [((3, 4), (3, 4), (3, 4)), ((3, 1), (1, 4), ()), ((2, 1, 1), (3,), (4, 1)), ((), (2, 2), (1,))]:
        condition, a, b = random(shapes[0], torch.bool), random(shapes[1], dtype), random(shapes[2], dtype, 5)
        check("aten::where.self_out", [condition, a, b], torch.where(condition, a, b))


# --- matrices and convolutions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (16, 33, 2), (0, 3, 4), (2, 0, 3), (5, 64, 9)])
def test_matrix_products(size: tuple[int, int, int]) -> None:
    m, k, n = size
    tolerance = 5e-5
    a, b = random((m, k)), random((k, n), seed=1)
    check("aten::mm.out", [a, b], a @ b, tolerance=tolerance)
    batch_a, batch_b = random((3, m, k)), random((3, k, n), seed=1)
    check("aten::bmm.out", [batch_a, batch_b], batch_a @ batch_b, tolerance=tolerance)
    for self_shape in [(n,), (m, n), (1, n), (m, 1), ()]:
        bias = random(self_shape, seed=2)
        check("aten::addmm.out", [bias, a, b, 1, 1], torch.addmm(bias, a, b), tolerance=tolerance)
        wanted = torch.addmm(bias, a, b, beta=0.5, alpha=-2)
        check("aten::addmm.out", [bias, a, b, 0.5, -2], wanted, tolerance=tolerance)
    nan = torch.full((n,), float("nan"))
    check("aten::addmm.out", [nan, a, b, 0, 1], torch.addmm(nan, a, b, beta=0), tolerance=tolerance)
    weight = random((n, k))
    for bias in (random((n,)), None):
        check("aten::linear.out", [batch_a, weight, bias], F.linear(batch_a, weight, bias), tolerance=tolerance)


CONVOLUTIONS = [
    {"x": (2, 3, 8, 9), "weight": (4, 3, 3, 3), "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1},
    {"x": (1, 4, 7, 5), "weight": (4, 1, 3, 2), "stride": [2, 1], "padding": [0, 1], "dilation": [1, 2], "groups": 4},
    {"x": (2, 6, 9, 9), "weight": (4, 3, 1, 1), "stride": [3, 2], "padding": [0, 0], "dilation": [1, 1], "groups": 2},
    {"x": (1, 2, 5, 70), "weight": (3, 2, 5, 3), "stride": [1, 1], "padding": [4, 2], "dilation": [2, 3], "groups": 1},
    {"x": (1, 1, 3, 3), "weight": (1, 1, 2, 2), "stride": [5, 5], "padding": [7, 7], "dilation": [1, 1], "groups": 1},
    {"x": (2, 4, 30), "weight": (6, 2, 5), "stride": [2], "padding": [3], "dilation": [2], "groups": 2},
    {"x": (1, 1, 200), "weight": (2, 1, 7), "stride": [1], "padding": [3], "dilation": [1], "groups": 1},
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: f"{c['x']}*{c['weight']}")
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(case: dict, bias: bool) -> None:
    x, weight = random(case["x"]), random(case["weight"], seed=1)
    b = random((case["weight"][0],), seed=2) if bias else None
    convolve = F.conv2d if len(case["x"]) == 4 else F.conv1d
    wanted = convolve(x, weight, b, case["stride"], case["padding"], case["dilation"], case["groups"])
    zeros = [0] * len(case["stride"])
    args = [x, weight, b, case["stride"], case["padding"], case["dilation"], False, zeros, case["groups"]]
    check("aten::convolution.out", args, wanted, tolerance=2e-5)


# --- normalization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
def test_native_layer_norm(affine: bool) -> None:
    for shape, normalized in [((5, 7), [7]), ((2, 3, 40), [40]), ((2, 3, 4, 5), [4, 5]), ((9,), [9])]:
        x = random(shape) + 2
        weight, bias = (random(tuple(normalized)), random(tuple(normalized), seed=3)) if affine else (None, None)
        wanted = torch.native_layer_norm(x, normalized, weight, bias, 1e-5)
        check("aten::native_layer_norm.out", [x, normalized, weight, bias, 1e-5], *wanted, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_batch_norm_with_running_statistics(shape: tuple[int, ...]) -> None:
    x, mean, variance = random(shape), random((3,)), random((3,), seed=1).abs() + 0.1
    for weight, bias in [(random((3,), seed=2), random((3,), seed=3)), (None, None)]:
        y = F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)
        empty = torch.zeros(0)
        statistics = [x, weight, bias, mean, variance]
        run_batch_norm("aten::_native_batch_norm_legit_no_training.out", [*statistics, 0.1, 1e-3], y, empty)
        run_batch_norm("aten::native_batch_norm.out", [*statistics, False, 0.1, 1e-3], y, empty)


def run_batch_norm(name: str, args: list, y: torch.Tensor, empty: torch.Tensor) -> None:
    out = run(name, args, y, empty, empty)[0]
    np.testing.assert_allclose(out, y.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name: str) -> None:
    for shape in SHAPES:
        for dim in range(-max(len(shape), 1), max(len(shape), 1)):
            x = random(shape) * 4
            check(f"aten::_{name}.out", [x, dim, False], getattr(torch, name)(x, dim), tolerance=1e-5)


def test_softmax_of_a_masked_row_is_zero() -> None:
    """torch gives NaN here; exported attention replaces such rows by zero afterwards (safe softmax)."""
    x = torch.tensor([[0.0, -float("inf")], [-float("inf"), -float("inf")]])
    out = run("aten::_softmax.out", [x, -1, False], x)[0]
    assert np.array_equal(out, [[1, 0], [0, 0]])


# --- pooling --------------------------------------------------------------------------------------------------------

POOLS = [
    {"kernel": [2, 2], "stride": [], "padding": [0, 0], "ceil": False},
    {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 1], "ceil": False},
    {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 0], "ceil": True},
    {"kernel": [2], "stride": [3], "padding": [1], "ceil": True},
    {"kernel": [1, 5], "stride": [4, 4], "padding": [0, 2], "ceil": True},
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 9, 11), (3, 7, 6)])
def test_pooling(pool: dict, shape: tuple[int, ...]) -> None:
    x = random(shape)
    kernel, stride, padding, ceil = pool["kernel"], pool["stride"], pool["padding"], pool["ceil"]
    for dilation in ([1, 1], [2, 1]):
        args = [kernel, stride, padding, dilation, ceil]
        wanted = torch.ops.aten.max_pool2d_with_indices(x, *args)
        check("aten::max_pool2d_with_indices.out", [x, *args], *wanted)
        check("edge::max_pool2d.out", [x, *args], wanted[0])
    for count_pad, divisor in [(True, None), (False, None), (True, 7)]:
        args = [kernel, stride, padding, ceil, count_pad, divisor]
        check("aten::avg_pool2d.out", [x, *args], torch.ops.aten.avg_pool2d(x, *args))


def test_max_pool_prefers_nan() -> None:
    x = torch.tensor([[[[1.0, float("nan")], [3.0, 2.0]]]])
    args = [[2, 2], [], [0, 0], [1, 1], False]
    check("aten::max_pool2d_with_indices.out", [x, *args], *torch.ops.aten.max_pool2d_with_indices(x, *args))


@pytest.mark.parametrize("size", [[1, 1], [2, 3], [5, 5], [9, 11], [12, 4]])
def test_adaptive_average(size: list[int]) -> None:
    x = random((2, 3, 9, 11))
    check("aten::_adaptive_avg_pool2d.out", [x, size], F.adaptive_avg_pool2d(x, size))


# --- reductions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [s for s in SHAPES if s], ids=str)
@pytest.mark.parametrize("keep", [True, False])
def test_reductions(shape: tuple[int, ...], keep: bool) -> None:
    x, whole, truth = random(shape), random(shape, torch.int64), random(shape, torch.bool)
    rank = len(shape)
    subsets = [list(c) for n in range(1, rank + 1) for c in itertools.combinations(range(rank), n)]
    for dims in [*subsets, [-1], []]:
        check("aten::mean.out", [x, dims or None, keep, None], x.mean(dims or None, keep), tolerance=1e-5)
        check("aten::sum.IntList_out", [x, dims or None, keep, None], x.sum(dims or None, keep), tolerance=1e-5)
        check("aten::sum.IntList_out", [whole, dims or None, keep, None], whole.sum(dims or None, keep))
        check("aten::sum.IntList_out", [truth, dims or None, keep, None], truth.sum(dims or None, keep))
        check("aten::amax.out", [x, dims, keep], x.amax(dims, keep))
        check("aten::amin.out", [x, dims, keep], x.amin(dims, keep))
        check("aten::any.dims_out", [truth, dims or None, keep], torch.any(truth, dims or None, keep))
    for dim in range(-rank, rank):
        check("aten::argmax.out", [x, dim, keep], x.argmax(dim, keep))
        check("aten::argmin.out", [x, dim, keep], x.argmin(dim, keep))
        check("aten::any.out", [truth, dim, keep], truth.any(dim, keep))
        check("aten::any.out", [x, dim, keep], x.any(dim, keep))
        check("aten::max.dim_max", [x, dim, keep], *x.max(dim, keep))
        check("aten::min.dim_min", [x, dim, keep], *x.min(dim, keep))
    check("aten::argmax.out", [x, None, False], x.argmax())
    check("aten::any.all_out", [truth], truth.any())


def test_reductions_of_ties_and_nan() -> None:
    x = torch.tensor([[1.0, 2.0, 2.0], [float("nan"), 5.0, float("nan")], [-1.0, -1.0, -1.0]])
    check("aten::argmax.out", [x, 1, False], x.argmax(1))
    check("aten::argmin.out", [x, 1, False], x.argmin(1))
    check("aten::amax.out", [x, [1], False], x.amax(1))
    check("aten::max.dim_max", [x, 0, True], *x.max(0, True))


def test_long_means_stay_accurate() -> None:
    x = torch.rand(2, 300, 400) + 100
    check("aten::mean.out", [x, [1, 2], False, None], x.double().mean([1, 2]).float(), tolerance=1e-5)


# --- moving elements ------------------------------------------------------------------------------------------------

COPIED = [torch.float32, torch.int64, torch.bool, torch.uint8]


@pytest.mark.parametrize("dtype", COPIED, ids=str)
def test_permutations(dtype: torch.dtype) -> None:
    for shape in [(3,), (2, 5), (2, 3, 4), (2, 3, 4, 5), (2, 0, 3)]:
        x = random(shape, dtype) if dtype != torch.uint8 else random(shape, torch.int64).to(torch.uint8)
        rank = len(shape)
        for order in itertools.permutations(range(rank)):
            check("aten::permute_copy.out", [x, list(order)], x.permute(order))
        check("aten::permute_copy.out", [x, [-1, *range(rank - 1)]], x.permute([-1, *range(rank - 1)]))
        for a, b in itertools.product(range(-rank, rank), repeat=2):
            check("aten::transpose_copy.int_out", [x, a, b], x.transpose(a, b))
    scalar = torch.tensor(3).to(dtype)
    check("aten::permute_copy.out", [scalar, []], scalar)


@pytest.mark.parametrize("dtype", COPIED, ids=str)
def test_views(dtype: torch.dtype) -> None:
    x = random((2, 1, 3, 1), torch.int64).abs().to(dtype)
    check("aten::view_copy.out", [x, [6]], x.view(6))
    check("aten::view_copy.out", [x, [3, -1]], x.view(3, -1))
    check("aten::squeeze_copy.out", [x], x.squeeze())
    for dim in range(-4, 4):
        check("aten::squeeze_copy.dim_out", [x, dim], x.squeeze(dim))
    check("aten::squeeze_copy.dims_out", [x, [1, -1]], x.squeeze((1, -1)))
    check("aten::squeeze_copy.dims_out", [x, [0, 1]], x.squeeze((0, 1)))
    for dim in range(-5, 5):
        check("aten::unsqueeze_copy.out", [x, dim], x.unsqueeze(dim))
    check("aten::clone.out", [x, None], x)
    check("aten::alias_copy.out", [x], x)
    check("aten::expand_copy.out", [x, [5, 2, 4, -1, 7], False], x.expand(5, 2, 4, -1, 7))


@pytest.mark.parametrize("source", [torch.float32, torch.int64, torch.int32, torch.bool, torch.uint8], ids=str)
@pytest.mark.parametrize("target", [torch.float32, torch.int64, torch.int32, torch.bool], ids=str)
def test_conversions(source: torch.dtype, target: torch.dtype) -> None:
    x = torch.tensor([[0.0, 1.0, 2.7], [100.0, -3.9, 0.4]])
    x = (x.abs() if source == torch.uint8 else x).to(source)
    check("dim_order_ops::_to_dim_order_copy.out", [x, False, [0, 1]], x.to(target))
    check("aten::_to_copy.out", [x, False, None], x.to(target))
    if source == target:
        check("dim_order_ops::_clone_dim_order.out", [x, False, None], x)


def test_conversion_of_what_no_integer_holds() -> None:
    x = np.float32([np.nan, np.inf, -np.inf, 1e30])
    out = np.zeros(4, dtype=np.int64)
    run_op("dim_order_ops::_to_dim_order_copy.out", [x, False, [0], out])
    assert out.tolist() == [0, 2**63 - 1, -(2**63), 2**63 - 1]


def test_select_and_slice() -> None:
    for dtype in COPIED:
        x = random((4, 5, 6), torch.int64).abs().to(dtype)
        for dim in range(-3, 3):
            for index in (0, -1, 2, -4):
                check("aten::select_copy.int_out", [x, dim, index], x.select(dim, index))
            bounds = [None, 0, 2, 100, -1, -3, -100, 2**63 - 1]
            for start, end, step in itertools.product(bounds, bounds, (1, 2, 7)):
                wanted = torch.ops.aten.slice.Tensor(x, dim, start, end, step)
                check("aten::slice_copy.Tensor_out", [x, dim, start, end, step], wanted)


def test_cat() -> None:
    for dtype in COPIED:
        parts = [random(s, torch.int64).abs().to(dtype) for s in [(2, 1, 3), (2, 4, 3), (2, 0, 3)]]
        check("aten::cat.out", [parts, 1], torch.cat(parts, 1))
        check("aten::cat.out", [parts, -2], torch.cat(parts, 1))
        nothing = torch.zeros(0, dtype=dtype)
        check("aten::cat.out", [[nothing, parts[0]], 0], torch.cat([nothing, parts[0]], 0))


def split(name: str, args: list, parts: tuple[torch.Tensor, ...]) -> None:
    outs = [np.full(tuple(p.shape), 113, dtype=numpy_of(p).dtype) for p in parts]
    run_op(name, [numpy_of(a) for a in args] + [outs])
    for out, part in zip(outs, parts, strict=True):
        np.testing.assert_array_equal(out, numpy_of(part))


def test_split_and_unbind() -> None:
    for dtype in COPIED:
        x = random((4, 5, 3), torch.int64).abs().to(dtype)
        for dim in range(-3, 3):
            for size in (1, 2, 3, 7):
                split("aten::split_copy.Tensor_out", [x, size, dim], x.split(size, dim))
            split("aten::unbind_copy.int_out", [x, dim], x.unbind(dim))
        split("aten::split_with_sizes_copy.out", [x, [2, 0, 3], 1], x.split([2, 0, 3], 1))


def test_pad() -> None:
    for dtype in (torch.float32, torch.int64, torch.bool):
        x = random((2, 3, 4), dtype)
        for pad in ([1, 2], [0, 0, 3, 1], [1, 1, 1, 1, 2, 0], [-1, 2], [-2, -1, 1, 1], [-4, 0], []):
            for value in (0, 1):
                wanted = torch.ops.aten.constant_pad_nd(x, pad, value)
                check("aten::constant_pad_nd.out", [x, pad, value], wanted)
    x = random((3, 3))
    check("aten::constant_pad_nd.out", [x, [1, 1], -float("inf")], F.pad(x, (1, 1), value=-float("inf")))


# --- constants and tables -------------------------------------------------------------------------------------------


def test_constants() -> None:
    check("aten::full.out", [[2, 3], 1.5], torch.full((2, 3), 1.5))
    check("aten::full.out", [[2], 2**40 + 1], torch.full((2,), 2**40 + 1))
    check("aten::full.out", [[2], True], torch.full((2,), True))
    check("aten::full_like.out", [random((3, 2)), 7, 1], torch.full((3, 2), 7.0))
    check("aten::scalar_tensor.out", [-float("inf")], torch.scalar_tensor(-float("inf")))
    check("aten::scalar_tensor.out", [3], torch.scalar_tensor(3, dtype=torch.int64))


@pytest.mark.parametrize(
    "bounds", [(0, 5, 1), (3, 3, 1), (-2, 9, 4), (5, -5, -3), (0.0, 1.0, 0.1), (1, 2.5, 0.5)], ids=str
)
def test_arange(bounds: tuple[float, float, float]) -> None:
    check("aten::arange.start_out", list(bounds), torch.arange(*bounds))
    if bounds[0] == 0 and bounds[2] == 1:
        check("aten::arange.out", [bounds[1]], torch.arange(bounds[1]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_embedding(dtype: torch.dtype) -> None:
    table = random((10, 6))
    for shape in [(4,), (2, 3), ()]:
        indices = torch.randint(0, 10, shape, dtype=dtype)
        check("aten::embedding.out", [table, indices, -1, False, False], F.embedding(indices, table))
