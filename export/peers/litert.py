"""A float module as `.tflite` files: converted by litert-torch, quantized by ai-edge-quantizer's own recipes."""

from __future__ import annotations

from pathlib import Path

import litert_torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from torch import Tensor, nn

_RECIPES = {
    "int8 dynamic": recipe.dynamic_wi8_afp32,
    "int8 static": recipe.static_wi8_ai8,
    "int4 dynamic": recipe.dynamic_wi4_afp32,
    "int2 dynamic": recipe.dynamic_wi2c_afp32,
}


def lower(form: str, model: nn.Module, samples: list[Tensor], folder: Path) -> bytes:
    """One form of `forms.PEERS`; see `edge.export.peers.worker`. Inputs and outputs of "int8 static" are int8."""
    plain = folder / "plain.tflite"
    if not plain.exists():
        litert_torch.convert(model, (samples[0],)).export(str(plain))
    if form == "fp32":
        return plain.read_bytes()
    work = quantizer.Quantizer(str(plain), _RECIPES[form]())
    ranges = None
    if work.need_calibration:
        [(signature, details)] = Interpreter(str(plain)).get_signature_list().items()
        [name] = details["inputs"]
        ranges = work.calibrate({signature: [{name: sample.numpy()} for sample in samples]})
    quantized = folder / "quantized.tflite"
    work.quantize(ranges).export_model(str(quantized), overwrite=True)
    return quantized.read_bytes()
