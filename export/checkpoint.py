"""Checkpoints: one safetensors file with weights, optimizer state, random state, and JSON about the run.

Nothing is unpickled. A file is written under a temporary name and renamed, so a path holds either the old checkpoint
or the new one, also after a power cut or with a full disk.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge.export.reason import first_line
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.whole_file import whole_file

_FORMAT = "edge-checkpoint-1"
_MAX_HEADER = 64 << 20


@dataclass
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        model: state dict of the model.
        optimizer: for each trained parameter's name the optimizer's tensors ("exp_avg", "exp_avg_sq", "step").
        rng: state of torch's CPU generator, uint8 [n].
        info: JSON: step, configuration, history.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    rng: Tensor
    info: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `checkpoint` to `path`, whole or not at all.

    Raises:
        EdgeError: the folder is missing or not writable, or the disk is full; an older file at `path` stays.
    """
    tensors = {f"model.{k}": v for k, v in checkpoint.model.items()}
    for name, state in checkpoint.optimizer.items():
        tensors |= {f"optimizer.{key}:{name}": value for key, value in state.items()}
    tensors["rng"] = checkpoint.rng
    save_tensors(path, tensors, {"format": _FORMAT, "info": json.dumps(checkpoint.info)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote.

    Raises:
        BadFile: there is no such file, or it is not such a checkpoint.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != _FORMAT or "rng" not in tensors:
        raise BadFile(f"{path}: not a checkpoint of a training run (format {metadata.get('format')!r})")
    try:
        info = json.loads(metadata["info"])
    except (KeyError, ValueError, RecursionError):  # ValueError: no JSON, or an integer of thousands of digits
        raise BadFile(f"{path}: the checkpoint's description is damaged: delete it and start again") from None
    if not isinstance(info, dict):
        raise BadFile(f"{path}: the checkpoint's description is damaged: delete it and start again")
    checkpoint = Checkpoint({}, {}, tensors.pop("rng"), info)
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "optimizer":
            slot, _, name = name.partition(":")
            checkpoint.optimizer.setdefault(name, {})[slot] = value
        elif kind == "model":
            checkpoint.model[name] = value
        else:
            raise BadFile(f"{path}: unknown tensor {key!r} in the checkpoint")
    return checkpoint


def check_resumable(checkpoint: Checkpoint, parameters: Mapping[str, Tensor], where: object) -> None:
    """Checks what a run takes over beside the weights: the state of AdamW and of torch's generator.

    torch checks neither, and its fused optimizer reads and writes as many numbers as the parameter has.

    Args:
        parameters: the trained parameters by name; one that has not been stepped yet need not be in the checkpoint.

    Raises:
        BadInput: the checkpoint has state of another parameter.
        BadFile: a state is incomplete, or not of the parameter's shape and dtype.
    """
    unknown = sorted(set(checkpoint.optimizer) - set(parameters))
    if unknown:
        raise BadInput(f"{where}: optimizer state of an unknown parameter {unknown[0]!r}")
    for name, state in checkpoint.optimizer.items():
        parameter = parameters[name]
        wanted = dict.fromkeys(("exp_avg", "exp_avg_sq"), (parameter.shape, parameter.dtype))
        wanted["step"] = (torch.Size(()), torch.float32)
        if {slot: (value.shape, value.dtype) for slot, value in state.items()} != wanted:
            raise BadFile(f"{where}: the optimizer state of {name!r} is damaged: delete the checkpoint and start again")
    try:
        torch.Generator().set_state(checkpoint.rng)
    except (RuntimeError, TypeError):
        raise BadFile(f"{where}: the random state is damaged: delete the checkpoint and start again") from None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically; tied tensors are written each on its own.

    Raises:
        EdgeError: it cannot be written; an older file at `path` stays.
    """
    from safetensors.torch import save

    data = save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, metadata)
    with whole_file(path) as file:
        file.write(data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file: its tensors (CPU) and its metadata.

    Raises:
        BadFile: there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadFile(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadFile(f"{path}: not a safetensors file: {first_line(error)}") from None


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads weights: a training checkpoint, a plain safetensors file, or a PyTorch file (tensors only, no unpickling).

    The weights may lie under "state_dict", "model" or "model_state_dict", as trainers like to nest them.

    Raises:
        BadFile: there is no such file, it holds anything but tensors, or no state dict is found in it.
    """
    path = Path(path)
    if not path.is_file():
        raise BadFile(f"{path}: no such checkpoint")
    with open(path, "rb") as file:
        head = file.read(9)
    # A safetensors file starts with the length of its JSON header, then "{".
    if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER:
        tensors, metadata = load_tensors(path)
        return load_checkpoint(path).model if metadata.get("format") == _FORMAT else tensors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols, which the reader copes with
            value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader stumbles over; the file is untrusted
        raise BadFile(
            f"{path}: not a checkpoint that can be read without running code in it: give a .safetensors, or what "
            "torch.save(model.state_dict(), PATH) writes"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        raise BadFile(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {str(k).removeprefix("module."): v for k, v in value.items()}


def load_into(model: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Loads a state dict whose names and shapes must be the model's.

    Raises:
        BadInput: they are not; the message lists the first few.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    unknown = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    problems += [f"{k} is {list(state[k].shape)}, the model has {list(own[k].shape)}" for k in shapes[:3]]
    if problems:
        raise BadInput(f"{where}: the checkpoint does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(state)
