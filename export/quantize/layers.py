"""Layers that train in float and compute with integers: `BitLinear`, `BitConv1x1`, `BitConv1d`, `Int8Conv2d` and
`BitConv2d`.

Each forward rounds weights and activations and lets gradients pass as if it had not (straight-through estimator,
arXiv 1308.3432). `lambda_` phases the rounding in: value + lambda * (rounded - value). In evaluation mode with
lambda 1 a layer computes the integer product that the exported file computes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.export.quantize.weights import MIN_STEP, quantize_weight, round_weight

_NORM_EPS = 1e-5
_LEVELS = 127
# PyPI bitlinear takes the larger side of int8's range for the scale.
_COMPAT_LEVELS = 128
_EXACT_FLOAT32 = 1 << 24


class _StraightThrough(torch.autograd.Function):
    """Forward: value + lambda * (rounded - value). Backward: the gradient goes to `value` unchanged."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rounded: Tensor, lambda_: float) -> Tensor:
        return rounded.view_as(rounded) if lambda_ == 1.0 else torch.lerp(value, rounded, lambda_)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def _blend(value: Tensor, rounded: Tensor, lambda_: float) -> Tensor:
    blended: Tensor = _StraightThrough.apply(value, rounded, lambda_)  # type: ignore[no-untyped-call]
    return blended


def _round_activations(x: Tensor, dims: tuple[int, ...], levels: int = _LEVELS) -> tuple[Tensor, Tensor]:
    """Symmetric int8: integer-valued codes shaped like x, and s_x, 1 in each of `dims`.

    s_x = (1 / max(absmax, 1e-5)) * levels over `dims`; codes = clip(round(x * s_x), -levels, 127).
    """
    x = x.detach()
    scale = x.abs().amax(dims, keepdim=True).clamp_(min=MIN_STEP).reciprocal_().mul_(levels)
    return (x * scale).round_().clamp_(-levels, _LEVELS), scale


