"""A float module as ExecuTorch programs for the XNNPACK delegate, in the settings its documentation recommends.

`XnnpackPartitioner` alone takes quantized and float operators into one delegate. With
`XnnpackDynamicallyQuantizedPartitioner` before it, as some examples have it, a small transformer takes four times as
long.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerGroup
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

_GROUP = 32


def lower(form: str, model: nn.Module, samples: list[Tensor], folder: Path) -> bytes:
    """One form of `forms.PEERS`; see `edge.export.peers.worker`."""
    with _explicit_attention():
        if form == "int8 dynamic":
            model = _quantized(model, samples, is_dynamic=True)
        elif form == "int8 static":
            model = _quantized(model, samples, is_dynamic=False)
        elif form == "int4 dynamic":
            # Groups along the inputs; layers that they do not divide stay float.
            model = copy.deepcopy(model)
            quantize_(
                model,
                Int8DynamicActivationIntxWeightConfig(
                    weight_dtype=torch.int4,  # type: ignore[attr-defined]
                    weight_granularity=PerGroup(_GROUP),
                ),
                lambda layer, _: isinstance(layer, nn.Linear) and layer.in_features % _GROUP == 0,
            )
        program = torch.export.export(model, (samples[0],))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


def _quantized(model: nn.Module, samples: list[Tensor], *, is_dynamic: bool) -> nn.Module:
    """PT2E: int8 weights, one scale an output channel."""
    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic)
    )
    prepared = prepare_pt2e(torch.export.export(model, (samples[0],)).module(), quantizer)
    for sample in samples:
        prepared(sample)
    quantized: nn.Module = convert_pt2e(prepared)
    return quantized


class _explicit_attention:
    """Attention as two products and a softmax while the block runs.

    ExecuTorch decomposes `scaled_dot_product_attention` into a softmax that guards against rows of -inf, with six
    operators that XNNPACK does not take: a third of a small transformer's time that nobody need lose.
    """

    def __enter__(self) -> None:
        self._kept = nn.functional.scaled_dot_product_attention
        nn.functional.scaled_dot_product_attention = self._attend

    def __exit__(self, *_: object) -> None:
        nn.functional.scaled_dot_product_attention = self._kept

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if attn_mask is not None or dropout_p or is_causal or enable_gqa:
            attended: Tensor = self._kept(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
            return attended
        query = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        return torch.softmax(query @ key.transpose(-2, -1), -1) @ value
