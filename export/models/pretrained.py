"""Weights from elsewhere: SHI-Labs' published checkpoints and one's own."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from edge.export.checkpoint import load_into, load_state
from edge.export.models.cct import CCT, resize_positions
from edge.runtime.errors import BadInput

_POSITIONS = "classifier.positional_emb"
_HEAD = ("classifier.fc.weight", "classifier.fc.bias")


def load_pretrained(model: nn.Module, path: str | Path) -> list[str]:
    """Loads a checkpoint into `model`: .safetensors, or a PyTorch file of tensors only.

    For a CCT, as SHI-Labs do: positional embeddings of another image size are resized, sine embeddings stay the
    model's, and a head for another number of classes stays as it was initialised.

    Returns:
        What was adapted, in words; empty if everything was taken over as it is.

    Raises:
        BadFile: the file is missing, damaged, or holds more than tensors.
        BadInput: names or shapes do not fit; the message lists the first few.
    """
    state = load_state(Path(path))
    notes = _adapt(model, state, Path(path)) if isinstance(model, CCT) else []
    load_into(model, state, path)
    return notes


def _adapt(model: CCT, state: dict[str, Tensor], path: Path) -> list[str]:
    """Makes the parts of `state` fit that may differ; changes it in place."""
    notes = []
    own = model.state_dict()
    theirs = state.get(_POSITIONS)
    embedding = model.classifier.positional_emb
    if theirs is not None and embedding is not None:
        if not embedding.requires_grad:
            state[_POSITIONS] = own[_POSITIONS]
        elif theirs.shape != embedding.shape:
            side = math.isqrt(theirs.shape[1]) if theirs.dim() == 3 else 0
            if side == 0 or side * side != theirs.shape[1] or theirs.shape[2] != embedding.shape[2]:
                raise BadInput(f"{path}: positions {list(theirs.shape)} cannot be resized to {list(embedding.shape)}")
            state[_POSITIONS] = resize_positions(theirs, (side, side), model.grid)
            notes.append(f"positions resized from {side} x {side} to {model.grid[0]} x {model.grid[1]}")
    for key in _HEAD:
        if key in state and state[key].shape != own[key].shape:
            notes.append(f"{key} is new: {state[key].shape[0]} classes became {own[key].shape[0]}")
            state[key] = own[key]
    return notes
