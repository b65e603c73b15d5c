"""What each layer with weights costs: bits, bytes, zeros and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edge.export.lower.constants import rounded_rows
from edge.export.lower.freeze import FrozenLayer
from edge.runtime.manifest import LayerRecord

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def describe_layers(frozen: nn.Module, example: tuple[Tensor, ...]) -> tuple[LayerRecord, ...]:
    """Runs `frozen` once and lists what holds its weights, quantized or float, in the order in which the run reads it.

    A quantized layer is one record. So is every float parameter of two or more dimensions: a layer's `weight` under
    the layer's name (a bias is counted with it), any other one under its own (`lstm.weight_hh_l0`, `position`). A
    parameter that the run does not read is not listed.

    Args:
        frozen: from `edge.export.lower.freeze.freeze`.
        example: inputs; batch 1 for counts of one inference.

    Returns:
        Records whose `kind` is "linear", "conv1x1", "conv1d", "conv2d", "conv3d", "constant" for a parameter of a
        module that is none of torch's own (a positional embedding), or else the class of the module that owns the
        parameter, in lower case. `macs` is 0 where they are not known, as in recurrent layers.
    """
    tables = dict(_tables(frozen))
    reads = _Reads({table.untyped_storage().data_ptr() for _, table in tables.values() if table.numel()})
    products: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        made = inputs[0] if isinstance(module, _TRANSPOSED) else output
        products[module] = products.get(module, 0) + made.numel()

    counted = (FrozenLayer, nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
    handles = [module.register_forward_hook(count) for module in frozen.modules() if isinstance(module, counted)]
    try:
        with torch.no_grad(), reads:
            frozen(*example)
    finally:
        for handle in handles:
            handle.remove()
    order = {pointer: place for place, pointer in enumerate(reads.seen)}
    found = [
        (order[pointer], _record(name, module, table, products.get(module, 0)))
        for name, (module, table) in tables.items()
        if (pointer := table.untyped_storage().data_ptr()) in order
    ]
    return tuple(record for _, record in sorted(found, key=lambda pair: pair[0]))


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which of the given storages a run reads, in order; a forward hook misses what another module reads."""

    def __init__(self, pointers: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pointers = pointers
        self.seen: dict[int, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and (pointer := value.untyped_storage().data_ptr()) in self.pointers:
                self.seen.setdefault(pointer)
        return func(*args, **(kwargs or {}))


def _tables(frozen: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, Tensor]]]:
    """(name, (owner, tensor)): a quantized layer's scales, or a float parameter of two or more dimensions."""
    for path, module in frozen.named_modules():
        if isinstance(module, FrozenLayer):
            yield path or "(model)", (module, module.scales)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2 and parameter.is_floating_point():
                yield (path or "(model)") if name == "weight" else f"{path}.{name}".lstrip("."), (module, parameter)


def _record(name: str, layer: nn.Module, table: Tensor, products: int) -> LayerRecord:
    if isinstance(layer, FrozenLayer):
        codes = layer.codes
        weights = codes.numel() if layer.bits == 8 else codes.shape[0] * _packed_row(codes[0].numel(), layer.bits)
        extra = layer.scales.numel() + (0 if layer.bias is None else layer.bias.numel())
        kind, bits, stored = str(layer.kind), layer.bits, weights + 4 * extra
    else:
        codes, bias = table.detach(), getattr(layer, "bias", None)
        is_weight = table is getattr(layer, "weight", None)
        extra = bias.numel() if is_weight and isinstance(bias, Tensor) else 0
        products = products if is_weight else 0
        kind, bits, stored = _kind(layer, is_weight), 32.0, 4 * (codes.numel() + extra)
        if _is_compact(codes):
            bits, stored = 8.0, codes.numel() + 4 * codes.shape[-2]
    return LayerRecord(
        name=name,
        kind=kind,
        bits=float(bits),
        shape=tuple(codes.shape),
        bytes=stored,
        zero_fraction=float((codes == 0).float().mean()),
        macs=products * codes[0].numel(),
    )


def _kind(layer: nn.Module, is_weight: bool) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    # What a whole model or block owns beside its layers says nothing of what that model is.
    if not is_weight and not type(layer).__module__.startswith("torch."):
        return "constant"
    base = next((kind for kind in (*_CONVOLUTIONS, *_TRANSPOSED) if isinstance(layer, kind)), type(layer))
    return base.__name__.lower()


def _is_compact(table: Tensor) -> bool:
    """Whether `freeze` rounded a positional embedding to what its int8 form in the files holds."""
    rounded = rounded_rows(table)
    return rounded is not None and torch.allclose(rounded, table, rtol=1e-6, atol=0)


def _packed_row(columns: int, bits: float) -> int:
    per_byte = 2 if bits == 4 else 4
    return -(-columns // per_byte)