def _wide_enough(codes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integer operands in a dtype in which their product is exact for this many terms."""
    terms = weight[0].numel()
    largest = int(weight.abs().max()) if weight.numel() else 0
    if largest * _COMPAT_LEVELS * terms < _EXACT_FLOAT32:
        return codes, weight
    return codes.double(), weight.double()


class BitLinear(nn.Linear):
    """`nn.Linear` with integer weights and per-token int8 activations (BitNet b1.58, arXiv 2402.17764).

    x^ = LayerNorm(x) without affine (when `norm`); s_x = 127 / max|x^| for each token;
    y = (round(x^ * s_x) @ codes.T) * (scales * (1 / s_x)) + bias.

    Args:
        in_features, out_features, bias: as `nn.Linear`.
        bits: 1.58, 2, 4 or 8 bits a weight.
        measure: step of a ternary weight, "median" or "mean".
        norm: normalize each token first.
        bitlinear_compat: PyPI `bitlinear` 2.4.6: levels 128, range -128..127, bias divided by the scales too.

    Attributes:
        lambda_: 0 (float) to 1 (quantized); see `set_lambda`.
        eps: of the normalization.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        bits: float = 1.58,
        measure: str = "median",
        norm: bool = True,
        bitlinear_compat: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.bits = bits
        self.measure = measure
        self.norm = norm
        self.eps = _NORM_EPS
        self.lambda_ = 1.0
        self.bitlinear_compat = bitlinear_compat

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """(codes int8 [N, K], scales float32 [1] or [N]) of the present weight; see `quantize_weight`."""
        return quantize_weight(self.weight, self.bits, self.measure)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [..., in_features] to [..., out_features]."""
        if self.norm:
            x = F.layer_norm(x, (self.in_features,), eps=self.eps)
        if self.bitlinear_compat:
            return self._forward_compat(x)
        if self.lambda_ == 0:
            return F.linear(x, self.weight, self.bias)
        with torch.no_grad():
            codes, x_scale = _round_activations(x, (-1,))
            weight, scales = round_weight(self.weight, self.bits, self.measure)
        if not self.training and self.lambda_ == 1:
            y = F.linear(*_wide_enough(codes, weight)).float() * (scales / x_scale)
            return y if self.bias is None else y + self.bias
        x = _blend(x, codes.div_(x_scale), self.lambda_)
        weight = _blend(self.weight, weight.mul_(scales.view(-1, 1)), self.lambda_)
        return F.linear(x, weight, self.bias)

    def _forward_compat(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            codes, x_scale = _round_activations(x, (-1,), _COMPAT_LEVELS)
            weight, scales = round_weight(self.weight, self.bits, self.measure)
            w_scale = scales.reciprocal()
        x = _blend(x * x_scale, codes, self.lambda_)
        weight = _blend(self.weight * w_scale, weight, self.lambda_)
        return F.linear(x, weight, self.bias) / (w_scale * x_scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits:g}, measure={self.measure}, norm={self.norm}"


class BitConv1x1(nn.Conv2d):
    """A 1x1 convolution as a `BitLinear` over the channels of each pixel; a stride picks the pixels first.

    A BatchNorm usually follows, so the input is not normalized unless `norm`.

    Args:
        in_channels, out_channels, bias, stride: as `nn.Conv2d`.
        bits, measure, norm: as `BitLinear`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        *,
        stride: int | tuple[int, int] = 1,
        bits: float = 1.58,
        measure: str = "median",
        norm: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=bias)
        self.bits = bits
        self.measure = measure
        self.norm = norm
        self.eps = _NORM_EPS
        self.lambda_ = 1.0

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """(codes int8 [N, K], scales float32 [1] or [N]) of the present weight; see `quantize_weight`."""
        return quantize_weight(self.weight.flatten(1), self.bits, self.measure)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, in_channels, H, W] to [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        down, across = self.stride
        if down > 1 or across > 1:
            x = x[:, :, ::down, ::across]
        if self.norm:
            x = F.layer_norm(x.movedim(1, -1), (self.in_channels,), eps=self.eps).movedim(-1, 1)
        kernel = self.weight.view(self.out_channels, self.in_channels, 1, 1)
        if self.lambda_ == 0:
            return F.conv2d(x, kernel, self.bias)
        with torch.no_grad():
            codes, x_scale = _round_activations(x, (1,))
            weight, scales = round_weight(self.weight.flatten(1), self.bits, self.measure)
        if not self.training and self.lambda_ == 1:
            y = F.conv2d(*_wide_enough(codes, weight.view_as(kernel))).float()
            y = y * (scales.view(-1, 1, 1) / x_scale)
            return y if self.bias is None else y + self.bias.view(-1, 1, 1)
        x = _blend(x, codes.div_(x_scale), self.lambda_)
        weight = _blend(kernel, weight.view_as(kernel).mul_(scales.view(-1, 1, 1, 1)), self.lambda_)
        return F.conv2d(x, weight, self.bias)

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, bias={self.bias is not None}, stride={self.stride}"
        return f"{shape}, bits={self.bits:g}, measure={self.measure}, norm={self.norm}"


class BitConv1d(BitConv1x1):
    """`nn.Conv1d` of kernel 1 and stride 1: a `BitConv1x1` over [B, in_channels, L, 1].

    Its weight is [out_channels, in_channels, 1], as in `nn.Conv1d`. Arguments as `BitConv1x1`, without a stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        *,
        bits: float = 1.58,
        measure: str = "median",
        norm: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, bias, bits=bits, measure=measure, norm=norm)
        self.weight = nn.Parameter(self.weight.detach().squeeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, in_channels, L] to [B, out_channels, L]."""
        return super().forward(x.unsqueeze(-1)).squeeze(-1)


class Int8Conv2d(nn.Conv2d):
    """A convolution of any kernel, stride and grouping with int8 weights (one scale an output channel).

    One activation scale a sample, s_x = 127 / max|x| over its channels and pixels; padding is zero;
    y = conv(round(x * s_x), codes) * (scales * (1 / s_x)) + bias. Arguments as `nn.Conv2d`.
    """

    bits = 8.0
    measure = "median"
    lambda_ = 1.0

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """(codes int8 [O, I/groups, kh, kw], scales float32 [O]) of the present weight; see `quantize_weight`."""
        codes, scales = quantize_weight(self.weight.flatten(1), self.bits, self.measure)
        return codes.view_as(self.weight), scales

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, in_channels, H, W] to [B, out_channels, H', W']."""
        if self.lambda_ == 0:
            return super().forward(x)
        with torch.no_grad():
            codes, x_scale = _round_activations(x, (1, 2, 3))
            weight, scales = round_weight(self.weight.flatten(1), self.bits, self.measure)
            weight = weight.view_as(self.weight)
        if not self.training and self.lambda_ == 1:
            y: Tensor = self._conv_forward(*_wide_enough(codes, weight), None).float()
            y = y * (scales.view(-1, 1, 1) / x_scale)
            return y if self.bias is None else y + self.bias.view(-1, 1, 1)
        x = _blend(x, codes.div_(x_scale), self.lambda_)
        weight = _blend(self.weight, weight.mul_(scales.view(-1, 1, 1, 1)), self.lambda_)
        out: Tensor = self._conv_forward(x, weight, self.bias)
        return out


class BitConv2d(Int8Conv2d):
    """An `Int8Conv2d` without groups whose weights are ternary, with one step for all (see `quantize_weight`).

    Args:
        measure: step of a weight, "median" or "mean"; the others as `nn.Conv2d`.
    """

    bits = 1.58

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        measure: str = "median",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, 1, bias)
        self.measure = measure
