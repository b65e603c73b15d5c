"""What a quantization is (`QuantConfig`) and how a float weight becomes integers and scales."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from edge.runtime.errors import BadInput

BITS = (1.58, 2.0, 4.0, 8.0, 32.0)
"""Bits a weight that `ternarize` knows; 32 leaves the model in float."""

MEASURES = ("median", "mean")
"""What of |W| the ternary step is: the median (arXiv 2407.09527) or the mean (arXiv 2402.17764)."""

CONVS = ("int8", "ternary", "float")

MIN_STEP = 1e-5
"""Smallest step of a weight and smallest absolute maximum of an activation."""

# Steps to try, as shares of (largest weight of an output / largest positive code). Two bits hold so few levels that
# clipping most of the tail pays; four bits clip a little.
_STEP_SHARES = {2.0: torch.linspace(0.15, 1.0, 18).tolist(), 4.0: torch.linspace(0.5, 1.0, 11).tolist()}
# -8 and -128 fit too, but LiteRT's kernels negate a weight in its own width and would get them wrong.
_LEVELS = {1.58: (-1, 1), 2.0: (-2, 1), 4.0: (-7, 7), 8.0: (-127, 127)}


@dataclass(frozen=True)
class QuantConfig:
    """How `ternarize` quantizes a model.

    Args:
        bits: bits a weight of linear layers and 1x1 convolutions: 1.58 (ternary), 2, 4, 8, or 32 for float.
        measure: the step of a ternary weight, "median" or "mean" of |W|.
        norm: normalize the input of every linear layer (no affine) before its activations are quantized.
        conv: k x k, padded, grouped and depthwise convolutions become "int8" or stay "float"; with "ternary" they
            become ternary, but int8 where they have groups or few input channels. Only below 32 bits.
        keep: patterns (`fnmatch`) of dotted module names that stay in float, whole subtrees included; see `ternarize`.
        bitlinear_compat: the numerics of PyPI `bitlinear` 2.4.6 in linear layers, for checkpoints trained with it.

    Raises:
        BadInput: a value that is not one of these.
    """

    bits: float = 1.58
    measure: str = "median"
    norm: bool = True
    conv: str = "int8"
    keep: tuple[str, ...] = ()
    bitlinear_compat: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise BadInput(f"--bits: expected one of {', '.join(f'{b:g}' for b in BITS)}, found {self.bits!r}")
        if self.measure not in MEASURES:
            raise BadInput(f"--measure: expected one of {', '.join(MEASURES)}, found {self.measure!r}")
        if self.conv not in CONVS:
            raise BadInput(f"--conv: expected one of {', '.join(CONVS)}, found {self.conv!r}")
        if self.conv == "ternary" and self.bits not in (1.58, 32):
            raise BadInput(f"--conv ternary: exists for 1.58 bits only, found {self.bits:g} bits")
        if self.bitlinear_compat and self.bits not in (1.58, 32):
            raise BadInput(f"--bitlinear-compat: exists for 1.58 bits only, found {self.bits:g} bits")
        object.__setattr__(self, "bits", float(self.bits))
        object.__setattr__(self, "keep", tuple(self.keep))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {**asdict(self), "keep": list(self.keep)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantConfig:
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise BadInput(f"quantization: unknown field {unknown[0]!r}")
        return cls(**{**values, "keep": tuple(values.get("keep", ()))})


def quantize_weight(weight: Tensor, bits: float, measure: str = "median") -> tuple[Tensor, Tensor]:
    """Rounds a weight to integers.

    - 1.58 bits: one step s = max(median or mean of |W|, 1e-5) for the whole tensor (`torch.median`: the lower middle
      value), codes clip(round(W / s), -1, 1). Gaussian weights get 26.4 % zeros with the median, 31.0 % with the mean.
    - 2 bits (codes -2..1) and 4 bits (-7..7): for every output the step of a grid that has the least squared error.
    - 8 bits: for every output absmax / 127, codes -127..127.

    Args:
        weight: float32 [N, K], N outputs.
        bits: 1.58, 2, 4 or 8.
        measure: "median" or "mean"; only 1.58 bits ask.

    Returns:
        (codes int8 [N, K], scales float32 [1] for 1.58 bits, else [N]); `codes * scales[:, None]` approximates W.

    Raises:
        BadInput: unknown bits or measure, or a weight that holds NaN or infinity.
    """
    if bits not in _LEVELS:
        raise BadInput(f"bits: expected one of {', '.join(f'{b:g}' for b in _LEVELS)}, found {bits!r}")
    if measure not in MEASURES:
        raise BadInput(f"measure: expected one of {', '.join(MEASURES)}, found {measure!r}")
    if weight.dim() != 2 or weight.numel() == 0:
        raise BadInput(f"weight of shape {list(weight.shape)}: expected [outputs, inputs], neither empty")
    if not torch.isfinite(weight).all():
        raise BadInput("weight holds NaN or infinity: the model diverged or its checkpoint is damaged")
    codes, scales = round_weight(weight.detach().float(), bits, measure)
    return codes.to(torch.int8), scales


def round_weight(weight: Tensor, bits: float, measure: str) -> tuple[Tensor, Tensor]:
    """`quantize_weight` for every training step: no checks, codes stay float32."""
    low, high = _LEVELS[bits]
    if bits == 1.58:
        magnitude = weight.abs()
        step = (magnitude.median() if measure == "median" else magnitude.mean()).clamp(min=MIN_STEP).view(1)
        return (weight * step.reciprocal()).round_().clamp_(low, high), step
    largest = weight.abs().amax(1, keepdim=True)
    if bits == 8:
        step = largest.div_(high).clamp_(min=MIN_STEP / high)
        return (weight / step).round_().clamp_(low, high), step.view(-1)
    best_step = torch.empty_like(largest)
    best_error = torch.full_like(largest, torch.inf)
    # A row of zeros needs a step that is not 0.
    largest = largest.clamp_(min=MIN_STEP) / high
    for share in _STEP_SHARES[bits]:
        step = largest * share
        error = (weight / step).round_().clamp_(low, high).mul_(step).sub_(weight).square_().sum(1, keepdim=True)
        better = error < best_error
        best_step = torch.where(better, step, best_step)
        best_error = torch.where(better, error, best_error)
    return (weight / best_step).round_().clamp_(low, high), best_step.view(-1)
