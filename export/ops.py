"""The `edge::` operators as PyTorch knows them: schemas, shapes, and eager kernels with the core's exact numerics.

Importing this module registers every operator in its functional form, which `torch.export` traces, and its `.out`
form, which ExecuTorch's memory planner needs. The eager kernels are what a frozen model computes in PyTorch; the
quantized ones agree bit by bit with the C core (`runtime/core`) and the numpy oracle (`edge.export.reference`),
because all three sum in the same order. The float ones (attention, conv2d, layer_norm's affine part aside) agree
within a few units in the last place.

Quantization follows BitNet b1.58 (arXiv 2402.17764; median variant arXiv 2407.09527).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge.runtime.layouts import unpack_layout

NAMESPACE = "edge"

NONE, RELU, GELU, GELU_TANH, SILU, RELU6, HARDSWISH, SIGMOID, TANH = range(9)
"""Codes of the activation that runs in an operator's epilogue."""

ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {
    NONE: lambda y: y,
    RELU: F.relu,
    GELU: F.gelu,
    GELU_TANH: lambda y: F.gelu(y, approximate="tanh"),
    SILU: F.silu,
    RELU6: F.relu6,
    HARDSWISH: F.hardswish,
    SIGMOID: torch.sigmoid,
    TANH: torch.tanh,
}

LANES = 16
"""Partial sums of every normalization: wide enough for one AVX-512 or four NEON registers."""

ATTENTION_ONE = 16256
"""Parts of an attention weight of 1 in `attention_int8`."""
ATTENTION_BLOCK = 1024
"""Keys whose sums of parts times codes fit 32 bits."""

_EXACT_FLOAT32 = 1 << 24
"""Integers up to this size are exact in float32, so a float32 product of integers is the integer product."""


def unpack_codes(packed: Tensor, columns: int, bits: float) -> Tensor:
    """Returns the integer weights int8 [N, K] behind `packed` (see `pack_codes`).

    Args:
        packed: uint8 [N, ceil(K·bits/8)], or int8 [N, K] for 8 bits; or ternary weights in a microcontroller's layout
            (`edge.runtime.layouts`).
        columns: K.
        bits: 1.58, 2, 4 or 8.
    """
    if packed.ndim > 2 and bits == 1.58:
        return torch.from_numpy(unpack_layout(packed.numpy(), columns))
    if bits == 8:
        return packed.view(torch.int8)[:, :columns]
    width, offset = (4, 8) if bits == 4 else (2, 1 if bits == 1.58 else 2)
    shifts = range(0, 8, width)
    fields = torch.stack([(packed >> s) & ((1 << width) - 1) for s in shifts], -1).flatten(1)
    return fields[:, :columns].to(torch.int8) - offset


def pack_codes(codes: Tensor, bits: float) -> Tensor:
    """Packs integer weights [N, K] little end first along K: 1.58 bits as w+1, 2 as q+2, 4 as q+8, 8 as they are."""
    if bits == 8:
        return codes.to(torch.int8).contiguous()
    width, offset = (4, 8) if bits == 4 else (2, 1 if bits == 1.58 else 2)
    per_byte = 8 // width
    fields = F.pad((codes.to(torch.int16) + offset).to(torch.uint8), (0, -codes.shape[1] % per_byte), value=offset)
    fields = fields.view(codes.shape[0], -1, per_byte)
    packed = fields[..., 0].clone()
    for i in range(1, per_byte):
        packed |= fields[..., i] << (width * i)
    return packed


def pack_taps(codes: Tensor) -> Tensor:
    """Packs the ternary weights [O, C, kh, kw] of a convolution as uint8, a row an output, in the order kh, kw, C."""
    return pack_codes(codes.permute(0, 2, 3, 1).flatten(1), 1.58)


def unpack_taps(packed: Tensor, channels: int, kernel: list[int]) -> Tensor:
    """The inverse of `pack_taps`: int8 [O, C, kh, kw]."""
    codes = unpack_codes(packed, kernel[0] * kernel[1] * channels, 1.58)
    return codes.view(-1, kernel[0], kernel[1], channels).permute(0, 3, 1, 2)


def _lane_sum(x: Tensor) -> Tensor:
    """Sums the last dimension in the core's order, and keeps it: 16 running lanes, then a tree over the lanes."""
    x = F.pad(x, (0, -x.shape[-1] % LANES)).reshape(*x.shape[:-1], -1, LANES)
    lanes = torch.zeros_like(x[..., 0, :])
    for j in range(x.shape[-2]):
        lanes = lanes + x[..., j, :]
    width = LANES // 2
    while width:
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
        width //= 2
    return lanes


