"""The manifest of a bundle: what the model takes and gives, its files, its quantization and what was measured.

Every field is described in docs/manifest.md. Reading is strict: what this version does not know, it refuses.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from edge.runtime.errors import BadFile, BadInput
from edge.runtime.fields import Fields, integer, kind_of, number, shown, text
from edge.runtime.record import Record
from edge.runtime.strict_json import parse_json

if TYPE_CHECKING:
    from edge.runtime.preprocess import Preprocess

SCHEMA = 1

# Larger than any manifest we write (a CCT-14 comes to 40 kB), small enough to parse anywhere.
MAX_MANIFEST_BYTES = 1 << 20
MAX_DEPTH = 12
MAX_FILE_BYTES = 1 << 29
MAX_FILES = 64
MAX_LABELS = 100_000
MAX_LICENSE = 200

DTYPES = ("float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
ENGINES = ("core", "executorch", "litert", "onnx")
# Which of them read which file of a bundle.
FORMAT_ENGINES: dict[str, tuple[str, ...]] = {
    "pte": ("core", "executorch"),
    "tflite": ("litert",),
    "onnx": ("onnx",),
}

# `Metrics` has a field of the type's name.
_Float: TypeAlias = float

# One path segment: letters, digits, and . _ - inside it. Such a name means the same on every file system.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?(Z|[+-][0-9]{2}:[0-9]{2})")
# Names that Windows gives to devices, with any extension.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_name(value: str, where: str) -> None:
    """Checks a text for the manifest's `name` or `version`.

    Raises:
        BadInput: it begins with `where`, what the writer of the text calls it.
    """
    if not _NAME.fullmatch(value):
        raise BadInput(
            f"{where}: {shown(value)}: expected 1 to 100 letters, digits and . _ + -, the first a letter, digit or _"
        )


def check_license(value: str, where: str) -> None:
    """Checks a text for the manifest's `license`; errors as `check_name`."""
    try:
        text(value, where, MAX_LICENSE)
    except BadFile as error:
        raise BadInput(f"{error}: give an SPDX identifier, as Apache-2.0") from None


