"""Child process that makes the files of one toolchain (see `edge.export.child`): they are noisy and slow to import.

The folder holds job.json, a `PeerJob`. A form that cannot be made does not keep the others from being made.

Run as `python -m edge.export.peers.worker FOLDER`.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge.export.child import report_progress, run_child
from edge.export.peers.forms import INT8_ATTENTION, Architecture, Form
from edge.runtime.errors import EdgeError, MissingDependency
from edge.runtime.whole_file import whole_file

_CALIBRATION_SAMPLES = 4

_EXTRA = {"executorch": "export", "litert": "tflite-export", "onnx": "export", "ternary": "tflite-export"}


@dataclass(frozen=True)
class PeerJob:
    """One child's work.

    Attributes:
        architecture: `Architecture.to_dict()`.
        forms: of one toolchain, each as a dictionary.
        folder: where the files go, with reference.npz: "input" and the float module's "output".
    """

    architecture: dict[str, Any]
    forms: list[dict[str, str]]
    folder: str

    def write(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> PeerJob:
        return PeerJob(**json.loads((folder / "job.json").read_text()))


def _work(folder: Path) -> dict[str, Any]:
    job = PeerJob.read(folder)
    architecture = Architecture(**{**job.architecture, "input_shape": tuple(job.architecture["input_shape"])})
    forms = [Form(**form) for form in job.forms]
    torch.set_num_threads(1)
    torch.manual_seed(0)  # every toolchain gets the same weights
    model = architecture.spec.build()
    samples = [torch.randn(*architecture.input_shape) for _ in range(_CALIBRATION_SAMPLES)]
    with torch.no_grad():
        output = model(samples[0])
    with whole_file(Path(job.folder) / "reference.npz") as file:
        np.savez(file, input=samples[0].numpy(), output=output.numpy())
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for done, form in enumerate(forms):
            report_progress(f"make {form.title}", done, len(forms))
            try:
                data = _lower(form, architecture, model, samples, Path(scratch))
                with whole_file(Path(job.folder) / form.file) as file:
                    file.write(data)
            except Exception as error:  # whatever a toolchain raises
                traceback.print_exc()
                failed[form.title] = _line(error)
    return {"failed": failed}


def _lower(form: Form, architecture: Architecture, model: nn.Module, samples: list[Tensor], scratch: Path) -> bytes:
    try:
        toolchain = importlib.import_module(f"edge.export.peers.{form.toolchain}")
        if form.toolchain == "ternary":
            suffix = form.file.rpartition(".")[2]
            spec = architecture.spec
            options = {"int8_attention": True} if form == INT8_ATTENTION else {}
            data: bytes = toolchain.lower_ternary(
                suffix, model, samples, scratch, keep=spec.keep, norm=architecture.norm, options=options
            )
        else:
            data = toolchain.lower(form.name, model, samples, scratch)
    except ModuleNotFoundError as error:
        install = f"pip install 'edge-deploy[{_EXTRA[form.toolchain]}]'"
        raise MissingDependency(f"making it needs {error.name}: {install}") from error
    return data


def _line(error: Exception) -> str:
    if isinstance(error, EdgeError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


if __name__ == "__main__":
    target = Path(sys.argv[1])
    sys.exit(run_child(target, lambda: _work(target)))
