"""A variant of a model version: one file that some devices can run, and what TUF's targets metadata say of it.

The server writes these facts into `custom` of a target (TUF specification 1.0.33, section 4.5), and a device reads them
nowhere else: what they say is signed with the targets key. TUF's canonical JSON has no fractions, so shares are decimal
text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.runtime.errors import BadFile, BadInput
from edge.runtime.fields import Fields, integer, text
from edge.runtime.manifest import DTYPES, ENGINES, MAX_FILE_BYTES, check_name

KINDS = ("bundle", "program", "image")
"""A `.edge` bundle; a bare `.pte` for a board's model slot; a board's slot image, as `edge firmware` makes it."""

SUFFIXES = {"bundle": ".edge", "program": ".pte", "image": ".bin"}
MAX_VARIANT_BYTES = 1 << 31
MAX_CUSTOM_TENSORS = 16
MAX_OPERATORS = 256
OPERATOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.]{0,99}")
ENGINE_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}((a|b|rc|\.dev)[0-9]{1,9})?")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
_VARIANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARE = re.compile(r"[01](\.[0-9]{1,9})?")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}/[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}/[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Blob:
    """Bytes in the server's store: lower-case hexadecimal SHA-256, and how many there are."""

    sha256: str
    length: int


@dataclass(frozen=True)
class Tensor:
    """An input or output: NumPy dtype name and shape, batch axis included."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """One file of a model version.

    Attributes:
        model, version: as in the bundle's manifest, or as the operator named the version.
        name: of the variant, unique within the version: "bundle", "pte", "cortex-m4", …
        sequence: grows with each version of the model; a device never goes back by itself.
        kind: one of `KINDS`.
        blob: the file.
        target: class of machine as in `edge targets`, or "generic".
        board: the only board that it is for; None for any of the target.
        abi: version of the programs that a board's core must run; None where there is no board.
        engines: of which a device needs one.
        runtimes: the least version of engines that it needs, where it does: {"core": "0.2.0"}.
        operators: that its program calls, where a board's firmware must have them; empty on Linux, and if unknown.
        arena_bytes: memory that the program plans for activations; None if unknown before it runs.
        ram_bytes: memory that running it takes at least, in bytes.
        macs: multiply-accumulates of one run; None if unknown.
        accuracy: on held-out samples, 0 to 1; None if it was not measured.
        task: as in the manifest.
        inputs, outputs: what goes in and comes out.
        gate: what must hold on the device's own inputs before it is activated, as `edge.fleet.gates` reads it; or "".
        reference: the `.npz` of inputs and expected outputs of a file that is no bundle; a bundle holds its own.
    """

    model: str
    version: str
    name: str
    sequence: int
    kind: str
    blob: Blob
    target: str = "generic"
    board: str | None = None
    abi: int | None = None
    engines: tuple[str, ...] = ()
    arena_bytes: int | None = None
    ram_bytes: int = 0
    macs: int | None = None
    accuracy: float | None = None
    task: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    gate: str = ""
    reference: Blob | None = None
    runtimes: Mapping[str, str] = field(default_factory=dict)
    operators: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its target path in the TUF repository: model/version/variant.suffix."""
        return f"{self.model}/{self.version}/{self.name}{SUFFIXES[self.kind]}"

    def to_custom(self) -> dict[str, Any]:
        """The `custom` of its target."""
        return {
            "model": self.model,
            "version": self.version,
            "variant": self.name,
            "sequence": self.sequence,
            "kind": self.kind,
            "target": self.target,
            "board": self.board,
            "abi": self.abi,
            "engines": list(self.engines),
            "arena_bytes": self.arena_bytes,
            "ram_bytes": self.ram_bytes,
            "macs": self.macs,
            "accuracy": None if self.accuracy is None else f"{self.accuracy:.6f}",
            "task": self.task,
            "inputs": [{"dtype": spec.dtype, "shape": list(spec.shape)} for spec in self.inputs],
            "outputs": [{"dtype": spec.dtype, "shape": list(spec.shape)} for spec in self.outputs],
            "gate": self.gate,
            "reference": None
            if self.reference is None
            else {"sha256": self.reference.sha256, "length": self.reference.length},
            "runtimes": dict(self.runtimes),
            "operators": list(self.operators),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values: `custom`, and the file."""
        return {**self.to_custom(), "sha256": self.blob.sha256, "length": self.blob.length, "path": self.path}

    @classmethod
    def from_dict(cls, value: object) -> Variant:
        """What `to_dict` gave.

        Raises:
            BadFile: a field is wrong; the message names it.
        """
        if not isinstance(value, dict):
            raise BadFile("variant: expected an object")
        left = dict(value)
        path, sha256, length = left.pop("path", None), left.pop("sha256", None), left.pop("length", None)
        return cls.from_target(str(path), {"length": length, "hashes": {"sha256": sha256}, "custom": left})

    @classmethod
    def from_target(cls, path: str, target: Mapping[str, Any]) -> Variant:
        """Reads a target of verified targets metadata.

        Fields that this version does not know are passed over: the metadata of a newer server must not stop a device.

        Raises:
            BadFile: a field is missing or wrong, or the path is not the one that the facts call for.
        """
        where = f"target {path[:200]!r}"
        if not _PATH.fullmatch(path):
            raise BadFile(f"{where}: expected model/version/variant.suffix")
        hashes = target.get("hashes")
        if not isinstance(hashes, dict):
            raise BadFile(f"{where}: has no hashes")
        blob = Blob(
            text(hashes.get("sha256"), f"{where}.sha256", 64, _SHA256),
            integer(target.get("length"), f"{where}.length", 1, MAX_VARIANT_BYTES),
        )
        custom = target.get("custom")
        # What an older edge published has neither.
        defaults: dict[str, Any] = {"runtimes": {}, "operators": []}
        record = Fields({**defaults, **custom} if isinstance(custom, dict) else custom, f"{where}.custom")
        board, accuracy, reference = record.raw("board"), record.raw("accuracy"), record.raw("reference")
        made = cls(
            model=record.text("model", 100, _NAME),
            version=record.text("version", 100, _NAME),
            name=record.text("variant", 60, _VARIANT),
            sequence=record.integer("sequence", 1, 1 << 53),
            kind=record.choice("kind", KINDS),
            blob=blob,
            target=record.text("target", 60, _VARIANT),
            board=None if board is None else text(board, f"{where}.board", 60, _VARIANT),
            abi=record.optional_integer("abi", 0, 1 << 31),
            engines=record.items("engines", len(ENGINES), lambda value, at: text(value, at, 40, _VARIANT)),
            arena_bytes=record.optional_integer("arena_bytes", 0, 1 << 40),
            ram_bytes=record.integer("ram_bytes", 0, 1 << 40),
            macs=record.optional_integer("macs", 0, 1 << 60),
            accuracy=None if accuracy is None else float(text(accuracy, f"{where}.accuracy", 12, _SHARE)),
            task=record.text("task", 64),
            inputs=record.items("inputs", MAX_CUSTOM_TENSORS, _read_tensor),
            outputs=record.items("outputs", MAX_CUSTOM_TENSORS, _read_tensor),
            gate=record.text("gate", 300),
            reference=None if reference is None else _read_blob(reference, f"{where}.reference"),
            runtimes=record.table("runtimes", len(ENGINES), lambda value, at: text(value, at, 40, ENGINE_VERSION)),
            operators=record.items("operators", MAX_OPERATORS, lambda value, at: text(value, at, 100, OPERATOR)),
        )
        for engine in made.runtimes:
            if engine not in ENGINES:
                raise BadFile(f"{where}.custom.runtimes: {engine[:40]!r} is no engine: {', '.join(ENGINES)}")
        if made.path != path:
            raise BadFile(f"{where}: its facts are those of {made.path!r}")
        return made


def check_variant_name(name: str, where: str) -> None:
    """Checks what names a variant, a target or a board.

    Raises:
        BadInput: it begins with `where`.
    """
    if not _VARIANT.fullmatch(name):
        raise BadInput(f"{where}: {name[:60]!r}: expected lower-case letters, digits and . _ -, at most 60")


def check_model_version(model: str, version: str) -> None:
    """Checks a model's name and version.

    Raises:
        BadInput: saying which is wrong.
    """
    check_name(model, "model")
    check_name(version, "version")


def _read_blob(value: object, where: str) -> Blob:
    record = Fields(value, where)
    return Blob(record.text("sha256", 64, _SHA256), record.integer("length", 1, MAX_FILE_BYTES))


def _read_tensor(value: object, where: str) -> Tensor:
    record = Fields(value, where)
    return Tensor(
        record.choice("dtype", DTYPES),
        record.items("shape", 8, lambda size, at: integer(size, at, 1, 1 << 31)),
    )