def _normalize(x: Tensor, eps: float) -> Tensor:
    count = float(x.shape[-1])
    centred = x - _lane_sum(x) / count
    variance = _lane_sum(centred * centred) / count
    # torch.sqrt of float32 is off by a unit in the last place now and then; the root of a double, rounded, never is.
    return centred * (1.0 / torch.sqrt((variance + eps).double()).float())


def _quantize_tokens(x: Tensor, norm_eps: float, levels: int = 127) -> tuple[Tensor, Tensor]:
    """Per-token symmetric int8 of [..., K]: integer-valued float codes and the scale s_x [..., 1]."""
    if norm_eps >= 0:
        x = _normalize(x, norm_eps)
    amax = x.abs().nan_to_num(nan=0.0, posinf=float("inf")).amax(-1, keepdim=True).clamp(min=1e-5)
    # torch evaluates 127.0 / amax as reciprocal times 127; written out because the C core must do the same.
    scale = torch.reciprocal(amax) * float(levels)
    codes = (x * scale).round().nan_to_num(nan=0.0).clamp(-levels, 127)
    return codes, scale


def _integer_matmul(codes: Tensor, weight: Tensor) -> Tensor:
    """Exact integer product as float32, wide enough for any K."""
    largest = 128 * int(weight.abs().amax()) if weight.numel() else 0
    if largest * weight.shape[1] < _EXACT_FLOAT32:
        return F.linear(codes, weight.to(codes.dtype))
    return F.linear(codes.double(), weight.double()).float()


def _epilogue(y: Tensor, bias: Tensor | None, residual: Tensor | None, activation: int) -> Tensor:
    if bias is not None:
        y = y + bias
    y = ACTIVATIONS[activation](y)
    return y if residual is None else residual + y


def _quantized_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_eps: float,
    activation: int,
    bitlinear_compat: bool = False,
) -> Tensor:
    if bitlinear_compat:
        codes, scale = _quantize_tokens(x, norm_eps, levels=128)
        acc = _integer_matmul(codes, weight)
        return _epilogue((acc if bias is None else acc + bias) / (scales * scale), None, residual, activation)
    codes, scale = _quantize_tokens(x, norm_eps)
    return _epilogue(_integer_matmul(codes, weight) * (scales * torch.reciprocal(scale)), bias, residual, activation)


def _ternary_linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_eps: float,
    activation: int,
    bitlinear_compat: bool,
) -> Tensor:
    weight = unpack_codes(packed, x.shape[-1], 1.58)
    return _quantized_linear(x, weight, scales, bias, residual, norm_eps, activation, bitlinear_compat)


def _int_linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    bits: int,
    norm_eps: float,
    activation: int,
) -> Tensor:
    weight = unpack_codes(packed, x.shape[-1], bits)
    return _quantized_linear(x, weight, scales, bias, residual, norm_eps, activation)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: int) -> Tensor:
    return _epilogue(F.linear(x, weight), bias, residual, activation)


def _pixels(x: Tensor | None) -> Tensor | None:
    """[B, C, H, W] → [B, H, W, C]: a token is one pixel's channels."""
    return None if x is None else x.permute(0, 2, 3, 1).contiguous()


def _ternary_conv1x1(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_eps: float,
    activation: int,
) -> Tensor:
    y = _ternary_linear(_must(_pixels(x)), packed, scales, bias, _pixels(residual), norm_eps, activation, False)
    return y.permute(0, 3, 1, 2).contiguous()


def _int_conv1x1(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    bits: int,
    norm_eps: float,
    activation: int,
) -> Tensor:
    y = _int_linear(_must(_pixels(x)), packed, scales, bias, _pixels(residual), bits, norm_eps, activation)
    return y.permute(0, 3, 1, 2).contiguous()


def _must(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
) -> Tensor:
    y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    return _epilogue(y, None if bias is None else bias.view(1, -1, 1, 1), residual, activation)


def _conv2d_int8(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
) -> Tensor:
    codes, scale = _quantize_tokens(x.flatten(1), -1.0)
    # Float64 holds any int8 convolution exactly (float32 would not past 1,040 taps).
    acc = F.conv2d(codes.view_as(x).double(), weight.double(), None, stride, padding, dilation, groups).float()
    y = acc * (scales.view(1, -1, 1, 1) * torch.reciprocal(scale).view(-1, 1, 1, 1))
    return _epilogue(y, None if bias is None else bias.view(1, -1, 1, 1), residual, activation)


