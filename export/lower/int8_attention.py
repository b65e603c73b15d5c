"""Attention with integer products in eager PyTorch: the reference of a `.pte` that is lowered with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import edge.export.ops  # noqa: F401  (registers edge::attention_int8)


class Int8Attention(TorchFunctionMode):
    """Within it, `F.scaled_dot_product_attention` is `edge::attention_int8` where `edge.export.lower.fuse` makes it so.

    That is for float tensors [B, H, T, d] of equal depth, without a mask or with an additive one.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    func: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    fits = query.dim() == key.dim() == value.dim() == 4 and query.shape[:2] == key.shape[:2]
    fits = fits and value.shape[3] == query.shape[3] and not enable_gqa
    if not fits or (attn_mask is not None and attn_mask.dtype is not torch.float32):
        named = {"scale": scale, "enable_gqa": enable_gqa}
        return func(query, key, value, attn_mask, dropout_p, is_causal, **named)
    scale = 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
    return torch.ops.edge.attention_int8(query, key, value, attn_mask, scale, is_causal)
