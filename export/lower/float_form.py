"""A frozen model as plain PyTorch, in the two forms that the converters of other engines understand.

- `hybrid_form`, for TFLite: a quantized linear layer becomes a float linear whose weight is `codes * scales`. Its
  kernels quantize the activations themselves, token by token, once the converted weight is an integer type.
- `explicit_form`, for ONNX: every quantized layer spells its arithmetic out. Activations become integer-valued
  floats, the weight is the integer codes, and the product of the two is exact in float32 up to 2^24.

Layers whose arithmetic no TFLite kernel has (k x k convolutions with one activation scale a sample, the numerics of
PyPI `bitlinear`) are explicit in both forms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.export.lower.freeze import FrozenConv1x1, FrozenConv2d, FrozenLayer, frozen_layers

MIN_AMAX = 1e-5
"""Smallest absolute maximum an activation scale is taken from."""


def hybrid_form(frozen: nn.Module, is_hybrid: Callable[[FrozenLayer], bool]) -> nn.Module:
    """Returns a copy of `frozen` without `edge::` operators, for a converter with hybrid fully-connected kernels.

    Args:
        frozen: from `edge.export.lower.freeze.freeze`.
        is_hybrid: whether a layer (never a "conv2d") may leave the quantization of its activations to the engine.
    """

    def replace(module: nn.Module) -> nn.Module | None:
        if isinstance(module, FrozenConv2d):
            return ExplicitConv2d(module)
        if isinstance(module, FrozenLayer):
            return HybridLinear(module) if is_hybrid(module) else ExplicitLinear(module, compact_norm=True)
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
            return CompactLayerNorm(module)
        return None

    return _replaced(frozen, replace)


def explicit_form(frozen: nn.Module) -> nn.Module:
    """Returns a copy of `frozen` without `edge::` operators, its integer arithmetic written out in float32.

    Every quantized layer keeps its name and holds its integers in a buffer `codes`: float32 [K, N], or
    [O, I/groups, kh, kw] for convolutions.
    """

    def replace(module: nn.Module) -> nn.Module | None:
        if isinstance(module, FrozenConv2d):
            return ExplicitConv2d(module)
        return ExplicitLinear(module, compact_norm=False) if isinstance(module, FrozenLayer) else None

    return _replaced(frozen, replace)


def used_layers(frozen: nn.Module, example: tuple[Tensor, ...]) -> list[tuple[str, FrozenLayer]]:
    """The quantized layers that a run on `example` really calls, with their dotted names; a root layer is "model"."""
    called: set[int] = set()
    layers = frozen_layers(frozen)
    hooks = [layer.register_forward_pre_hook(lambda module, _: called.add(id(module))) for _, layer in layers]
    try:
        with torch.no_grad():
            frozen(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(name or "model", layer) for name, layer in layers if id(layer) in called]


def same_weights(a: FrozenLayer, b: FrozenLayer) -> bool:
    """Whether two layers hold the same integers and scales, so that a converter may merge their constants."""
    return a.kind == b.kind and torch.equal(a.codes, b.codes) and torch.equal(a.scales, b.scales)


def activation_scale(x: NDArray[np.float32], dims: tuple[int, ...], levels: int) -> NDArray[np.float32]:
    """What activations are multiplied with before they are rounded, in numpy: 127 (or 128) / max |x| over `dims`."""
    largest = np.maximum(np.abs(x).max(dims, keepdims=True), np.float32(MIN_AMAX))
    scale: NDArray[np.float32] = (np.float32(1) / largest) * np.float32(levels)
    return scale


def listed(names: Iterable[str]) -> str:
    """The first three names, for a message, and how many more there are."""
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")


class HybridLinear(nn.Module):
    """A linear layer or pointwise convolution over float weights `codes * scales`; channels first for the latter."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: FrozenLayer) -> None:
        super().__init__()
        self.norm_eps = layer.norm_eps
        self.stride = layer.stride if isinstance(layer, FrozenConv1x1) else None
        self.register_buffer("weight", layer.codes.float() * layer.scales.view(-1, 1))
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride is not None:
            x = _pixels(x, self.stride)
        if self.norm_eps >= 0:
            x = _normalize(x, self.norm_eps)
        y = F.linear(x, self.weight, self.bias)
        return y if self.stride is None else y.movedim(-1, 1)


