"""The whole job of `edge export`: train, freeze, lower to every format, verify each file on its engine, bundle.

One call does it, `export_model`. Training runs here; the float twin and the exporters run in child processes
(`edge.export.children`), because they are noisy, slow to import and independent of each other.
"""

from __future__ import annotations

import io
import math
import os
import platform
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge.export.checkpoint import save_tensors
from edge.export.child import Child
from edge.export.children import Children
from edge.export.data import Dataset, load_dataset
from edge.export.exporters import Exporters
from edge.export.lower.freeze import freeze
from edge.export.lower.layers import describe_layers
from edge.export.models import ModelSpec, load_pretrained, resolve
from edge.export.options import TWIN_STAGE, ExportOptions, ExportResult, check_options
from edge.export.progress import Progress, Silent
from edge.export.quantize import QuantConfig, ternarize
from edge.export.reason import first_line, in_user_code
from edge.export.report import report_folder, write_report
from edge.export.train import TrainConfig, default_config, train
from edge.export.twin import TwinJob
from edge.runtime import _core
from edge.runtime.bundle import file_entry, write_bundle
from edge.runtime.errors import BadInput, Interrupted
from edge.runtime.manifest import (
    FORMAT_ENGINES,
    EngineMetric,
    FileEntry,
    InputSpec,
    LayerRecord,
    Manifest,
    Metrics,
    Quantization,
    TensorSpec,
)
from edge.runtime.preprocess import ArrayPreprocess, AudioPreprocess, ImagePreprocess
from edge.runtime.target import find_target

__all__ = ["ExportOptions", "ExportResult", "export_model"]

REFERENCE_SAMPLES = 8
"""Test inputs with their logits that travel in the bundle, so that a device can check itself."""

_TASKS = {
    ImagePreprocess: "image-classification",
    AudioPreprocess: "audio-classification",
    ArrayPreprocess: "classification",
}


def export_model(options: ExportOptions, progress: Progress | None = None) -> ExportResult:
    """Trains, lowers, verifies and bundles; writes nothing under `options.output` unless all of it succeeded.

    Raises:
        EdgeError: any expected failure, in one line; see the subclasses in `edge.runtime.errors`, `NonFiniteLoss`,
            `VerificationFailed`, and `Interrupted` after Ctrl-C or SIGTERM.
    """
    with _terminable(), tempfile.TemporaryDirectory(prefix="edge-export-") as scratch:
        return _Export(options, progress or Silent(), Path(scratch)).run()


