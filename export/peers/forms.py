"""What is compared: an architecture, and the forms in which each engine's own toolchain delivers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edge.export.models import ModelSpec
from edge.export.models.registry import find
from edge.runtime.errors import BadInput
from edge.runtime.manifest import Manifest


@dataclass(frozen=True)
class Form:
    """A model file of one engine.

    Attributes:
        engine: the backend that runs it.
        name: how the model is stored and computed, as "int8 static".
        toolchain: the module of this package that makes it.
    """

    engine: str
    name: str
    toolchain: str

    @property
    def title(self) -> str:
        """As "executorch int8 static"."""
        return f"{self.engine} {self.name}"

    @property
    def file(self) -> str:
        """Name of the file, as "int8-static.pte"."""
        return f"{self.name.replace(' ', '-')}.{_SUFFIX[self.engine]}"


_SUFFIX = {"core": "pte", "executorch": "pte", "litert": "tflite", "onnx": "onnx"}

# "dynamic": weights quantized, activations quantized as they come; "static": activations by calibration.
PEERS = {
    engine: tuple(Form(engine, name, engine) for name in names)
    for engine, names in {
        "executorch": ("fp32", "int8 dynamic", "int8 static", "int4 dynamic"),
        "litert": ("fp32", "int8 dynamic", "int8 static", "int4 dynamic", "int2 dynamic"),
        "onnx": ("fp32", "int8 dynamic", "int8 static", "int4 dynamic"),
    }.items()
}
"""The forms of each engine. Where two settings compete (static or dynamic), both are made and the faster one counts."""

TERNARY = {engine: Form(engine, "1.58 bits", "ternary") for engine in ("core", "litert", "onnx")}
"""What our own export makes of an untrained model: for a benchmark that has no bundle."""

INT8_ATTENTION = Form("core", "1.58 bits int8 attention", "ternary")
"""The same by `edge export --attention int8`."""

# What a file depends on beside the architecture.
_PACKAGES = {
    "executorch": ("executorch", "torch", "torchao"),
    "litert": ("litert-torch", "ai-edge-quantizer", "torch"),
    "onnx": ("onnx", "onnxruntime", "onnxscript", "torch"),
    "ternary": ("executorch", "litert-torch", "onnx", "onnxscript", "torch"),
}


@dataclass(frozen=True)
class Architecture:
    """A model without its trained weights; those are drawn anew, as time does not depend on them.

    Attributes:
        source: as in `ModelSpec`: a name from `edge models`, or "path/to/file.py:factory".
        kwargs: of the factory.
        input_shape: batch included; float32.
        norm: whether our own form normalizes the input of each linear layer, as `edge export` has it.
    """

    source: str
    kwargs: dict[str, Any]
    input_shape: tuple[int, ...]
    norm: bool = True

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.from_dict({"source": self.source, "kwargs": self.kwargs})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `Architecture(**values)` reads it back."""
        return asdict(self)

    def key(self, toolchain: str) -> str:
        """Hash of all that decides what a toolchain makes of it, the user's and our own sources included."""
        digest = hashlib.sha256(json.dumps([self.to_dict(), toolchain], sort_keys=True, default=list).encode())
        export = Path(__file__).parents[1]
        sources = [export / "peers" / "worker.py", export / "peers" / f"{toolchain}.py", export / "ops.py"]
        for folder in ("models", "lower", "quantize") if toolchain == "ternary" else ("models",):
            sources += sorted((export / folder).glob("*.py"))
        path, colon, _ = self.source.rpartition(":")
        if colon:
            sources.append(Path(path).expanduser())
        for source in sources:
            if source.is_file():
                digest.update(source.read_bytes())
        for package in _PACKAGES[toolchain]:
            digest.update(f"{package} {_version(package)}".encode())
        return digest.hexdigest()[:20]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def architecture_of(manifest: Manifest, where: str, source: str | None = None) -> Architecture:
    """The architecture that a bundle was exported from.

    A bundle may come from anywhere, so what it says is not run: a file is run only if the caller names it.

    Args:
        manifest: of the bundle.
        where: the bundle's path, for messages.
        source: "path/to/file.py:factory", where the model is the user's own.

    Raises:
        BadInput: the manifest does not say, it names a file and `source` is None, or the model takes anything but one
            float32 array.
    """
    recorded = manifest.training.get("model")
    name = recorded.get("source") if isinstance(recorded, dict) else None
    if source is None:
        if not isinstance(name, str):
            raise BadInput(f"{where}: its manifest does not say what model it is: name it with --model")
        if find(name) is None:
            raise BadInput(
                f"{where}: its model is {name!r}, and a file that a bundle names is not run unasked: "
                f"if you trust it, add --model {name}"
            )
    if len(manifest.inputs) != 1 or manifest.inputs[0].dtype != "float32" or len(manifest.outputs) != 1:
        raise BadInput(f"{where}: peers are made of models with one float32 input and one output")
    shape = manifest.inputs[0].shape
    kwargs = {"num_classes": manifest.outputs[0].shape[-1], "input_shape": list(shape[1:])}
    return Architecture(source or str(name), kwargs, shape)


def select(engines: Sequence[str]) -> list[Form]:
    """All forms of the engines named."""
    return [form for engine in engines for form in PEERS[engine]]
