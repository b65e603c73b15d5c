"""Bad arguments to every operator of the core: refused in one line, or run, but never a crash."""

from __future__ import annotations

import numpy as np
import pytest

from edge.export import reference
from edge.runtime._core import CoreError, operators, run_op


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def truth(*shape: int) -> np.ndarray:
    return np.asarray(floats(*shape) > 0)


def longs(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype=np.int64)


X, Y = floats(2, 3, 4), floats(2, 3, 4)
PACKED = reference.pack_codes(np.ones((5, 4), dtype=np.int8), 1.58)
NIBBLES = reference.pack_codes(np.ones((5, 4), dtype=np.int8), 4)
IMAGE, WEIGHT = floats(1, 4, 6, 6), floats(2, 4, 3, 3)
ONES, ZEROS = [1, 1], [0, 0]

# One valid call of each operator, its outputs last.
CALLS: dict[str, list] = {
    "edge::ternary_linear.out": [X, PACKED, floats(1), floats(5), floats(2, 3, 5), 1e-5, 1, False, floats(2, 3, 5)],
    "edge::int_linear.out": [X, NIBBLES, floats(5), floats(5), floats(2, 3, 5), 4, -1.0, 1, floats(2, 3, 5)],
    "edge::ternary_conv1x1.out": [IMAGE, PACKED, floats(1), floats(5), None, 1e-5, 1, floats(1, 5, 6, 6)],
    "edge::int_conv1x1.out": [IMAGE, NIBBLES, floats(1), None, None, 4, 1e-5, 1, floats(1, 5, 6, 6)],
    "edge::linear.out": [X, floats(5, 4), floats(5), floats(2, 3, 5), 2, floats(2, 3, 5)],
    "edge::conv2d.out": [IMAGE, WEIGHT, floats(2), None, ONES, ONES, ONES, 1, 1, floats(1, 2, 6, 6)],
    "edge::conv2d_int8.out": [
        *[IMAGE, WEIGHT.astype(np.int8), floats(2), floats(2), floats(1, 2, 6, 6)],
        *[ONES, ONES, ONES, 1, 1, floats(1, 2, 6, 6)],
    ],
    "edge::ternary_conv2d.out": [
        *[IMAGE, np.zeros((2, 9), dtype=np.uint8), floats(2), floats(2), floats(1, 2, 6, 6)],
        *[[3, 3], ONES, ONES, ONES, 1, floats(1, 2, 6, 6)],
    ],
    "edge::conv2d_max_pool2d.out": [
        *[IMAGE, WEIGHT, floats(2), ONES, ONES, ONES, 1, 1, [3, 3], [2, 2], ONES, ONES, False, floats(1, 2, 3, 3)],
    ],
    "edge::conv2d_int8_max_pool2d.out": [
        *[IMAGE, WEIGHT.astype(np.int8), floats(2), floats(2), ONES, ONES, ONES, 1, 1],
        *[[3, 3], [2, 2], ONES, ONES, False, floats(1, 2, 3, 3)],
    ],
    "edge::ternary_conv2d_max_pool2d.out": [
        *[IMAGE, np.zeros((2, 9), dtype=np.uint8), floats(2), floats(2), [3, 3], ONES, ONES, ONES, 1],
        *[[3, 3], [2, 2], ONES, ONES, False, floats(1, 2, 3, 3)],
    ],
    "edge::layer_norm.out": [X, floats(4), floats(4), 1e-5, Y],
    "edge::attention.out": [IMAGE, IMAGE, IMAGE, floats(6, 6), 0.5, True, floats(1, 4, 6, 6)],
    "edge::attention_qkv.out": [floats(2, 3, 24), 2, 0.5, True, floats(2, 3, 8)],
    "edge::attention_int8.out": [IMAGE, IMAGE, IMAGE, floats(6, 6), 0.5, True, floats(1, 4, 6, 6)],
    "edge::attention_qkv_int8.out": [floats(2, 3, 24), 2, 0.5, True, floats(2, 3, 8)],
    "edge::max_pool2d.out": [IMAGE, [2, 2], [2, 2], ZEROS, ONES, False, floats(1, 4, 3, 3)],
    "edge::add_quantized.out": [X, np.ones((3, 4), dtype=np.int8), floats(3), Y],
    "edge::sequence_pool.out": [X, floats(4), floats(1), floats(2, 4)],
    **{
        f"aten::{name}.out": [X, Y]
        for name in (
            *("relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "exp", "erf", "log", "sqrt", "rsqrt"),
            *("reciprocal", "neg", "abs", "sin", "cos", "alias_copy", "detach_copy", "lift_fresh_copy"),
        )
    },
    "aten::gelu.out": [X, "tanh", Y],
    "aten::hardtanh.out": [X, -1, 1, Y],
    "aten::clamp.out": [X, 0, None, Y],
    "aten::leaky_relu.out": [X, 0.1, Y],
    "aten::elu.out": [X, 1, 1, 1, Y],
    "aten::pow.Tensor_Scalar_out": [X, 2, Y],
    "aten::pow.Tensor_Tensor_out": [X, floats(4), Y],
    **{f"aten::{name}.out": [X, floats(3, 1), 1, Y] for name in ("add", "sub")},
    **{f"aten::{name}.Scalar_out": [X, 2, 1, Y] for name in ("add", "sub")},
    **{f"aten::{name}.out": [X, floats(3, 1), Y] for name in ("mul", "div", "minimum", "maximum")},
    **{f"aten::{name}.Scalar_out": [X, 2, Y] for name in ("mul", "div")},
    **{f"aten::{name}.Tensor_out": [X, floats(4), truth(2, 3, 4)] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"aten::{name}.Scalar_out": [X, 0.5, truth(2, 3, 4)] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"aten::{name}.out": [X, floats(4), truth(2, 3, 4)] for name in ("logical_and", "logical_or")},
    "aten::logical_not.out": [X, truth(2, 3, 4)],
    "aten::bitwise_and.Tensor_out": [truth(2, 3, 4), truth(4), truth(2, 3, 4)],
    "aten::bitwise_not.out": [truth(2, 3, 4), truth(2, 3, 4)],
    "aten::where.self_out": [truth(3, 1), X, floats(1), Y],
    "aten::mm.out": [floats(3, 4), floats(4, 5), floats(3, 5)],
    "aten::bmm.out": [floats(2, 3, 4), floats(2, 4, 5), floats(2, 3, 5)],
    "aten::addmm.out": [floats(5), floats(3, 4), floats(4, 5), 1, 1, floats(3, 5)],
    "aten::linear.out": [X, floats(5, 4), floats(5), floats(2, 3, 5)],
    "aten::convolution.out": [IMAGE, WEIGHT, floats(2), ONES, ONES, ONES, False, ZEROS, 1, floats(1, 2, 6, 6)],
    "aten::native_layer_norm.out": [X, [4], floats(4), None, 1e-5, Y, floats(2, 3, 1), floats(2, 3, 1)],
    "aten::native_batch_norm.out": [
        *[X, floats(3), floats(3), floats(3), floats(3), False, 0.1, 1e-5],
        *[Y, floats(0), floats(0)],
    ],
    "aten::_native_batch_norm_legit_no_training.out": [
        *[X, floats(3), None, floats(3), floats(3), 0.1, 1e-5],
        *[Y, floats(0), floats(0)],
    ],
    **{f"aten::_{name}.out": [X, 1, False, Y] for name in ("softmax", "log_softmax")},
    "aten::max_pool2d_with_indices.out": [
        *[IMAGE, [2, 2], [2, 2], ZEROS, ONES, False],
        *[floats(1, 4, 3, 3), longs(1, 4, 3, 3)],
    ],
    "aten::avg_pool2d.out": [IMAGE, [2, 2], [2, 2], ZEROS, False, True, None, floats(1, 4, 3, 3)],
    "aten::_adaptive_avg_pool2d.out": [IMAGE, [2, 2], floats(1, 4, 2, 2)],
    **{f"aten::{name}.out": [X, [1], True, None, floats(2, 1, 4)] for name in ("mean",)},
    "aten::sum.IntList_out": [X, [-1], False, None, floats(2, 3)],
    **{f"aten::{name}.out": [X, [1, 2], False, floats(2)] for name in ("amax", "amin")},
    **{f"aten::{name}.out": [X, 1, False, longs(2, 4)] for name in ("argmax", "argmin")},
    "aten::max.dim_max": [X, 1, False, floats(2, 4), longs(2, 4)],
    "aten::min.dim_min": [X, 1, False, floats(2, 4), longs(2, 4)],
    "aten::any.out": [X, 1, False, truth(2, 4)],
    "aten::any.dims_out": [X, [0, 1], False, truth(4)],
    "aten::any.all_out": [X, truth()],
    "aten::view_copy.out": [X, [6, -1], floats(6, 4)],
    "aten::unsqueeze_copy.out": [X, 1, floats(2, 1, 3, 4)],
    "aten::squeeze_copy.out": [floats(1, 3, 1), floats(3)],
    "aten::squeeze_copy.dim_out": [floats(1, 3, 1), -1, floats(1, 3)],
    "aten::squeeze_copy.dims_out": [floats(1, 3, 1), [0], floats(3, 1)],
    "aten::clone.out": [X, None, Y],
    "aten::_to_copy.out": [X, False, None, longs(2, 3, 4)],
    "dim_order_ops::_to_dim_order_copy.out": [X, False, [0, 1, 2], longs(2, 3, 4)],
    "dim_order_ops::_clone_dim_order.out": [X, False, [0, 1, 2], Y],
    "aten::permute_copy.out": [X, [2, 0, 1], floats(4, 2, 3)],
    "aten::transpose_copy.int_out": [X, 0, -1, floats(4, 3, 2)],
    "aten::expand_copy.out": [floats(1, 3), [2, -1], False, floats(2, 3)],
    "aten::select_copy.int_out": [X, 1, -1, floats(2, 4)],
    "aten::slice_copy.Tensor_out": [X, 1, 0, 2, 1, floats(2, 2, 4)],
    "aten::cat.out": [[X, X], 0, floats(4, 3, 4)],
    "aten::split_copy.Tensor_out": [X, 2, 2, [floats(2, 3, 2), floats(2, 3, 2)]],
    "aten::split_with_sizes_copy.out": [X, [1, 3], 2, [floats(2, 3, 1), floats(2, 3, 3)]],
    "aten::unbind_copy.int_out": [X, 0, [floats(3, 4), floats(3, 4)]],
    "aten::constant_pad_nd.out": [X, [1, 0], 0, floats(2, 3, 5)],
    "aten::full.out": [[2, 3], 1, floats(2, 3)],
    "aten::full_like.out": [X, 1, None, Y],
    "aten::scalar_tensor.out": [1, floats()],
    "aten::arange.out": [4, longs(4)],
    "aten::arange.start_out": [0, 4, 1, longs(4)],
    "aten::embedding.out": [floats(5, 4), longs(2, 3), -1, False, False, floats(2, 3, 4)],
}

JUNK = [
    None,
    *[True, 0, -1, 9, 2**31, 2**63 - 1, -(2**63)],
    *[0.5, float("nan"), float("inf"), -float("inf")],
    *["", "tanh", "a very long string " * 50],
    *[[], [0], [-1, 7], [2**62, 2**62], [0] * 9, [1, 2, 3, 4, 5, 6, 7, 8]],
    *[[1.5], [True, False], [floats(2)], [None], [floats(2, 3, 4), longs(1)]],
    *[floats(), floats(0), floats(1), floats(4), floats(5), floats(2, 3, 4), floats(3, 0, 2), floats(1, 1, 1, 1, 1)],
    *[floats(5, 4), longs(2, 3), longs(1), truth(2, 3, 4), np.full((2, 3), 2**62), np.zeros((5, 1), dtype=np.uint8)],
    *[np.zeros((3, 4), dtype=np.int8), np.zeros((2, 2), dtype=np.int32), floats(*[1] * 8), floats(1, 4, 6, 6)],
]


def test_every_operator_has_a_valid_call() -> None:
    assert set(CALLS) == set(operators())


@pytest.mark.parametrize("name", sorted(CALLS))
def test_junk_never_crashes(name: str) -> None:
    run_op(name, copied(CALLS[name]))
    refused = 0
    for index in range(len(CALLS[name])):
        for junk in JUNK:
            arguments = copied(CALLS[name])
            arguments[index] = copied([junk])[0]
            try:
                run_op(name, arguments)
            except CoreError as error:
                status, text = error.args
                refused += 1
                assert status in ("bad-argument", "unsupported", "bad-file") and text and "\n" not in text
                assert text.startswith((name, f"{name} argument")), text
    assert refused > len(JUNK)
    for index in range(len(CALLS[name])):
        with pytest.raises(CoreError, match="arguments given"):
            run_op(name, copied(CALLS[name])[:index])


def copied(arguments: list) -> list:
    """Arrays are written to, so every call gets its own."""
    return [a.copy() if isinstance(a, np.ndarray) else copied(a) if isinstance(a, list) and a else a for a in arguments]


MESSAGES = [
    ("edge::ternary_linear.out", 1, PACKED[:, :0], "packed has 0 bytes a row, expected 1 for 4 values of 2 bits"),
    ("edge::ternary_linear.out", 2, floats(4), r"scales has shape \[4\], expected \[1\] or \[5\]"),
    ("edge::ternary_linear.out", 3, floats(6), r"bias has shape \[6\], expected \[5\]"),
    ("edge::ternary_linear.out", 4, floats(2, 5), r"residual has shape \[2, 5\], expected \[2, 3, 5\]"),
    ("edge::ternary_linear.out", 6, 9, "activation is 9, expected 0 to 8"),
    ("edge::ternary_linear.out", 0, longs(2, 3, 4), "x is int64, which this operator does not take"),
    ("edge::int_linear.out", 5, 3, "bits is 3, expected 2, 4 or 8"),
    ("edge::conv2d.out", 1, floats(2, 3, 3, 3), r"weight of shape \[2, 3, 3, 3\] does not fit x of shape \[1, 4, 6"),
    ("edge::conv2d.out", 1, floats(2, 4, 9, 9), "is larger than the padded x of shape"),
    ("edge::conv2d.out", 4, [0, 1], "stride is 0, expected 1 to"),
    ("edge::attention.out", 3, floats(5, 6), r"mask of shape \[5, 6\] does not broadcast to \[1, 4, 6, 6\]"),
    ("edge::attention_qkv.out", 1, 5, r"qkv has shape \[2, 3, 24\], expected \[B, T, 3 \* 5 \* depth\]"),
    ("aten::add.out", 1, floats(5), r"shapes \[2, 3, 4\] and \[5\] do not broadcast"),
    ("aten::permute_copy.out", 1, [0, 0, 1], "dims is no permutation of 3 dimensions"),
    ("aten::convolution.out", 6, True, "transposed convolutions are not supported"),
    ("aten::native_batch_norm.out", 5, True, "training is True"),
    ("aten::embedding.out", 1, np.full((2, 3), 5), "index 5 at position 0 is not in 0 .. 4"),
    ("aten::embedding.out", 1, np.full((2, 3), -1), "index -1 at position 0 is not in 0 .. 4"),
    ("aten::gelu.out", 1, "fast", 'approximate is neither "none" nor "tanh"'),
    ("aten::softmax.out", 0, None, "no operator 'aten::softmax.out'"),
    ("dim_order_ops::_clone_dim_order.out", 2, [0, 2, 1], "dim_order is not contiguous"),
    ("aten::max_pool2d_with_indices.out", 3, [2, 2], "padding 2 is more than half of kernel size 2"),
]


@pytest.mark.parametrize(("name", "index", "value", "message"), MESSAGES)
def test_messages_say_what_and_what_was_expected(name: str, index: int, value: object, message: str) -> None:
    arguments = copied(CALLS.get(name, [X, Y]))
    arguments[index] = value
    with pytest.raises(CoreError) as caught:
        run_op(name, arguments)
    assert caught.match(message)


def test_depths_whose_sums_would_not_fit_are_refused() -> None:
    """int32 holds 128 * 3 * K only up to K = 5,592,405."""
    k = 5_592_408
    arguments = [np.zeros(k, dtype=np.float32), np.zeros((1, k // 4), dtype=np.uint8), floats(1), None, None]
    with pytest.raises(CoreError, match="5592408 values a token, expected 1 to 5592405"):
        run_op("edge::ternary_linear.out", [*arguments, -1.0, 0, False, floats(1)])
