"""The edge:: operators in numpy: what the C kernels must compute, to the last bit.

Every function follows the float32 operations of its C kernel (runtime/core/kernels/scalar) one by one, and
`edge.export.reference_math` those of the activations: the order of sums is part of the contract, so sequential sums are
loops here, vectorized over everything else. Shapes, packing and semantics are those of the operators' schemas;
quantization after BitNet b1.58 (arXiv 2402.17764) in its median form (arXiv 2407.09527).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge.export.reference_math import F32, activate, exp, f32
from edge.runtime.layouts import unpack_layout

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

#: Lanes of the sums in norms and softmax: lane l adds the values l, l + 16, … and the lanes are folded in halves.
SUM_LANES = 16

#: By the name of a packing: bits of a stored code, its zero point, and the lowest and highest weight.
_PACKINGS = {1.58: (2, 1, -1, 1), 2: (2, 2, -2, 1), 4: (4, 8, -8, 7), 8: (8, 0, -128, 127)}


def pack_codes(codes: I8, bits: float) -> U8 | I8:
    """Packs weight codes little end first along K.

    Args:
        codes: int8 [N, K]; -1 … 1 for 1.58 bits, -2 … 1 for 2, -8 … 7 for 4, any int8 for 8.
        bits: 1.58 (four ternary codes a byte, stored as w + 1), 2 (stored as q + 2), 4 (stored as q + 8) or 8.

    Returns:
        uint8 [N, ceil(K * bits / 8)] (1.58 counts as 2), padded with zero weights; for 8 bits int8 [N, K].

    Raises:
        ValueError: a code is out of range, or `bits` is none of these.
    """
    width, zero, low, high = _packing(bits)
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(f"codes has {codes.ndim} dimensions, expected 2 [N, K]")
    if codes.size and (codes.min() < low or codes.max() > high):
        raise ValueError(f"codes of {codes.min()} to {codes.max()} do not fit {bits} bits ({low} to {high})")
    if width == 8:
        return np.ascontiguousarray(codes, dtype=np.int8)
    per_byte = 8 // width
    n, k = codes.shape
    stored = np.full((n, -(-k // per_byte) * per_byte), zero, dtype=np.uint8)
    stored[:, :k] = codes + zero
    grouped = stored.reshape(n, -1, per_byte)
    packed = np.zeros(grouped.shape[:2], dtype=np.uint8)
    for i in range(per_byte):
        packed |= grouped[:, :, i] << np.uint8(i * width)
    return packed


def unpack_codes(packed: U8 | I8, k: int, bits: float) -> I8:
    """The inverse of `pack_codes`.

    Args:
        packed: uint8 [N, ceil(k * bits / 8)], or int8 [N, k] for 8 bits; or ternary weights in a microcontroller's
            layout (`edge.runtime.layouts`).
        k: Weights a row.
        bits: 1.58, 2, 4 or 8.

    Returns:
        int8 [N, k].
    """
    width, zero, _, _ = _packing(bits)
    if packed.ndim > 2 and bits == 1.58:
        return unpack_layout(packed.view(np.uint8), k)
    if width == 8:
        return np.asarray(packed, dtype=np.int8)[:, :k]
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    stored = (packed[:, :, None] >> shifts) & np.uint8((1 << width) - 1)
    return cast(I8, stored.reshape(packed.shape[0], -1)[:, :k].astype(np.int8) - np.int8(zero))


def pack_taps(codes: I8) -> U8:
    """Packs the ternary weights int8 [O, C, kh, kw] of a convolution, a row an output, in the order kh, kw, C."""
    return cast(U8, pack_codes(codes.transpose(0, 2, 3, 1).reshape(codes.shape[0], -1), 1.58))


def _packing(bits: float) -> tuple[int, int, int, int]:
    if bits not in _PACKINGS:
        raise ValueError(f"{bits} bits, expected 1.58, 2, 4 or 8")
    return _PACKINGS[bits]


# --- sums, norms, quantization --------------------------------------------------------------------------------------


def lane_sum(x: F32) -> F32:
    """Sums the last dimension in the order of `SUM_LANES`: [..., K] -> [...]."""
    k = x.shape[-1]
    lanes = np.zeros((*x.shape[:-1], SUM_LANES), dtype=f32)
    for start in range(0, k, SUM_LANES):
        part = x[..., start : start + SUM_LANES]
        lanes[..., : part.shape[-1]] = lanes[..., : part.shape[-1]] + part
    width = SUM_LANES
    while width > 1:
        width //= 2
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
    return cast(F32, lanes[..., 0])


def normalize(x: F32, eps: float) -> F32:
    """(x - mean) * rstd over the last dimension, biased variance, no affine parameters: [..., K] -> [..., K]."""
    k = f32(x.shape[-1])
    mean = lane_sum(x) / k
    d = x - mean[..., None]
    variance = lane_sum(d * d) / k
    rstd = f32(1) / np.sqrt(variance + f32(eps))
    return cast(F32, d * rstd[..., None])


def quantize_activation(x: F32, norm_eps: float, bitlinear_compat: bool = False) -> tuple[I8, F32]:
    """Quantizes each token (the last dimension) to int8 with one scale.

    Args:
        x: float32 [..., K]. NaN becomes code 0 and does not count in the maximum.
        norm_eps: Normalizes each token first, unless negative.
        bitlinear_compat: Scale by 128 and clip to [-128, 127], as PyPI bitlinear 2.4.6.

    Returns:
        The codes, int8 [..., K], and the factor s_x they were multiplied by, float32 [...].
    """
    with np.errstate(all="ignore"):
        xhat = normalize(x, norm_eps) if norm_eps >= 0 else np.asarray(x, dtype=f32)
        magnitude = np.abs(xhat)
        magnitude[np.isnan(magnitude)] = 0
        amax = np.maximum(magnitude.max(axis=-1, initial=0), f32(1e-5))
        scale = (f32(1) / amax) * f32(128 if bitlinear_compat else 127)
        code = np.rint(xhat * scale[..., None])
        code = np.clip(code, -128 if bitlinear_compat else -127, 127)
        code[np.isnan(code)] = 0
    return code.astype(np.int8), scale.astype(f32)


def dequantize(
    acc: NDArray[np.int64],
    row_scale: F32,
    scales: F32,
    bias: F32 | None,
    residual: F32 | None,
    activation: int,
    bitlinear_compat: bool = False,
) -> F32:
    """From exact accumulators to the operator's output: scale, bias, activation, residual, in this order.

    Args:
        acc: Integers [..., N] (the sums of products of codes).
        row_scale: s_x, float32, broadcast against acc.
        scales: float32 [1] or [N].
        bias: float32 [N] or None.
        residual: float32 [..., N] or None.
        activation: An index into `ACTIVATIONS`.
        bitlinear_compat: scales hold the factor the weights were multiplied by, and the bias is divided too.
    """
    with np.errstate(all="ignore"):
        y = acc.astype(f32)
        if bitlinear_compat:
            y = (y if bias is None else y + bias) / (scales * row_scale)
        else:
            y = y * (scales * (f32(1) / row_scale))
            y = y if bias is None else y + bias
        y = activate(y, activation)
        return y if residual is None else residual + y


# --- the operators --------------------------------------------------------------------------------------------------


def ternary_linear(
    x: F32,
    packed: U8,
    scales: F32,
    bias: F32 | None = None,
    residual: F32 | None = None,
    norm_eps: float = -1.0,
    activation: int = 0,
    bitlinear_compat: bool = False,
) -> F32:
    """edge::ternary_linear: x [..., K], packed uint8 [N, ceil(K/4)], scales [1] or [N] -> [..., N]."""
    codes, scale = quantize_activation(x, norm_eps, bitlinear_compat)
    acc = codes.astype(np.int64) @ unpack_codes(packed, x.shape[-1], 1.58).astype(np.int64).T
    return dequantize(acc, scale[..., None], scales, bias, residual, activation, bitlinear_compat)


def int_linear(
    x: F32,
    packed: U8 | I8,
    scales: F32,
    bias: F32 | None = None,
    residual: F32 | None = None,
    bits: int = 8,
    norm_eps: float = -1.0,
    activation: int = 0,
) -> F32:
    """edge::int_linear: x [..., K], packed [N, ceil(K*bits/8)] of 2, 4 or 8 bits, scales [1] or [N] -> [..., N]."""
    codes, scale = quantize_activation(x, norm_eps)
    acc = codes.astype(np.int64) @ unpack_codes(packed, x.shape[-1], bits).astype(np.int64).T
    return dequantize(acc, scale[..., None], scales, bias, residual, activation)


def ternary_conv1x1(
    x: F32,
    packed: U8,
    scales: F32,
    bias: F32 | None = None,
    residual: F32 | None = None,
    norm_eps: float = -1.0,
    activation: int = 0,
) -> F32:
    """edge::ternary_conv1x1: x [B, C, H, W] -> [B, N, H, W]; a token is the channels of one pixel."""
    added = None if residual is None else _to_tokens(residual)
    return _from_tokens(ternary_linear(_to_tokens(x), packed, scales, bias, added, norm_eps, activation))


def int_conv1x1(
    x: F32,
    packed: U8 | I8,
    scales: F32,
    bias: F32 | None = None,
    residual: F32 | None = None,
    bits: int = 8,
    norm_eps: float = -1.0,
    activation: int = 0,
) -> F32:
    """edge::int_conv1x1: x [B, C, H, W] -> [B, N, H, W]; a token is the channels of one pixel."""
    added = None if residual is None else _to_tokens(residual)
    return _from_tokens(int_linear(_to_tokens(x), packed, scales, bias, added, bits, norm_eps, activation))


def _to_tokens(x: F32) -> F32:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _from_tokens(y: F32) -> F32:
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2))


def linear(x: F32, weight: F32, bias: F32 | None = None, residual: F32 | None = None, activation: int = 0) -> F32:
    """edge::linear in float32: x [..., K], weight [N, K] -> [..., N]; summed over k in order, from 0."""
    with np.errstate(all="ignore"):
        acc = np.zeros((*x.shape[:-1], weight.shape[0]), dtype=f32)
        for k in range(weight.shape[1]):
            acc = acc + x[..., k, None] * weight[:, k]
        y = activate(acc if bias is None else acc + bias, activation)
        return y if residual is None else residual + y


def _windows(
    shape: tuple[int, ...], kernel: tuple[int, int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, int]:
    """Output height and width of a convolution."""
    height, width = (
        (shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2)
    )
    return height, width


def _taps(
    x: NDArray[Any],
    weight: NDArray[Any],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    acc: NDArray[Any],
) -> NDArray[Any]:
    """Adds a convolution's products to acc [B, O, OH, OW] in the order c, kh, kw; positions outside are skipped."""
    batch, _, height, width = x.shape
    outputs, group_channels, kernel_h, kernel_w = weight.shape
    out_h, out_w = acc.shape[2:]
    rows, columns = np.arange(out_h) * stride[0], np.arange(out_w) * stride[1]
    grouped = x.reshape(batch, groups, group_channels, height, width)
    total = acc.reshape(batch, groups, outputs // groups, out_h, out_w)
    taps = weight.reshape(groups, outputs // groups, group_channels, kernel_h, kernel_w)
    for c in range(group_channels):
        for kh in range(kernel_h):
            y = rows + kh * dilation[0] - padding[0]
            inside_y = np.flatnonzero((y >= 0) & (y < height))
            for kw in range(kernel_w):
                z = columns + kw * dilation[1] - padding[1]
                inside_x = np.flatnonzero((z >= 0) & (z < width))
                at = (..., inside_y[:, None], inside_x)
                values = grouped[:, :, c][:, :, y[inside_y][:, None], z[inside_x]]
                total[at] = total[at] + values[:, :, None] * taps[:, :, c, kh, kw][None, :, :, None, None]
    return total.reshape(acc.shape)


def conv2d(
    x: F32,
    weight: F32,
    bias: F32 | None,
    residual: F32 | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int = 0,
) -> F32:
    """edge::conv2d in float32: x [B, C, H, W], weight [O, C/groups, kh, kw] -> [B, O, OH, OW]."""
    out_h, out_w = _windows(x.shape, weight.shape[2:], stride, padding, dilation)
    acc = np.zeros((x.shape[0], weight.shape[0], out_h, out_w), dtype=f32)
    with np.errstate(all="ignore"):
        y = _taps(x, weight, stride, padding, dilation, groups, acc)
        y = activate(y if bias is None else y + bias[:, None, None], activation)
        return y if residual is None else residual + y


def conv2d_int8(
    x: F32,
    weight: I8,
    scales: F32,
    bias: F32 | None,
    residual: F32 | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int = 0,
) -> F32:
    """edge::conv2d_int8: as conv2d, with int8 weights, scales [1] or [O], and one activation scale a sample."""
    codes, scale = quantize_activation(x.reshape(x.shape[0], -1), -1.0)
    out_h, out_w = _windows(x.shape, weight.shape[2:], stride, padding, dilation)
    acc = np.zeros((x.shape[0], weight.shape[0], out_h, out_w), dtype=np.int64)
    wide = codes.reshape(x.shape).astype(np.int64)
    acc = _taps(wide, weight.astype(np.int64), stride, padding, dilation, groups, acc)
    per_channel = None if bias is None else bias[:, None, None]
    return dequantize(acc, scale[:, None, None, None], scales[:, None, None], per_channel, residual, activation)


def ternary_conv2d(
    x: F32,
    packed: U8,
    scales: F32,
    bias: F32 | None,
    residual: F32 | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: int = 0,
) -> F32:
    """edge::ternary_conv2d: as conv2d_int8 without groups; packed uint8 [O, ceil(kh * kw * C / 4)], see pack_taps."""
    taps, channels = kernel[0] * kernel[1], x.shape[1]
    weight = unpack_codes(packed, taps * channels, 1.58).reshape(-1, *kernel, channels).transpose(0, 3, 1, 2)
    return conv2d_int8(x, weight, scales, bias, residual, stride, padding, dilation, 1, activation)


def layer_norm(x: F32, weight: F32 | None, bias: F32 | None, eps: float) -> F32:
    """edge::layer_norm over the last dimension: x [..., K], weight and bias [K] -> [..., K]."""
    with np.errstate(all="ignore"):
        y = normalize(x, eps)
        y = y if weight is None else y * weight
        return y if bias is None else y + bias


def softmax(x: F32) -> F32:
    """Softmax of the last dimension; a row without a value above -inf becomes 0. [..., K] -> [..., K]."""
    with np.errstate(all="ignore"):
        peak = np.fmax.reduce(x, axis=-1, initial=f32(-np.inf))
        e = exp(x - peak[..., None])
        y = e * (f32(1) / lane_sum(e))[..., None]
        masked = np.all(x == -np.inf, axis=-1)
    y[masked] = 0
    return cast(F32, y)


def attention(q: F32, k: F32, v: F32, mask: F32 | None, scale: float, causal: bool) -> F32:
    """edge::attention: q [B, H, T, d], k and v [B, H, S, d], mask additive and broadcast to [B, H, T, S] or None.

    With `causal`, query t sees the keys 0 … t. Returns [B, H, T, d].
    """
    queries, keys, depth = q.shape[2], k.shape[2], q.shape[3]
    with np.errstate(all="ignore"):
        score = np.zeros((*q.shape[:3], keys), dtype=f32)
        for d in range(depth):
            score = score + q[..., d, None] * k[..., None, :, d]
        score = score * f32(scale)
        score = score if mask is None else score + mask
        seen = np.arange(keys) <= np.arange(queries)[:, None] if causal else np.ones((queries, keys), dtype=bool)
        p = softmax(np.where(seen, score, f32(-np.inf)))
        out = np.zeros_like(q)
        for s in range(keys):
            out = np.where(seen[:, s, None], out + p[..., s, None] * v[..., None, s, :], out)
    return out


ATTENTION_ONE = 16256
"""Parts of an attention weight of 1 in `attention_int8`: 127 * 128."""
_ATTENTION_BLOCK = 1024
"""Keys whose sums of parts times codes fit 32 bits."""


def attention_int8(q: F32, k: F32, v: F32, mask: F32 | None, scale: float, causal: bool) -> F32:
    """edge::attention_int8: as `attention` with integer products (runtime/core/kernels/scalar/qd8_attention.c).

    Queries and keys are int8 with a scale a token, values with a scale a channel, weights 14-bit parts of their sum.
    """
    queries, keys = q.shape[2], k.shape[2]
    with np.errstate(all="ignore"):
        (q_codes, q_scale), (k_codes, k_scale) = quantize_activation(q, -1.0), quantize_activation(k, -1.0)
        v_codes, v_scale = quantize_activation(np.ascontiguousarray(v.swapaxes(-1, -2)), -1.0)
        dot = q_codes.astype(np.int64) @ k_codes.astype(np.int64).swapaxes(-1, -2)
        factor = f32(scale) * (f32(1) / q_scale)
        score = (dot.astype(f32) * factor[..., None]) * (f32(1) / k_scale)[..., None, :]
        score = score if mask is None else score + mask
        seen = np.arange(keys) <= np.arange(queries)[:, None] if causal else np.ones((queries, keys), dtype=bool)
        score = np.where(seen, score, f32(-np.inf))
        peak = np.fmax.reduce(score, axis=-1, initial=f32(-np.inf))
        parts = np.where(seen, _attention_parts(peak[..., None] - score), 0)
        turned = v_codes.astype(np.int64).swapaxes(-1, -2)
        mixed = np.zeros_like(q)
        for s in range(0, keys, _ATTENTION_BLOCK):
            block = slice(s, s + _ATTENTION_BLOCK)
            mixed = mixed + (parts[..., block] @ turned[..., block, :]).astype(f32)
        share = f32(1) / parts.sum(-1).astype(f32)
        out = mixed * ((f32(1) / v_scale)[..., None, :] * share[..., None])
    out[peak == -np.inf] = 0
    return cast(F32, out)


def _attention_parts(below: F32) -> NDArray[np.int64]:
    """round(ATTENTION_ONE * e^-below), a cubic in integers of 16 bits; 0 for NaN. Any shape, values >= 0 or NaN."""
    octaves = below * f32(5909.279)  # in 1/4096: 4096 log2(e)
    t = np.rint(np.where(octaves < f32(61439), octaves, f32(61439))).astype(np.int64)
    whole, fraction = t >> 12, (t & 4095) << 3
    p = np.full_like(t, -1273)
    for c in (7494, -22478, 2 * ATTENTION_ONE):
        p = ((p * fraction + (1 << 14)) >> 15) + c
    return cast(NDArray[np.int64], (p + (1 << whole)) >> (whole + 1))


def attention_qkv(qkv: F32, heads: int, scale: float, causal: bool) -> F32:
    """edge::attention_qkv: qkv [B, T, 3*H*d] ordered (3, H, d) -> [B, T, H*d]."""
    return _of_qkv(attention, qkv, heads, scale, causal)


def attention_qkv_int8(qkv: F32, heads: int, scale: float, causal: bool) -> F32:
    """edge::attention_qkv_int8: `attention_int8` of qkv as in `attention_qkv`."""
    return _of_qkv(attention_int8, qkv, heads, scale, causal)


def _of_qkv(of: Callable[..., F32], qkv: F32, heads: int, scale: float, causal: bool) -> F32:
    batch, tokens, width = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4)
    y = of(q, k, v, None, scale, causal)
    return np.ascontiguousarray(y.transpose(0, 2, 1, 3)).reshape(batch, tokens, width // 3)


def max_pool2d(
    x: F32, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> F32:
    """edge::max_pool2d: x [B, C, H, W] or [C, H, W]; an empty stride is the kernel.

    NaN wins; of equal zeros the first one, columns before rows.
    """
    stride = stride or kernel
    counts = []
    for d in range(2):
        size = x.shape[-2 + d]
        room = size + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1
        count = (room + (stride[d] - 1 if ceil_mode else 0)) // stride[d] + 1
        # As torch: the last window must start inside the input or its left padding.
        counts.append(count - 1 if ceil_mode and (count - 1) * stride[d] >= size + padding[d] else count)
    out = np.full((*x.shape[:-2], *counts), -np.inf, dtype=f32)
    for kw in range(kernel[1]):  # columns first: of equal zeros the first stays
        z = np.arange(counts[1]) * stride[1] + kw * dilation[1] - padding[1]
        inside_x = np.flatnonzero((z >= 0) & (z < x.shape[-1]))
        for kh in range(kernel[0]):
            y = np.arange(counts[0]) * stride[0] + kh * dilation[0] - padding[0]
            inside_y = np.flatnonzero((y >= 0) & (y < x.shape[-2]))
            at = (..., inside_y[:, None], inside_x)
            value = x[..., y[inside_y][:, None], z[inside_x]]
            out[at] = np.where((value > out[at]) | np.isnan(value), value, out[at])
    return out


def conv2d_max_pool2d(x: F32, weight: F32, bias: F32 | None, *rest: Any) -> F32:
    """edge::conv2d_max_pool2d: conv2d without a residual, and max_pool2d of what it gives.

    Args:
        rest: stride, padding, dilation, groups, activation; kernel, stride, padding, dilation, ceil_mode of the pool.
    """
    return max_pool2d(conv2d(x, weight, bias, None, *rest[:5]), *rest[5:])


def conv2d_int8_max_pool2d(x: F32, weight: I8, scales: F32, bias: F32 | None, *rest: Any) -> F32:
    """edge::conv2d_int8_max_pool2d: likewise of conv2d_int8."""
    return max_pool2d(conv2d_int8(x, weight, scales, bias, None, *rest[:5]), *rest[5:])


def ternary_conv2d_max_pool2d(x: F32, packed: U8, scales: F32, bias: F32 | None, *rest: Any) -> F32:
    """edge::ternary_conv2d_max_pool2d: likewise of ternary_conv2d, whose kernel comes before the stride."""
    return max_pool2d(ternary_conv2d(x, packed, scales, bias, None, *rest[:5]), *rest[5:])


def add_quantized(x: F32, codes: I8, scales: F32) -> F32:
    """edge::add_quantized: x + codes * scale of the row; codes int8 of x's trailing dimensions, scales [rows]."""
    with np.errstate(all="ignore"):
        return cast(F32, x + codes.astype(f32) * scales.reshape(*codes.shape[:-1], 1))


def sequence_pool(x: F32, weight: F32, bias: F32 | None) -> F32:
    """edge::sequence_pool (CCT, arXiv 2104.05704): x [B, T, D], weight [D], bias [1] or None -> [B, D]."""
    batch, tokens, width = x.shape
    with np.errstate(all="ignore"):
        score = np.zeros((batch, tokens), dtype=f32)
        for d in range(width):
            score = score + x[:, :, d] * weight[d]
        p = softmax(score if bias is None else score + bias)
        out = np.zeros((batch, width), dtype=f32)
        for t in range(tokens):
            out = out + p[:, t, None] * x[:, t]
    return out