class _Export:
    def __init__(self, options: ExportOptions, progress: Progress, scratch: Path) -> None:
        self.options = options
        self.progress = progress
        self.scratch = scratch
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self.children = Children(progress)

    def run(self) -> ExportResult:
        started = time.monotonic()
        formats = check_options(self.options, self._note)
        self._tell_missing_checkpoint()
        threads = self.options.threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        try:
            spec, dataset, data_arguments = self._model_and_data()
            quantization = self._quantization(spec)
            self._try_out(spec, dataset)
            exporters = Exporters(
                spec=spec,
                quantization=quantization,
                formats=formats,
                tflite_bits=self.options.tflite_bits,
                int8_attention=self.options.attention == "int8",
                layout=find_target(self.options.target).layout,
                at_once=threads,
                children=self.children,
            )
            resumed = self.options.resume and _checkpoint(self.options).exists()
            if spec.info.family == "user" and not resumed:  # what has a checkpoint was rehearsed before it had one
                self._rehearse(exporters, dataset)
            model, twin, history, config = self._train(spec, quantization, dataset, data_arguments, threads)
            with self._timed("lower"):
                frozen, example, samples, accuracy = self._freeze(model, dataset)
                lowered = self._lower(exporters, model, samples)
        finally:
            self.children.stop()
        self.seconds["total"] = time.monotonic() - started
        manifest, files = self._manifest(
            spec, quantization, dataset, frozen, example, samples, accuracy, twin, lowered, config, history
        )
        self.progress.stage("write the bundle")
        write_bundle(self.options.output, manifest, files)
        for path in (_checkpoint(self.options), _checkpoint(self.options, twin=True)):
            path.unlink(missing_ok=True)
        result = ExportResult(
            bundle=self.options.output,
            manifest=manifest,
            history=history,
            float_history=[] if twin is None else twin["history"],
            files={name: entry.bytes for name, entry in manifest.files.items()},
            seconds=self.seconds,
            notes=self.notes,
        )
        if self.options.report:
            self.progress.stage("write the report")
            result = replace(result, report=write_report(result))
        elif (stale := report_folder(self.options.output)).is_dir():
            self._note(f"{stale}: the report of an earlier bundle of this name; --no-report leaves it as it is")
        return result

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.note(text)

    @property
    def _has_twin(self) -> bool:
        return self.options.float_twin and self.options.bits != 32 and self.options.epochs != 0

    def _tell_missing_checkpoint(self) -> None:
        """Says so if there is nothing to resume from: a mistyped -o would cost a training without a word."""
        if not self.options.resume:
            return
        own, twin = _checkpoint(self.options), _checkpoint(self.options, twin=True)
        if not own.exists():
            self._note(f"--resume: there is no checkpoint {own}: training starts from the beginning")
        elif self._has_twin and not twin.exists():
            self._note(f"--resume: there is no checkpoint {twin}: the float twin starts from the beginning")

    def _model_and_data(self) -> tuple[ModelSpec, Dataset, dict[str, Any]]:
        options = self.options
        info = resolve(options.model)  # a wrong name is told before the data is read
        data = options.data or "digits"
        if options.data is None and options.model != ExportOptions.model:
            self._note("no --data given: training on scikit-learn's handwritten digits")
        arguments: dict[str, Any] = {
            "input_shape": info.shape_for(data, options.input_size),
            "kind": options.kind or (None if info.preprocess == "any" else info.preprocess),
            "seed": options.seed,
            "limit": options.limit,
        }
        self.progress.stage(f"read {data}")
        with self._timed("data"):
            dataset = load_dataset(data, **arguments, progress=self.progress)
        shape = [int(size) for size in dataset.input_shape]
        spec = ModelSpec(options.model, {"num_classes": len(dataset.labels), "input_shape": shape})
        return spec, dataset, {"spec": str(data), **arguments}

    def _quantization(self, spec: ModelSpec) -> QuantConfig:
        options = self.options
        return QuantConfig(
            bits=options.bits,
            measure=options.measure,
            conv="float" if options.bits == 32 else options.conv,
            keep=() if options.bits == 32 else (*spec.keep, *options.keep),
            bitlinear_compat=options.bitlinear_compat,
        )

    def _train(
        self,
        spec: ModelSpec,
        quantization: QuantConfig,
        dataset: Dataset,
        data_arguments: dict[str, Any],
        threads: int,
    ) -> tuple[nn.Module, dict[str, Any] | None, list[dict[str, Any]], TrainConfig]:
        options = self.options
        config = default_config(spec, dataset, seed=options.seed)
        given: dict[str, Any] = {
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "lr": options.lr,
            "float_fraction": options.float_fraction,
        }
        config = replace(config, **{key: value for key, value in given.items() if value is not None})
        torch.manual_seed(options.seed)
        model = spec.build()
        if options.pretrained is not None:
            for note in load_pretrained(model, options.pretrained):
                self._note(f"{options.pretrained.name}: {note}")
        twin = None
        if self._has_twin:
            twin = self._start_twin(spec, model, data_arguments, config)
            torch.set_num_threads(max(1, threads - 1))
        model = ternarize(model, config=quantization)
        checkpoint = _checkpoint(options)
        with self._timed("train"):
            result = train(
                model,
                dataset,
                config,
                progress=self.progress,
                checkpoint=checkpoint,
                resume=options.resume,
                identity={**quantization.to_dict(), "model": spec.to_dict(), "data": dataset.provenance},
            )
        if result.interrupted:
            raise _stopped(checkpoint)
        torch.set_num_threads(threads)
        answer = None
        if twin is not None:
            try:
                self.children.wait([twin], "float twin")
            except KeyboardInterrupt:
                raise _stopped(checkpoint) from None
            answer = twin.result()
            # Its own time: of what it took, most or all went by while this process trained.
            self.seconds[TWIN_STAGE] = answer["seconds"]
        return model, answer, result.history, config

    def _try_out(self, spec: ModelSpec, dataset: Dataset) -> None:
        """Runs the untrained model on one sample: what it takes and gives must fit the data."""
        model, x, classes = spec.build(), dataset.test.batch(np.arange(1)), len(dataset.labels)
        try:
            with torch.no_grad():
                y = model(x)
        except Exception as error:  # whatever the user's forward raises
            raise BadInput(
                f"{self.options.model}: cannot take the data's input {list(x.shape)}{in_user_code(error)}: "
                f"{first_line(error, named=True)} (--debug shows the traceback)"
            ) from error
        given = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
        if given != [1, classes]:
            raise BadInput(
                f"{self.options.model}: gives {given} for one sample; the data has {classes} classes, "
                f"so it must give [1, {classes}], one logit a class"
            )

    def _rehearse(self, exporters: Exporters, dataset: Dataset) -> None:
        """Lowers a user's own module untrained, so that what cannot be exported is told before it is trained."""
        with self._timed("rehearse"):
            torch.manual_seed(self.options.seed)
            model = ternarize(exporters.spec.build(), config=exporters.quantization)
            samples = {"inputs": dataset.test.batch(np.arange(1)).numpy()}
            exporters.run(model, samples, self.scratch / "rehearsal", rehearsal=True)

    def _start_twin(
        self, spec: ModelSpec, model: nn.Module, data_arguments: dict[str, Any], config: TrainConfig
    ) -> Child:
        folder = self.scratch / "float-twin"
        folder.mkdir()
        weights = folder / "start.safetensors"
        save_tensors(weights, model.state_dict())
        TwinJob(
            model=spec.to_dict(),
            data=data_arguments,
            config=config.to_dict(),
            weights=str(weights),
            checkpoint=str(_checkpoint(self.options, twin=True).resolve()),
            resume=self.options.resume,
        ).write(folder)
        return self.children.start("edge.export.twin", folder)

    def _freeze(
        self, model: nn.Module, dataset: Dataset
    ) -> tuple[nn.Module, tuple[torch.Tensor], dict[str, NDArray[Any]], float]:
        """The frozen module, an example input, the samples to verify with, and the accuracy on the whole test set."""
        self.progress.stage("measure the frozen model")
        example = (dataset.test.batch(np.arange(1)),)
        with torch.no_grad():
            frozen = freeze(model, example, compact_constants=self.options.bits != 32)
            logits = []
            count = len(dataset.test)
            for start in range(0, count, 64):
                batch = dataset.test.batch(np.arange(start, min(start + 64, count)))
                logits.append(torch.as_tensor(frozen(batch)).numpy())
        answers = np.concatenate(logits)
        if not np.isfinite(answers).all():
            raise BadInput(f"{self.options.model}: the trained model answers with NaN or infinity; lower --lr")
        accuracy = float((answers.argmax(-1) == dataset.test.y).mean())
        chosen = np.arange(count)
        if count > self.options.verify_samples:
            chosen = np.random.default_rng(0).choice(count, self.options.verify_samples, replace=False)
        samples = {
            "inputs": dataset.test.batch(chosen).numpy(),
            "labels": dataset.test.y[chosen],
            "logits": answers[chosen],
        }
        return frozen, example, samples, accuracy

    def _lower(
        self, exporters: Exporters, model: nn.Module, samples: dict[str, NDArray[Any]]
    ) -> dict[str, dict[str, Any]]:
        """Lowers and verifies every format; returns what each exporter reported, by file name."""
        done = exporters.run(model, samples, self.scratch / "export")
        for report in done.values():
            for advice in report["missing"].values():
                self._note(f"not verified: {advice}")
        return {f"model.{name}": done[name] for name in exporters.formats}

    def _manifest(
        self,
        spec: ModelSpec,
        quantization: QuantConfig,
        dataset: Dataset,
        frozen: nn.Module,
        example: tuple[torch.Tensor],
        samples: dict[str, NDArray[Any]],
        accuracy: float,
        twin: dict[str, Any] | None,
        lowered: dict[str, dict[str, Any]],
        config: TrainConfig,
        history: list[dict[str, Any]],
    ) -> tuple[Manifest, dict[str, bytes]]:
        options = self.options
        files: dict[str, bytes] = {}
        entries: dict[str, FileEntry] = {}
        engines: dict[str, EngineMetric] = {}
        layers = describe_layers(frozen, example)
        told = None if options.bits == 32 else _float_share(layers)
        if told:
            self._note(told)
        for name, report in lowered.items():
            format_ = name.rpartition(".")[2]
            data = (self.scratch / "export" / format_ / name).read_bytes()
            program = _core.Program(data) if format_ == "pte" else None
            files[name] = data
            entries[name] = file_entry(
                data,
                FORMAT_ENGINES[format_],
                arena_bytes=None if program is None else program.arena_bytes,
                macs=sum(layer.macs for layer in layers) if program is None else program.macs,
                ops=report["lowering"]["ops"],
            )
            engines.update({engine: EngineMetric(**metric) for engine, metric in report["engines"].items()})
        buffer = io.BytesIO()
        few = {key: value[:REFERENCE_SAMPLES] for key, value in samples.items()}
        np.savez(buffer, inputs=few["inputs"], outputs=few["logits"].astype(np.float32))
        files["reference.npz"] = buffer.getvalue()
        entries["reference.npz"] = file_entry(files["reference.npz"], ())
        manifest = Manifest(
            name=options.name or _bundle_name(dataset.name, spec.name),
            version=options.version,
            task=_TASKS[type(dataset.preprocess)],
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            license=options.license,
            generator=_generator(),
            inputs=(InputSpec("input", "float32", tuple(example[0].shape), dataset.preprocess),),
            outputs=(TensorSpec("logits", "float32", (1, len(dataset.labels))),),
            labels=tuple(dataset.labels),
            files=entries,
            quantization=Quantization(
                bits=quantization.bits,
                measure=quantization.measure,
                conv=quantization.conv,
                norm=quantization.norm,
                layers=layers,
            ),
            metrics=Metrics(
                metric="accuracy",
                samples=len(dataset.test),
                torch=accuracy,
                float=None if twin is None else float(twin["accuracy"]),
                engines=engines,
            ),
            training={
                "model": spec.to_dict(),
                "data": dataset.provenance,
                "config": config.to_dict(),
                "epochs_run": len(history),
                "checked_operators": {name: report["checked"] for name, report in lowered.items()},
                "pretrained": None if options.pretrained is None else options.pretrained.name,
                "keep": list(quantization.keep),
                "target": options.target,
                "tflite_bits": options.tflite_bits,
                "seconds": {key: round(value, 1) for key, value in self.seconds.items()},
            },
            reference="reference.npz",
        )
        return manifest, files


def _bundle_name(data: str, model: str) -> str:
    """ "digits-cct_2_3x2", of characters that a manifest allows."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{data}-{model}").strip("-.")[:100] or "model"


def _float_share(layers: tuple[LayerRecord, ...]) -> str | None:
    """What to tell of the weights that stay in float, if they are a twentieth of all or more."""
    counts = {layer.name: math.prod(layer.shape) for layer in layers}
    kept = [layer.name for layer in layers if layer.bits == 32]
    share = sum(counts[name] for name in kept) / max(1, sum(counts.values()))
    if share < 0.05:
        return None
    more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return f"{100 * share:.0f} % of the weights stay in float: {', '.join(kept[:3])}{more}"


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM end the work as Ctrl-C does: children are stopped and the scratch folder is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _checkpoint(options: ExportOptions, twin: bool = False) -> Path:
    """Where a training saves its state: beside the bundle."""
    return options.output.with_name(f"{options.output.stem}.{'float.' if twin else ''}checkpoint")


def _stopped(checkpoint: Path) -> Interrupted:
    return Interrupted(f"stopped; the checkpoint is {checkpoint}; go on with the same command and --resume")


def _generator() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("edge-deploy", "torch", "executorch", "litert-torch", "onnx"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