class TensorSpec(Record):
    """A tensor that goes in or comes out: NumPy dtype name and fixed shape, batch axis included."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class InputSpec(TensorSpec):
    """An input, and how `Model.predict` makes it from an image, a recording or an array."""

    preprocess: Preprocess | None = None


class FileEntry(Record):
    """One file of the bundle.

    Args:
        engines: backends that run it ("core", "executorch", "litert", "onnx"); empty for data.
        sha256: lower-case hexadecimal.
        bytes: uncompressed size.
        arena_bytes: memory for activations that the program plans, where that is known before it runs.
        macs: multiply-accumulates of one run.
        ops: how often each operator occurs.
    """

    engines: tuple[str, ...]
    sha256: str
    bytes: int
    arena_bytes: int | None = None
    macs: int | None = None
    ops: Mapping[str, int] = {}


class LayerRecord(Record):
    """A layer with weights: `kind` as "linear" or "conv2d", `bits` a weight, `bytes` as stored, zeros as a share."""

    name: str
    kind: str
    bits: float
    shape: tuple[int, ...]
    bytes: int
    zero_fraction: float
    macs: int


class Quantization(Record):
    """How the weights were quantized: `bits` (1.58, 2, 4, 8 or 32), `measure`, `conv` and `norm`, as `QuantConfig`."""

    bits: float
    measure: str
    conv: str
    norm: bool
    layers: tuple[LayerRecord, ...] = ()


class EngineMetric(Record):
    """What one engine reached with the exported file on `samples` held-out samples.

    `agreement` is the share of samples with torch's top-1, `max_abs_error` the largest difference of any output.
    """

    file: str
    value: float
    agreement: float
    max_abs_error: float
    samples: int


class Metrics(Record):
    """`metric` (such as "accuracy", 0..1): `torch` and its unquantized twin `float` on `samples` held-out samples."""

    metric: str
    samples: int
    torch: _Float
    float: _Float | None
    engines: Mapping[str, EngineMetric] = {}


class Manifest(Record):
    """See docs/manifest.md for each field.

    Raises:
        BadInput: on construction, if the parts contradict each other (a metric for a file that is not listed, labels
            that do not match the output, a preprocessing that gives another shape than the input's).
    """

    name: str
    version: str
    task: str
    created: str
    license: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, FileEntry]
    labels: tuple[str, ...] = ()
    generator: Mapping[str, str] = {}
    quantization: Quantization | None = None
    metrics: Metrics | None = None
    training: Mapping[str, Any] = {}
    reference: str | None = None

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise BadInput("inputs, outputs: a model has at least one of each")
        for index, spec in enumerate(self.inputs):
            if spec.preprocess is None:
                continue
            given = spec.preprocess.input_shape
            if spec.dtype != "float32" or given != spec.shape:
                raise BadInput(
                    f"inputs[{index}]: its preprocessing gives float32 {list(given)}, "
                    f"the input is {spec.dtype} {list(spec.shape)}"
                )
        if self.labels:
            classes = self.outputs[0].shape[-1] if self.outputs[0].shape else 1
            if classes != len(self.labels):
                raise BadInput(f"labels: {len(self.labels)} labels for an output of {classes} classes")
            if len(set(self.labels)) != len(self.labels):
                raise BadInput("labels: a label occurs twice")
        if len({name.lower() for name in self.files}) != len(self.files):
            raise BadInput("files: two names differ only in case")
        if self.metrics is not None:
            for engine, metric in self.metrics.engines.items():
                if metric.file not in self.files or engine not in self.files[metric.file].engines:
                    raise BadInput(f"metrics.engines.{engine}: file {metric.file!r} is not listed for that engine")
        if self.reference is not None and self.reference not in self.files:
            raise BadInput(f"reference: {self.reference!r} is not among the files")

    def files_for(self, engine: str) -> list[str]:
        """Names of the files that `engine` runs, in the manifest's order."""
        return [name for name, entry in self.files.items() if engine in entry.engines]

    def to_json(self) -> str:
        """The manifest as indented JSON, readable by `from_json`.

        Raises:
            BadInput: a value that `from_json` would refuse, named; nothing invalid is ever written.
        """
        try:
            written = json.dumps(self._to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
            Manifest.from_json(written)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"manifest: cannot be written as JSON: {error}") from None
        except BadFile as error:
            raise BadInput(str(error)) from None
        return written

    @classmethod
    def from_json(cls, data: str | bytes) -> Manifest:
        """Reads and checks a manifest.

        Raises:
            BadFile: not JSON, too large or too deep, another schema, an unknown or missing field, a wrong type or
                range, or parts that contradict each other; the message names the field.
        """
        record = Fields(parse_json(data, "manifest.json", MAX_MANIFEST_BYTES, MAX_DEPTH), "manifest.json")
        schema = record.raw("schema")
        if isinstance(schema, bool) or not isinstance(schema, int):
            raise record.fail("schema", f"expected the integer {SCHEMA}, found {kind_of(schema)}")
        if schema != SCHEMA:
            advice = "update edge-deploy" if schema > SCHEMA else "export the model again"
            raise record.fail("schema", f"this version reads schema {SCHEMA}, the bundle has {shown(schema)}: {advice}")
        try:
            made = cls(
                name=record.text("name", 100, _NAME),
                version=record.text("version", 100, _NAME),
                task=record.text("task", 64, _TASK),
                created=record.text("created", 40, _CREATED),
                license=record.text("license", MAX_LICENSE),
                generator=record.table("generator", 32, lambda value, at: text(value, at, 200)),
                inputs=record.items("inputs", 64, _read_input),
                outputs=record.items("outputs", 64, _read_output),
                labels=record.items("labels", MAX_LABELS, lambda value, at: text(value, at, 200)),
                files=_read_files(record),
                quantization=_optional(record, "quantization", _read_quantization),
                metrics=_optional(record, "metrics", _read_metrics),
                training=_read_training(record),
                reference=_optional(record, "reference", _read_file_name),
            )
        except BadInput as error:
            raise BadFile(f"manifest.json: {error}") from None
        record.done()
        return made

    def _to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "task": self.task,
            "created": self.created,
            "license": self.license,
            "generator": dict(self.generator),
            "inputs": [
                {**_plain(spec), "preprocess": spec.preprocess.to_dict() if spec.preprocess else None}
                for spec in self.inputs
            ],
            "outputs": [_plain(spec) for spec in self.outputs],
            "labels": list(self.labels),
            "files": {name: _plain(entry) for name, entry in self.files.items()},
            "quantization": None
            if self.quantization is None
            else {**_plain(self.quantization), "layers": [_plain(layer) for layer in self.quantization.layers]},
            "metrics": None
            if self.metrics is None
            else {
                **_plain(self.metrics),
                "engines": {engine: _plain(metric) for engine, metric in self.metrics.engines.items()},
            },
            "training": dict(self.training),
            "reference": self.reference,
        }


def _plain(record: Any) -> dict[str, Any]:
    """A flat record as JSON values; nested records are written over it by the caller."""
    made: dict[str, Any] = {}
    for key, value in vars(record).items():
        if isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        made[key] = value
    return made


def _optional(record: Fields, name: str, read: Any) -> Any:
    value = record.raw(name)
    return None if value is None else read(value, f"{record.where}.{name}")


def _shape(record: Fields) -> tuple[int, ...]:
    shape = record.items("shape", 8, lambda value, at: integer(value, at, 1, 1 << 31))
    if math.prod(shape) > 1 << 31:
        raise record.fail("shape", "holds more than 2^31 values")
    return shape


