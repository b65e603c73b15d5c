"""A float module through our own export, untrained: for benchmarks that have no bundle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge.export.lower.freeze import freeze
from edge.export.lower.worker import lower as lower_format
from edge.export.quantize import QuantConfig, ternarize


def lower_ternary(
    suffix: str,
    model: nn.Module,
    samples: list[Tensor],
    folder: Path,
    *,
    keep: tuple[str, ...],
    norm: bool,
    options: dict[str, Any],
) -> bytes:
    """The bytes of a "pte", "tflite" or "onnx" with ternary weights, `options` those of `edge.export.lower.worker`."""
    path = folder / f"ternary.{suffix}"
    quantized = ternarize(copy.deepcopy(model), config=QuantConfig(keep=keep, norm=norm))
    with torch.no_grad():
        frozen = freeze(quantized.eval(), (samples[0],))
        lower_format(suffix, frozen, samples[0], path, options, report=lambda *_: None)
    return path.read_bytes()