class ExplicitLinear(nn.Module):
    """A linear layer or pointwise convolution with its activation quantization and integer product spelled out.

    Buffer `codes` is float32 [K, N], integer-valued; so are the activations it is multiplied with.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: FrozenLayer, *, compact_norm: bool) -> None:
        super().__init__()
        self.norm_eps = layer.norm_eps
        self.stride = layer.stride if isinstance(layer, FrozenConv1x1) else None
        self.bitlinear_compat = layer.bitlinear_compat
        self.compact_norm = compact_norm
        self.register_buffer("codes", layer.codes.float().t().contiguous())
        self.register_buffer("scales", layer.scales)
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride is not None:
            x = _pixels(x, self.stride)
        if self.norm_eps >= 0:
            normalize = _normalize if self.compact_norm else _layer_norm
            x = normalize(x, self.norm_eps)
        if self.bitlinear_compat:
            q, scale = _quantize(x, (-1,), 128.0)
            acc = torch.matmul(q.clamp(-128.0, 127.0), self.codes)
            y = (acc if self.bias is None else acc + self.bias) / (self.scales * scale)
        else:
            q, scale = _quantize(x, (-1,), 127.0)
            y = torch.matmul(q, self.codes) * (self.scales / scale)
            y = y if self.bias is None else y + self.bias
        return y if self.stride is None else y.movedim(-1, 1)


class ExplicitConv2d(nn.Module):
    """A k x k or depthwise convolution with one explicit activation scale a sample; `codes` is integer-valued OIHW."""

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: FrozenConv2d) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups = layer.groups
        self.register_buffer("codes", layer.codes.float())
        self.register_buffer("scales", layer.scales.view(-1, 1, 1))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, scale = _quantize(x, (1, 2, 3), 127.0)
        y = F.conv2d(q, self.codes, None, self.stride, self.padding, self.dilation, self.groups)
        y = y * (self.scales / scale)
        return y if self.bias is None else y + self.bias


def _pixels(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Channels first ([B, C, L] or [B, C, H, W]) to channels last, only the pixels that the stride meets."""
    x, (down, across) = x.movedim(1, -1), stride
    return x[:, ::down, ::across] if down > 1 or across > 1 else x


class CompactLayerNorm(nn.Module):
    """`nn.LayerNorm` over the last dimension in nine TFLite operators (the converter's own lowering takes fifteen)."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.register_buffer("weight", None if norm.weight is None else norm.weight.detach())
        self.register_buffer("bias", None if norm.bias is None else norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        y = _normalize(x, self.eps)
        if self.weight is not None:
            y = y * self.weight
        return y if self.bias is None else y + self.bias


def _normalize(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)


def _layer_norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], None, None, eps)


def _quantize(x: Tensor, dims: tuple[int, ...], levels: float) -> tuple[Tensor, Tensor]:
    """Symmetric codes of `x` (integer-valued float32) with one scale over `dims`; rounds halves to even.

    |x| <= amax and a relative error of 2^-22 cannot round past `levels`, so there is nothing to clip here.
    """
    scale = torch.reciprocal(x.abs().amax(dims, keepdim=True).clamp(min=MIN_AMAX)) * levels
    return (x * scale).round(), scale


def _replaced(frozen: nn.Module, replace: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    root = replace(frozen)
    if root is not None:
        return _Root(root).eval()
    model = copy.deepcopy(frozen)
    replaced: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) not in replaced:
            new = replace(module)
            if new is None:
                continue
            replaced[id(module)] = new
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, replaced[id(module)])
    return model.eval()


class _Root(nn.Module):
    """Gives a model that is one single layer a name, `model`, under which its weights can be found again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.model = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y