def _read_output(value: object, where: str) -> TensorSpec:
    record = Fields(value, where)
    made = TensorSpec(record.text("name", 200), record.choice("dtype", DTYPES), _shape(record))
    record.done()
    return made


def _read_input(value: object, where: str) -> InputSpec:
    record = Fields(value, where)
    made = InputSpec(
        record.text("name", 200),
        record.choice("dtype", DTYPES),
        _shape(record),
        _optional(record, "preprocess", _read_preprocess),
    )
    record.done()
    return made


def _read_preprocess(value: object, where: str) -> Preprocess:
    from edge.runtime.preprocess import preprocess_from_dict  # many models have none

    return preprocess_from_dict(value, where)


def check_file_name(name: str) -> str | None:
    """What is wrong with a file name in a bundle, or None."""
    if not FILE_NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name):
        return "expected letters, digits, dots, dashes and underscores, without folders"
    if name == "manifest.json":
        return "the manifest does not list itself"
    return None


def _read_file_name(value: object, where: str) -> str:
    name = text(value, where, 100)
    problem = check_file_name(name)
    if problem:
        raise BadFile(f"{where}: {shown(name)}: {problem}")
    return name


def _read_files(record: Fields) -> dict[str, FileEntry]:
    files = record.table("files", MAX_FILES, _read_file)
    if not files:
        raise record.fail("files", "is empty: a bundle holds at least one file")
    for name in files:
        _read_file_name(name, f"{record.where}.files")
    return files


def _read_file(value: object, where: str) -> FileEntry:
    record = Fields(value, where)
    made = FileEntry(
        engines=record.items("engines", len(ENGINES), _read_engine),
        sha256=record.text("sha256", 64, _SHA256),
        bytes=record.integer("bytes", 0, MAX_FILE_BYTES),
        arena_bytes=record.optional_integer("arena_bytes", 0, 1 << 40),
        macs=record.optional_integer("macs", 0, 1 << 60),
        ops=record.table("ops", 1000, lambda count, at: integer(count, at, 0, 1 << 31)),
    )
    for name in made.ops:
        text(name, f"{where}.ops", 200)
    record.done()
    return made


def _read_engine(value: object, where: str) -> str:
    if not isinstance(value, str) or value not in ENGINES:
        raise BadFile(f"{where}: expected one of {', '.join(ENGINES)}; found {shown(value)}")
    return value


def _read_quantization(value: object, where: str) -> Quantization:
    record = Fields(value, where)
    made = Quantization(
        bits=record.number("bits", 1, 64),
        measure=record.text("measure", 40),
        conv=record.text("conv", 40),
        norm=record.boolean("norm"),
        layers=record.items("layers", 10_000, _read_layer),
    )
    record.done()
    return made


def _read_layer(value: object, where: str) -> LayerRecord:
    record = Fields(value, where)
    made = LayerRecord(
        name=record.text("name", 300),
        kind=record.text("kind", 60),
        bits=record.number("bits", 1, 64),
        shape=_shape(record),
        bytes=record.integer("bytes", 0, MAX_FILE_BYTES),
        zero_fraction=record.number("zero_fraction", 0, 1),
        macs=record.integer("macs", 0, 1 << 60),
    )
    record.done()
    return made


def _read_metrics(value: object, where: str) -> Metrics:
    record = Fields(value, where)
    made = Metrics(
        metric=record.text("metric", 60),
        samples=record.integer("samples", 0, 1 << 40),
        torch=record.number("torch", -1e30, 1e30),
        float=record.optional_number("float", -1e30, 1e30),
        engines=record.table("engines", len(ENGINES), _read_metric),
    )
    for engine in made.engines:
        _read_engine(engine, f"{where}.engines")
    record.done()
    return made


def _read_metric(value: object, where: str) -> EngineMetric:
    record = Fields(value, where)
    made = EngineMetric(
        file=_read_file_name(record.raw("file"), f"{where}.file"),
        value=record.number("value", -1e30, 1e30),
        agreement=record.number("agreement", 0, 1),
        max_abs_error=record.number("max_abs_error", 0, 1e30),
        samples=record.integer("samples", 0, 1 << 40),
    )
    record.done()
    return made


def _read_training(record: Fields) -> dict[str, Any]:
    """Free JSON: size and depth are bounded already, and its numbers are finite but for overflow such as 1e999."""
    training = record.raw("training")
    if not isinstance(training, dict):
        raise record.fail("training", f"expected an object, found {kind_of(training)}")
    pending: list[Any] = [training]
    while pending:
        value = pending.pop()
        if isinstance(value, float):
            number(value, f"{record.where}.training", -math.inf, math.inf)
        elif isinstance(value, (dict, list)):
            pending.extend(value.values() if isinstance(value, dict) else value)
    return training
