"""Quantization-aware training: integer weights, int8 activations, and the layers that learn with them.

The numerics are BitNet b1.58's (arXiv 2402.17764) with the median measure of arXiv 2407.09527. `ternarize` turns any
`nn.Module` into one whose linear layers and convolutions compute, in evaluation mode, what the exported file computes.
"""

from edge.export.quantize.attention import SplitAttention
from edge.export.quantize.convert import quantized_layers, set_lambda, ternarize
from edge.export.quantize.layers import BitConv1d, BitConv1x1, BitConv2d, BitLinear, Int8Conv2d
from edge.export.quantize.weights import BITS, MEASURES, QuantConfig, quantize_weight

__all__ = [
    "BITS",
    "MEASURES",
    "BitConv1d",
    "BitConv1x1",
    "BitConv2d",
    "BitLinear",
    "Int8Conv2d",
    "QuantConfig",
    "SplitAttention",
    "quantize_weight",
    "quantized_layers",
    "set_lambda",
    "ternarize",
]
