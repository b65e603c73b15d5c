"""The layers of a `.pte` program as its bytes tell them: operator, bits, shape, stored bytes, zeros, MACs.

A program keeps no names of modules, so a layer is called by its place: "17 edge::ternary_linear".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.runtime.manifest import LayerRecord

if TYPE_CHECKING:
    from edge.runtime._core import Program

# Operators whose weight is packed, and where among the arguments the bits are (None: 2-bit ternary codes).
_PACKED: dict[str, int | None] = {
    "edge::ternary_linear.out": None,
    "edge::ternary_conv1x1.out": None,
    "edge::int_linear.out": 5,
    "edge::int_conv1x1.out": 5,
}
# Operators whose weight is a plain tensor, and which argument it is.
_PLAIN: dict[str, int] = {
    "edge::linear.out": 1,
    "edge::conv2d.out": 1,
    "edge::conv2d_int8.out": 1,
    "edge::add_quantized.out": 1,
    "edge::sequence_pool.out": 1,
    "aten::addmm.out": 2,
    "aten::mm.out": 1,
    "aten::convolution.out": 1,
    "aten::embedding.out": 0,
}
_KINDS = {
    "linear": "linear",
    "conv1x1": "conv1x1",
    "conv2d": "conv2d",
    "addmm": "linear",
    "mm": "linear",
    "convolution": "conv2d",
}


def program_layers(program: Program) -> list[LayerRecord]:
    """Every layer of `program` that holds weights, in the order of execution.

    The program is run once, on zeros: only a run shows the values of its constants.

    Args:
        program: An open program of the core.

    Returns:
        Records whose `name` is the place of the instruction and its operator; `bits` is 1.58 for ternary weights.
    """
    zeros = [np.zeros(shape, dtype=dtype) for dtype, shape in program.inputs]
    layers = []
    instructions = program.instructions
    for place, (operator, inputs, _) in enumerate(program.trace(zeros)):
        macs = instructions[place][1]
        constant = [argument[0] == "tensor" and argument[3] for argument in map(_as_tuple, instructions[place][2])]
        if operator in _PACKED:
            position = _PACKED[operator]
            layers.append(_packed_layer(place, operator, macs, inputs, None if position is None else inputs[position]))
        elif operator in _PLAIN and constant[_PLAIN[operator]]:
            layers.append(_plain_layer(place, operator, macs, inputs[_PLAIN[operator]]))
    return layers


def _as_tuple(argument: Any) -> tuple[Any, ...]:
    return argument if isinstance(argument, tuple) else ("value",)


def _name(place: int, operator: str) -> str:
    return f"{place} {operator.rpartition('.')[0]}"


def _kind(operator: str) -> str:
    base = operator.partition("::")[2].partition(".")[0]
    return next((kind for part, kind in _KINDS.items() if base.endswith((part, f"{part}_int8"))), base)


def _packed_layer(place: int, operator: str, macs: int, inputs: list[Any], bits: int | None) -> LayerRecord:
    """A layer with packed codes; its K is the length of its input's tokens."""
    x, packed = inputs[0], inputs[1]
    columns = x.shape[1] if "conv1x1" in operator else x.shape[-1]
    width = bits or 2
    zero = {None: 1, 2: 2, 4: 8, 8: 0}[bits]
    codes = _unpack(packed, columns, width)
    return LayerRecord(
        name=_name(place, operator),
        kind=_kind(operator),
        bits=1.58 if bits is None else float(bits),
        shape=(int(packed.shape[0]), int(columns)),
        bytes=int(packed.nbytes),
        zero_fraction=float(np.mean(codes == zero)) if codes.size else 0.0,
        macs=macs,
    )


def _plain_layer(place: int, operator: str, macs: int, weight: NDArray[Any]) -> LayerRecord:
    return LayerRecord(
        name=_name(place, operator),
        kind=_kind(operator),
        bits=float(8 * weight.dtype.itemsize),
        shape=tuple(int(size) for size in weight.shape),
        bytes=int(weight.nbytes),
        zero_fraction=float(np.mean(weight == 0)) if weight.size else 0.0,
        macs=macs,
    )


def _unpack(packed: NDArray[Any], columns: int, width: int) -> NDArray[Any]:
    """The codes [N, columns] of rows packed little end first, `width` bits each, without their padding."""
    if width == 8:
        return packed[:, :columns]
    fields = [(packed >> shift) & ((1 << width) - 1) for shift in range(0, 8, width)]
    codes: NDArray[Any] = np.stack(fields, axis=-1).reshape(packed.shape[0], -1)
    return codes[:, :columns]
