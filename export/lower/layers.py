"""What each layer with weights costs: bits, bytes, zeros and multiply-accumulates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge.export.lower.freeze import FrozenLayer
from edge.runtime.manifest import LayerRecord


def describe_layers(frozen: nn.Module, example: tuple[Tensor, ...]) -> tuple[LayerRecord, ...]:
    """Runs `frozen` once and lists its linear and convolution layers, quantized or float, in order of execution.

    Args:
        frozen: from `edge.export.lower.freeze.freeze`.
        example: inputs; batch 1 for counts of one inference.
    """
    outputs: dict[str, int] = {}
    handles = []
    layers = {n: m for n, m in frozen.named_modules() if isinstance(m, FrozenLayer | nn.Linear | nn.Conv1d | nn.Conv2d)}

    def counter(name: str) -> Any:
        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name] = outputs.get(name, 0) + output.numel()

        return count

    for name, module in layers.items():
        handles.append(module.register_forward_hook(counter(name)))
    try:
        with torch.no_grad():
            frozen(*example)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(_record(name or "(model)", layers[name], count) for name, count in outputs.items())


def _record(name: str, layer: nn.Module, outputs: int) -> LayerRecord:
    if isinstance(layer, FrozenLayer):
        codes = layer.codes
        weights = codes.numel() if layer.bits == 8 else codes.shape[0] * _packed_row(codes.shape[1], layer.bits)
        extra = layer.scales.numel() + (0 if layer.bias is None else layer.bias.numel())
        kind, bits, stored = str(layer.kind), layer.bits, weights + 4 * extra
    else:
        assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
        codes = layer.weight.detach()
        extra = 0 if layer.bias is None else layer.bias.numel()
        kind = "linear" if isinstance(layer, nn.Linear) else f"conv{codes.dim() - 2}d"
        bits, stored = 32.0, 4 * (codes.numel() + extra)
    return LayerRecord(
        name=name,
        kind=kind,
        bits=float(bits),
        shape=tuple(codes.shape),
        bytes=stored,
        zero_fraction=float((codes == 0).float().mean()),
        macs=outputs * codes[0].numel(),
    )


def _packed_row(columns: int, bits: float) -> int:
    per_byte = 2 if bits == 4 else 4
    return -(-columns // per_byte)