def _ternary_conv2d(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: int,
) -> Tensor:
    weight = unpack_taps(packed, x.shape[1], kernel)
    return _conv2d_int8(x, weight, scales, bias, residual, stride, padding, dilation, 1, activation)


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    y = _normalize(x, eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) * scale
    if mask is not None:
        scores = scores + mask
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    # A token that may look at nothing gets zeros, not NaN.
    return scores.softmax(-1).nan_to_num(nan=0.0) @ v


def _attention_int8(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    (q_codes, q_scale), (k_codes, k_scale) = _quantize_tokens(q, -1.0), _quantize_tokens(k, -1.0)
    v_codes, v_scale = (t.transpose(-2, -1) for t in _quantize_tokens(v.transpose(-2, -1), -1.0))
    # Products of integers in double are exact.
    dot = (q_codes.double() @ k_codes.double().transpose(-2, -1)).float()
    scores = (dot * (torch.reciprocal(q_scale) * scale)) * torch.reciprocal(k_scale).transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    peak = scores.nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf")).amax(-1, keepdim=True)
    parts = _attention_parts(peak - scores).double()
    codes, mixed = v_codes.double(), torch.zeros_like(q)
    for s in range(0, parts.shape[-1], ATTENTION_BLOCK):
        mixed = mixed + (parts[..., s : s + ATTENTION_BLOCK] @ codes[..., s : s + ATTENTION_BLOCK, :]).float()
    share = torch.reciprocal(parts.sum(-1, keepdim=True).float())
    y = mixed * (torch.reciprocal(v_scale) * share)
    return torch.where(peak == float("-inf"), torch.zeros_like(y), y)


def _attention_parts(below: Tensor) -> Tensor:
    """int64 round(ATTENTION_ONE * e^-below), a cubic in integers of 16 bits; 0 for NaN."""
    octaves = below * 5909.279  # in 1/4096: 4096 log2(e)
    t = torch.where(octaves < 61439.0, octaves, 61439.0).round().long()
    whole, fraction = t >> 12, (t & 4095) << 3
    p = torch.full_like(t, -1273)
    for c in (7494, -22478, 2 * ATTENTION_ONE):
        p = ((p * fraction + (1 << 14)) >> 15) + c
    return (p + (1 << whole)) >> (whole + 1)


def _of_qkv(of: Callable[..., Tensor], qkv: Tensor, heads: int, scale: float, causal: bool) -> Tensor:
    batch, tokens, width = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return of(q, k, v, None, scale, causal).transpose(1, 2).reshape(batch, tokens, width // 3)


def _attention_qkv(qkv: Tensor, heads: int, scale: float, causal: bool) -> Tensor:
    return _of_qkv(_attention, qkv, heads, scale, causal)


def _attention_qkv_int8(qkv: Tensor, heads: int, scale: float, causal: bool) -> Tensor:
    return _of_qkv(_attention_int8, qkv, heads, scale, causal)


def _max_pool2d(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor:
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)


def _with_max_pool2d(of: Callable[..., Tensor], given: int) -> Callable[..., Tensor]:
    """A convolution without a residual, and max_pool2d of what it gives: `given` arguments, the convolution's geometry
    and activation, then the pool's."""

    def pooled(*args: Any) -> Tensor:
        return _max_pool2d(of(*args[:given], None, *args[given:-5]), *args[-5:])

    return pooled


def _add_quantized(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return x + codes.float() * scales.view(*codes.shape[:-1], 1)


def _sequence_pool(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    scores = x @ weight
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(-1).unsqueeze(1) @ x).squeeze(1)


def _meta_linear(x: Tensor, packed: Tensor, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


def _meta_conv1x1(x: Tensor, packed: Tensor, *_: object) -> Tensor:
    return x.new_empty((x.shape[0], packed.shape[0], *x.shape[2:]))


def _meta_like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _meta_conv2d_int8(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
) -> Tensor:
    return _conv2d(x, weight.to(x.dtype), None, None, stride, padding, dilation, groups, NONE)


def _meta_ternary_conv2d(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: int,
) -> Tensor:
    weight = x.new_empty((packed.shape[0], x.shape[1], *kernel))
    return _conv2d(x, weight, None, None, stride, padding, dilation, 1, NONE)


_POOL = "int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode"
_CONV = "int[] stride, int[] padding, int[] dilation, int groups, int activation"
_POOL_BEHIND = "int[] pool_kernel, int[] pool_stride, int[] pool_padding, int[] pool_dilation, bool ceil_mode"
_KERNEL_CONV = "int[] kernel, int[] stride, int[] padding, int[] dilation, int activation"
_PACKED = "Tensor x, Tensor packed, Tensor scales, Tensor? bias, Tensor? residual"

# Name → (schema of the arguments, eager kernel, shape function; None where the eager kernel gives shapes as well).
OPERATORS: dict[str, tuple[str, Callable[..., Tensor], Callable[..., Tensor] | None]] = {
    "ternary_linear": (
        f"{_PACKED}, float norm_eps, int activation, bool bitlinear_compat",
        _ternary_linear,
        _meta_linear,
    ),
    "int_linear": (f"{_PACKED}, int bits, float norm_eps, int activation", _int_linear, _meta_linear),
    "linear": (
        "Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int activation",
        _linear,
        _meta_linear,
    ),
    "ternary_conv1x1": (f"{_PACKED}, float norm_eps, int activation", _ternary_conv1x1, _meta_conv1x1),
    "int_conv1x1": (f"{_PACKED}, int bits, float norm_eps, int activation", _int_conv1x1, _meta_conv1x1),
    "conv2d": (f"Tensor x, Tensor weight, Tensor? bias, Tensor? residual, {_CONV}", _conv2d, None),
    "conv2d_int8": (
        f"Tensor x, Tensor weight, Tensor scales, Tensor? bias, Tensor? residual, {_CONV}",
        _conv2d_int8,
        _meta_conv2d_int8,
    ),
    "ternary_conv2d": (
        f"{_PACKED}, {_KERNEL_CONV}",
        _ternary_conv2d,
        _meta_ternary_conv2d,
    ),
    "layer_norm": ("Tensor x, Tensor? weight, Tensor? bias, float eps", _layer_norm, _meta_like),
    "attention": ("Tensor q, Tensor k, Tensor v, Tensor? mask, float scale, bool causal", _attention, None),
    "attention_qkv": ("Tensor qkv, int heads, float scale, bool causal", _attention_qkv, None),
    "attention_int8": ("Tensor q, Tensor k, Tensor v, Tensor? mask, float scale, bool causal", _attention_int8, None),
    "attention_qkv_int8": ("Tensor qkv, int heads, float scale, bool causal", _attention_qkv_int8, None),
    "max_pool2d": (f"Tensor x, {_POOL}", _max_pool2d, None),
    "conv2d_max_pool2d": (
        f"Tensor x, Tensor weight, Tensor? bias, {_CONV}, {_POOL_BEHIND}",
        _with_max_pool2d(_conv2d, 3),
        None,
    ),
    "conv2d_int8_max_pool2d": (
        f"Tensor x, Tensor weight, Tensor scales, Tensor? bias, {_CONV}, {_POOL_BEHIND}",
        _with_max_pool2d(_conv2d_int8, 4),
        _with_max_pool2d(_meta_conv2d_int8, 4),
    ),
    "ternary_conv2d_max_pool2d": (
        f"Tensor x, Tensor packed, Tensor scales, Tensor? bias, {_KERNEL_CONV}, {_POOL_BEHIND}",
        _with_max_pool2d(_ternary_conv2d, 4),
        _with_max_pool2d(_meta_ternary_conv2d, 4),
    ),
    "add_quantized": ("Tensor x, Tensor codes, Tensor scales", _add_quantized, _meta_like),
    "sequence_pool": ("Tensor x, Tensor weight, Tensor? bias", _sequence_pool, None),
}

FUSABLE = frozenset(
    {
        "ternary_linear",
        "int_linear",
        "linear",
        "ternary_conv1x1",
        "int_conv1x1",
        "conv2d",
        "conv2d_int8",
        "ternary_conv2d",
    }
)
"""Operators with `residual` and `activation` arguments, into which what follows them can be folded."""

CONVOLUTIONS = frozenset({"conv2d", "conv2d_int8", "ternary_conv2d"})
"""Operators that exist with a max_pool2d behind them, too, as `<name>_max_pool2d`."""

# torch.library is not typed.
_library: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def _register(name: str, arguments: str, kernel: Callable[..., Tensor], shape: Callable[..., Tensor] | None) -> None:
    def out_kernel(*args: object, out: Tensor, **kwargs: object) -> Tensor:
        result = kernel(*args, **kwargs)
        out.resize_(result.shape)
        return out.copy_(result)

    _library.define(f"{name}({arguments}) -> Tensor")
    _library.define(f"{name}.out({arguments}, *, Tensor(a!) out) -> Tensor(a!)")
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(f"{name}.out", out_kernel, "CompositeExplicitAutograd")
    _library.impl(name, shape if shape is not None else kernel, "Meta")


for _name, (_arguments, _kernel, _shape) in OPERATORS.items():
    _register(_name, _arguments, _kernel, _shape)
