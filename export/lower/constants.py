"""Large float constants that are added to activations (positional embeddings), stored as int8 with one scale a row.

A float positional embedding of CCT-7/3x1 is 262 kB, a fifth of the whole ternary model. `freeze` rounds such
constants once, so that the reference in PyTorch and the file of every engine hold the same values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

COMPACT_CONSTANT = 1024
"""Constants of at least this many values are worth it."""

_ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


def compact_rows(constant: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Symmetric int8 with one scale a row of the last dimension; None where that is not worth it or costs precision.

    The rows of a positional embedding are dense. A mask, or a table with a few huge values, is left alone.

    Args:
        constant: float32 [1, ..., rows, D], added to activations.

    Returns:
        (codes int8 in the shape of `constant`, scales float32 [rows]).
    """
    if constant.size < COMPACT_CONSTANT or constant.ndim < 2 or constant.size != np.prod(constant.shape[-2:]):
        return None
    largest = np.abs(constant).max(-1, keepdims=True)
    rms = np.sqrt(np.square(constant, dtype=np.float64).mean(-1, keepdims=True))
    if not np.isfinite(constant).all() or (largest > 8 * rms).any():
        return None
    scales = np.maximum(largest, np.float32(1e-12)) / np.float32(127)
    codes = np.clip(np.rint(constant / scales), -127, 127).astype(np.int8)
    return codes, scales.reshape(-1)


def rounded_rows(constant: Tensor) -> Tensor | None:
    """What is left of a constant that is stored by `compact_rows`: float32 of the same shape, or None if it is not."""
    compact = compact_rows(constant.detach().numpy())
    if compact is None:
        return None
    codes, scales = compact
    return torch.from_numpy(codes.astype(np.float32) * scales.reshape(*[1] * (codes.ndim - 2), -1, 1))


def added_constant(node: Any, names: dict[str, str]) -> tuple[Any, Any] | None:
    """(activation, constant) of an fx node that adds a parameter or buffer to an activation of its result's shape.

    Args:
        node: an fx.Node.
        names: placeholders of parameters and buffers, by name.
    """
    if node.op != "call_function" or node.target not in _ADDITIONS or node.kwargs:
        return None
    for x, constant in (tuple(node.args), tuple(node.args[::-1])):
        if getattr(constant, "name", None) not in names or not hasattr(x, "meta"):
            continue
        value, shape = constant.meta["val"], tuple(x.meta["val"].shape)
        trailing = tuple(value.shape)
        while len(trailing) > 1 and trailing[0] == 1:
            trailing = trailing[1:]
        unchanged = value.dtype is torch.float32 and shape == tuple(node.meta["val"].shape)
        if unchanged and shape[len(shape) - len(trailing) :] == trailing:
            return x, constant
    return None


def added_constants(program: ExportedProgram) -> set[str]:
    """Dotted names of the parameters and buffers that `program` adds to activations."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    found = (added_constant(node, names) for node in program.graph.nodes)
    return {names[pair[1].name] for pair in found if pair is not None}
