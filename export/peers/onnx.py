"""A float module as `.onnx` files, quantized by onnxruntime's own tools.

Dynamic quantization is kept to matrix products: a convolution becomes ConvInteger by it, whose kernel is slower than
the float one. On AVX2 without VNNI the 8-bit products saturate, so that results there are wrong (not slower).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

_OPSET = 20


def lower(form: str, model: nn.Module, samples: list[Tensor], folder: Path) -> bytes:
    """One form of `forms.PEERS`; see `edge.export.peers.worker`."""
    plain, prepared, quantized = (folder / f"{name}.onnx" for name in ("plain", "prepared", "quantized"))
    if not plain.exists():
        program = torch.onnx.export(
            model, (samples[0],), dynamo=True, optimize=True, verbose=False, opset_version=_OPSET, input_names=["input"]
        )
        assert program is not None
        onnx.save(program.model_proto, str(plain))
    if form == "fp32":
        return plain.read_bytes()
    if not prepared.exists():
        quant_pre_process(str(plain), str(prepared))
    if form == "int8 dynamic":
        quantize_dynamic(
            prepared,
            quantized,
            op_types_to_quantize=["MatMul", "Gemm", "Attention"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    else:
        quantize_static(
            prepared,
            quantized,
            _Samples(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return quantized.read_bytes()


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, samples: list[Tensor]) -> None:
        self._feeds = iter([{"input": sample.numpy()} for sample in samples])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
