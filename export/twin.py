"""The float twin: the same model, data, seed and budget without quantization, trained beside the quantized one.

What ternary weights cost in accuracy is only known against it. It runs in a child process with one thread, which on
a small model is faster than two threads on one training (see `edge.export.child`).

Run as `python -m edge.export.twin FOLDER`; FOLDER/job.json holds a `TwinJob`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edge.export.child import report_progress, run_child
from edge.export.data import load_dataset
from edge.export.models import ModelSpec
from edge.export.train import TrainConfig, train
from edge.runtime.errors import Interrupted


@dataclass(frozen=True)
class TwinJob:
    """Everything that makes the twin the same but for quantization.

    Attributes:
        model: `ModelSpec.to_dict()`.
        data: arguments of `load_dataset`.
        config: `TrainConfig.to_dict()`.
        weights: safetensors file with the parameters to start from.
        checkpoint: file to resume from.
        resume: whether to.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    weights: str
    checkpoint: str
    resume: bool

    def write(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(asdict(self)))


class _ToParent:
    """A `Progress` that hands everything to the parent process."""

    def __init__(self) -> None:
        self._stage = "float twin"
        self._total: int | None = None

    def stage(self, name: str, total: int | None = None) -> None:
        self._stage = "float twin" if name == "train" else f"float twin: {name}"
        self._total = total

    def update(self, done: int, **values: float | str) -> None:
        report_progress(self._stage, done, self._total, **values)

    def note(self, text: str) -> None: ...


def _work(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    job = TwinJob(**json.loads((folder / "job.json").read_text()))
    torch.set_num_threads(1)
    data = dict(job.data)
    if data["input_shape"] is not None:
        data["input_shape"] = tuple(data["input_shape"])
    model = ModelSpec.from_dict(job.model).build()
    model.load_state_dict(load_file(job.weights))
    config = TrainConfig.from_dict(job.config)
    dataset = load_dataset(**data)
    result = train(
        model,
        dataset,
        config,
        progress=_ToParent(),
        checkpoint=Path(job.checkpoint),
        resume=job.resume,
        identity={"model": job.model, "data": dataset.provenance},
    )
    if result.interrupted:
        raise Interrupted("the training of the float twin was stopped; go on with the same command and --resume")
    return {"history": result.history, "accuracy": result.test_accuracy, "seconds": result.seconds}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    sys.exit(run_child(target, lambda: _work(target)))
