"""Child process of an export: lowers the trained model to one format and verifies the file on its engines.

Exporters print on stdout and stderr at the file-descriptor level and take seconds to import, so each format has a
process of its own (see `edge.export.child`). The folder holds:

    job.json          what to do: see `Job`
    model.safetensors the trained parameters
    samples.npz       test inputs, labels and reference logits

Run as `python -m edge.export.lower.worker FOLDER`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from edge.export.child import report_progress, run_child
from edge.export.lower.freeze import freeze
from edge.export.lower.int8_attention import Int8Attention
from edge.export.models import ModelSpec
from edge.export.quantize import QuantConfig, ternarize
from edge.runtime.errors import MissingDependency
from edge.runtime.manifest import FORMAT_ENGINES


@dataclass(frozen=True)
class Job:
    """One child's work.

    Attributes:
        format: "pte", "tflite" or "onnx".
        model: `ModelSpec.to_dict()`.
        quantization: `QuantConfig.to_dict()`.
        output: path of the file to write.
        options: keyword arguments of the lowering.
        threads: of torch in the child.
        rehearsal: only lower, do not verify; "samples.npz" holds one input and the weights need not be trained.
    """

    format: str
    model: dict[str, Any]
    quantization: dict[str, Any]
    output: str
    options: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    rehearsal: bool = False

    def write(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> Job:
        return Job(**json.loads((folder / "job.json").read_text()))


def rebuild(spec: dict[str, Any], quantization: dict[str, Any], weights: Path) -> nn.Module:
    """The trained module, from its factory, its quantization and its parameters."""
    model = ModelSpec.from_dict(spec).build()
    model = ternarize(model, config=QuantConfig.from_dict(quantization))
    model.load_state_dict(load_file(weights))
    return model.eval()


def _exporter(format_: str) -> ModuleType:
    """The module of a format; importing it takes seconds."""
    return importlib.import_module(f"edge.export.lower.{format_}")


def lower(
    format_: str,
    frozen: nn.Module,
    example: torch.Tensor,
    path: Path,
    options: dict[str, Any],
    report: Callable[..., None] = report_progress,
) -> dict[str, Any]:
    """Writes one format; returns what its exporter reports. Arguments as `lower_and_verify`."""
    exporter = _exporter(format_)
    report(f"lower to .{format_}")
    result: dict[str, Any] = getattr(exporter, f"to_{format_}")(frozen, (example,), path, **options)
    return result


def lower_and_verify(
    format_: str,
    frozen: nn.Module,
    example: torch.Tensor,
    path: Path,
    samples: dict[str, NDArray[Any]],
    options: dict[str, Any],
    report: Callable[..., None] = report_progress,
) -> dict[str, Any]:
    """Writes one format and verifies the file on every engine that is installed for it.

    Args:
        format_: "pte", "tflite" or "onnx".
        frozen: from `freeze`.
        example: float32 input, batch included.
        path: where the file goes.
        samples: "inputs" [n, …], "labels" [n], "logits" [n, classes].
        options: keyword arguments of the lowering.
        report: called with (stage, done, total).

    Returns:
        {"lowering": the lowering's report, "engines": {engine: metric}, "checked": operators compared,
        "missing": {engine: what to install}}.

    Raises:
        Unsupported: the model does not fit the format.
        VerificationFailed: the file does not compute what the model computes.
    """
    from edge.export.lower.verify import check_core_operators, check_engine_layers, measure_engine

    few = [sample[None] for sample in samples["inputs"][:4]]
    lowering = lower(format_, frozen, example, path, options, report)
    if format_ == "pte":
        checked = check_core_operators(path, few)
    else:
        checked = check_engine_layers(path, _exporter(format_).check_layers(path, frozen, (torch.from_numpy(few[0]),)))
    engines: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for position, engine in enumerate(FORMAT_ENGINES[format_]):
        total = len(samples["inputs"])
        try:
            metric = measure_engine(
                path,
                engine,
                samples["inputs"],
                samples["labels"],
                samples["logits"],
                lambda done, engine=engine, total=total: report(f"verify on {engine}", done, total),  # type: ignore[misc]
            )
        except MissingDependency as error:
            if position == 0:
                raise
            missing[engine] = str(error)
        else:
            engines[engine] = asdict(metric)
    return {"lowering": lowering, "engines": engines, "checked": checked, "missing": missing}


def _work(folder: Path) -> dict[str, Any]:
    job = Job.read(folder)
    torch.set_num_threads(job.threads)
    report_progress(f"prepare .{job.format}")
    model = rebuild(job.model, job.quantization, folder / "model.safetensors")
    with np.load(folder / "samples.npz", allow_pickle=False) as archive:
        samples = dict(archive)
    example = torch.from_numpy(samples["inputs"][:1]).clone()
    with torch.no_grad():
        frozen = freeze(model, (example,), compact_constants=job.options["compact_constants"])
        if job.options.get("int8_attention"):
            # The other formats, and the accuracy that training is reported with, have attention in float.
            with Int8Attention():
                inputs = torch.from_numpy(samples["inputs"])
                batches = [frozen(inputs[start : start + 64]) for start in range(0, len(inputs), 64)]
            samples["logits"] = torch.cat(batches).numpy()
        if job.rehearsal:
            return lower(job.format, frozen, example, Path(job.output), job.options)
        return lower_and_verify(job.format, frozen, example, Path(job.output), samples, job.options)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    sys.exit(run_child(target, lambda: _work(target)))
