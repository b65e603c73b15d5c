"""The exporters of one export: a child process for each format, which lowers the model and verifies the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge.export.checkpoint import save_tensors
from edge.export.child import Child
from edge.export.children import Children
from edge.export.lower.worker import Job
from edge.export.models import ModelSpec
from edge.export.quantize import QuantConfig


@dataclass(frozen=True)
class Exporters:
    """What the exporters have in common, whatever the weights.

    Attributes:
        spec: of the model.
        quantization: that it was made ready for.
        formats: to write.
        tflite_bits: storage of ternary weights in the .tflite.
        int8_attention: integer products in the .pte.
        layout: of ternary weights in the .pte.
        at_once: children that may run at a time.
        children: those of the export.
    """

    spec: ModelSpec
    quantization: QuantConfig
    formats: tuple[str, ...]
    tflite_bits: int
    int8_attention: bool
    layout: str
    at_once: int
    children: Children

    def run(
        self, model: nn.Module, samples: dict[str, NDArray[Any]], folder: Path, *, rehearsal: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Writes FOLDER/FORMAT/model.FORMAT for each format; returns what each exporter reported, by format.

        Args:
            model: of the spec, quantized; only its parameters are used.
            samples: see `edge.export.lower.worker.lower_and_verify`.
            folder: to be filled; it need not exist.
            rehearsal: only lower, do not verify; `samples` may hold one input and nothing else.

        Raises:
            EdgeError: a format cannot hold the model, or its file computes something else.
        """
        waiting = list(self.formats)
        running: dict[str, Child] = {}
        done: dict[str, dict[str, Any]] = {}
        while waiting or running:
            while waiting and len(running) < self.at_once:
                name = waiting.pop(0)
                self._prepare(folder / name, name, model, samples, rehearsal)
                running[name] = self.children.start("edge.export.lower.worker", folder / name)
            stage = ", ".join(f"lower to .{name}" for name in running)
            title = "rehearse" if rehearsal else ""
            self.children.wait(list(running.values()), stage, until_first=True, title=title)
            for name in [name for name, child in running.items() if child.poll()]:
                done[name] = running.pop(name).result()
        return done

    def _prepare(
        self, folder: Path, format_: str, model: nn.Module, samples: dict[str, NDArray[Any]], rehearsal: bool
    ) -> None:
        """Fills a child's folder."""
        folder.mkdir(parents=True)
        save_tensors(folder / "model.safetensors", model.state_dict())
        np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]
        options: dict[str, Any] = {"compact_constants": self.quantization.bits != 32}
        if format_ == "tflite":
            options["bits"] = self.tflite_bits
        if format_ == "pte" and self.int8_attention:
            options["int8_attention"] = True
        if format_ == "pte":
            options["layout"] = self.layout
        Job(
            format=format_,
            model=self.spec.to_dict(),
            quantization=self.quantization.to_dict(),
            output=str(folder / f"model.{format_}"),
            options=options,
            rehearsal=rehearsal,
        ).write(folder)
