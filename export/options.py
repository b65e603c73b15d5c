"""What an export can be told, what it answers, and what is refused before an hour of training instead of after it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edge.runtime.errors import BadInput, MissingDependency
from edge.runtime.manifest import FORMAT_ENGINES, Manifest, check_license, check_name
from edge.runtime.target import Target, find_target

FORMATS = tuple(FORMAT_ENGINES)
BITS = (1.58, 2, 4, 8, 32)

TWIN_STAGE = "float twin"
"""The stage of an export that does not stand in line: the twin is trained while the model is."""

_NEEDS = {
    "pte": ("executorch", "edge-deploy[export]"),
    "tflite": ("litert_torch", "edge-deploy[tflite-export]"),
    "onnx": ("onnxscript", "edge-deploy[export]"),
}


@dataclass(frozen=True)
class ExportOptions:
    """What `edge export` can be told; the defaults are the command's.

    Attributes:
        model: a name from `edge models`, or "path/to/file.py:factory".
        bits: 1.58, 2, 4, 8, or 32 (float).
        data: "digits", or the path of an image folder, archive, .npz or WAV folder; None for the digits, which is said
            unless the model is the default one.
        output: the bundle to write; its name ends in .edge.
        keep: patterns of layers that stay float, beyond the model's own.
        measure: "median" or "mean", the scale of ternary weights.
        conv: "int8", "ternary" or "float" for k×k and depthwise convolutions; see `QuantConfig`.
        attention: "float", or "int8" for integer products in the .pte.
        epochs: None for the preset of the model and data; likewise `batch_size` and `lr`.
        kind: "image", "audio" or "array" where the data holds several; None for what is found.
        bitlinear_compat: numerics of PyPI `bitlinear` in the linear layers.
        float_fraction: share of the steps in float before quantization begins (16-bit to 1.58-bit continuation);
            None for the preset.
        seed: of initialization, order and augmentation.
        threads: of training; None for what the machine has.
        tflite_bits: 2, 4 or 8, the storage of ternary weights in the .tflite.
        formats: of "pte", "tflite", "onnx"; None for all that are installed and that the target runs.
        resume: go on from the checkpoint of an interrupted export.
        pretrained: a .pt/.pth/.safetensors checkpoint to start from.
        float_twin: also train the same model in float, for comparison.
        name: of the bundle; None for one made of data and model.
        version: of the bundle.
        license: SPDX identifier of the exported model.
        limit: use at most this many samples, training and test together.
        input_size: (height, width) that images are scaled to; None for the preset of the model and data.
        verify_samples: at most this many test samples run on each engine.
        target: from `edge targets`.
        report: write the report beside the bundle.
    """

    model: str = "cct_2_3x2"
    bits: float = 1.58
    data: str | None = None
    output: Path = Path("model.edge")
    keep: tuple[str, ...] = ()
    measure: str = "median"
    conv: str = "int8"
    attention: str = "float"
    kind: str | None = None
    bitlinear_compat: bool = False
    float_fraction: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    threads: int | None = None
    tflite_bits: int = 2
    formats: tuple[str, ...] | None = None
    resume: bool = False
    pretrained: Path | None = None
    float_twin: bool = True
    name: str | None = None
    version: str = "1.0.0"
    license: str = "unspecified"
    limit: int | None = None
    input_size: tuple[int, int] | None = None
    verify_samples: int = 500
    target: str = "generic"
    report: bool = True


@dataclass(frozen=True)
class ExportResult:
    """What an export made.

    Attributes:
        bundle: path of the .edge file.
        manifest: as written into it.
        history: a record an epoch of the quantized training.
        float_history: of the float twin; empty without one.
        files: bytes of each file in the bundle.
        seconds: wall time by stage; `TWIN_STAGE` ran beside "train", so the stages may add up to more than "total".
        notes: things worth telling, such as a format that was left out.
        report: the markdown page, if one was written.
    """

    bundle: Path
    manifest: Manifest
    history: list[dict[str, Any]]
    float_history: list[dict[str, Any]]
    files: dict[str, int]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    report: Path | None = None

    @property
    def stages(self) -> list[tuple[str, float]]:
        """`seconds` as people are told them."""
        return [(f"{name} (beside train)" if name == TWIN_STAGE else name, took) for name, took in self.seconds.items()]


def check_words(options: ExportOptions) -> None:
    """Refuses what the options alone show to be wrong, whatever the model, the data and the machine are.

    Raises:
        BadInput: begins with the option as it is typed.
    """
    if options.bits not in BITS:
        raise BadInput(f"--bits: {options.bits:g} is not one of {', '.join(f'{b:g}' for b in BITS)}")
    if options.tflite_bits not in (2, 4, 8):
        raise BadInput(f"--tflite-bits: {options.tflite_bits} is not one of 2, 4, 8")
    if options.bitlinear_compat and options.bits != 1.58:
        raise BadInput(f"--bitlinear-compat: exists for 1.58 bits only, not for {options.bits:g}")
    if options.conv == "ternary" and options.bits not in (1.58, 32):
        raise BadInput(f"--conv ternary: exists for 1.58 bits only, not for {options.bits:g}")
    if options.name is not None:
        check_name(options.name, "--name")
    check_name(options.version, "--model-version")
    check_license(options.license, "--license")
    if options.output.suffix != ".edge":
        better = options.output.parent / f"{options.output.stem}.edge"
        raise BadInput(f"-o {options.output}: a bundle's name ends in .edge: -o {better}")
    unknown = sorted(set(options.formats or ()) - set(FORMATS))
    if unknown:
        raise BadInput(f"--formats: {', '.join(unknown)}: expected some of {', '.join(FORMATS)}")
    _check_formats(options.formats, find_target(options.target))


def _check_formats(formats: tuple[str, ...] | None, target: Target) -> None:
    """Refuses formats that were asked for though no engine of the target reads them."""
    unread = [f".{name}" for name in formats or () if name not in target.formats]
    if unread:
        readable = ",".join(target.formats)
        raise BadInput(
            f"--formats: no engine of --target {target.name} reads {' or '.join(unread)}: "
            f"use --formats {readable}, or another target"
        )


def as_typed(name: str) -> str:
    """How people type a field of `ExportOptions`, for messages: "batch_size" is "--batch-size"; other names stay."""
    typed = {field.name for field in fields(ExportOptions)} - {"model", "verify_samples"}
    return f"--{name.replace('_', '-')}" if name in typed else name


def check_options(options: ExportOptions, note: Callable[[str], None]) -> tuple[str, ...]:
    """Refuses what cannot work, before anything is read or trained.

    Args:
        options: of the export.
        note: told why a format is left out.

    Returns:
        The formats to write.

    Raises:
        BadInput: what `check_words` refuses, or a place that cannot be written to.
        MissingDependency: a format that was asked for, or .pte, needs a package that is not installed.
    """
    check_words(options)
    folder = options.output.parent
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder for the bundle; create it or choose another with -o")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{folder}: not writable; choose another place for the bundle with -o")
    if options.output.is_dir():
        raise BadInput(f"{options.output}: is a folder; give the bundle a file name with -o")
    if options.pretrained is not None and not options.pretrained.is_file():
        raise BadInput(f"{options.pretrained}: no such checkpoint")
    target = find_target(options.target)
    formats = []
    for name in options.formats or FORMATS:
        module, extra = _NEEDS[name]
        if name not in target.formats:
            note(f"left out .{name}: no engine of target {target.name} reads it")
        elif importlib.util.find_spec(module) is None:
            advice = f".{name} needs {module}: pip install '{extra}'"
            if options.formats is not None or name == "pte":
                raise MissingDependency(advice)
            note(f"left out {advice}")
        else:
            formats.append(name)
    return tuple(formats)
