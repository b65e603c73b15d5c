"""What semantics knows of a device and of a model: typed facts, read strictly from the registry's JSON.

Every text here ends in RDF, in SPARQL and on terminals, so lengths, counts and characters are bounded as it is read;
the writers escape it once more. Sizes are bytes; "KB" in an inventory is 1,024 of them, as chip makers count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from edge.runtime.errors import BadFile
from edge.runtime.fields import integer, kind_of, shown, text
from edge.runtime.manifest import ENGINES, Manifest

MAX_ITEMS = 64
MAX_MODELS = 256
MAX_OURS = 1_024  # labels and groups, which the operator adds to the device's own
MAX_TEXT = 200
MAX_KB = 1 << 42  # 4 TB, in KB: more than any device, and its bytes fit 64 bits

KINDS = ("linux", "microcontroller")
DTYPES = ("float32", "float16", "int16", "int8", "int4", "int2", "ternary")

# What each runtime computes with, where the inventory does not say (a firmware that links fewer kernels says so).
_RUNTIME_DTYPES: Mapping[str, tuple[str, ...]] = {
    "core": ("float32", "int8", "int4", "int2", "ternary"),
    "executorch": ("float32", "int8", "int4", "int2", "ternary"),
    "litert": ("float32", "float16", "int16", "int8", "int4", "int2", "ternary"),
    "onnx": ("float32", "float16", "int8", "int4", "int2", "ternary"),
}
_BITS_DTYPE = {1.58: "ternary", 2.0: "int2", 4.0: "int4", 8.0: "int8", 32.0: "float32"}
# What runs which kind of file: a bundle Linux, a program or a slot image a board's firmware.
_KIND_OF_FILE = {"bundle": "linux", "program": "microcontroller", "image": "microcontroller"}
_SENSOR_OF_PREPROCESS = {"audio": "microphone", "image": "camera"}

# Deviating names of the same thing, in inventories and filters: the word on the right is the one that is kept.
_SENSOR_NAMES = {"mic": "microphone", "temperature": "thermometer"}

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WORD = re.compile(r"[^\x00-\x1f\x7f]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HeldModel:
    """A model on a device; `active` if it is the one that runs."""

    name: str
    version: str
    active: bool


@dataclass(frozen=True)
class DeviceFacts:
    """A device as its inventory says. None and empty mean that the inventory does not say.

    Attributes:
        ram, flash: bytes.
        runtimes: version by name, as {"core": "0.1.0"}.
        operators: what its runtime links, by operator name; None: all that the runtime's version has.
    """

    id: str
    kind: str | None = None
    arch: str | None = None
    cpu: str | None = None
    cores: int | None = None
    ram: int | None = None
    flash: int | None = None
    os: str | None = None
    board: str | None = None
    target: str | None = None
    features: frozenset[str] = frozenset()
    sensors: frozenset[str] = frozenset()
    boards: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    gateway: str | None = None
    runtimes: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    models: tuple[HeldModel, ...] = ()
    dtypes: frozenset[str] = frozenset()
    operators: frozenset[str] | None = None

    @classmethod
    def from_body(cls, device: str, body: Mapping[str, Any]) -> DeviceFacts:
        """Reads what the registry says of a device: its inventory, the operator's labels and groups, its gateway.

        Raises:
            BadFile: as `from_inventory`.
        """
        inventory, labels = body.get("inventory"), body.get("labels")
        if labels and isinstance(inventory, dict) and isinstance(labels, dict):
            own = inventory.get("labels")
            inventory = {**inventory, "labels": {**(own if isinstance(own, dict) else {}), **labels}}
        made = cls.from_inventory(device, inventory)
        read = _Reader(body, f"device {device!r}")
        groups, gateway = read.words("groups", MAX_OURS), read.word("gateway")
        return replace(made, groups=groups or frozenset(), gateway=gateway) if groups or gateway else made

    @classmethod
    def from_inventory(cls, device: str, inventory: object) -> DeviceFacts:
        """Reads the inventory of the device `device`; fields that semantics does not use are left alone.

        Raises:
            BadFile: naming the field, if one that it uses has another type or size than it may.
        """
        where = f"device {device[:MAX_TEXT]!r}"
        if not ID.fullmatch(device):
            raise BadFile(f"{where}: an id has letters, digits and . _ -, at most 100")
        if not isinstance(inventory, dict):
            raise BadFile(f"{where}: expected an object, found {kind_of(inventory)}")
        read = _Reader(inventory, where)
        runtimes = read.words_by_name("runtimes")
        if any(":" in name for name in runtimes):
            raise BadFile(f"{where}.runtimes: {shown(list(runtimes))}: a runtime's name has no colon")
        dtypes = read.words("dtypes") or _dtypes_of(tuple(runtimes))
        kind = read.word("kind")
        if kind is not None and kind not in KINDS:
            raise BadFile(f"{where}.kind: expected one of {', '.join(KINDS)}; found {shown(kind)}")
        ram, flash = read.number("ram_kb"), read.number("flash_kb")
        return cls(
            id=device,
            kind=kind,
            arch=read.word("arch"),
            cpu=read.word("cpu"),
            cores=read.number("cores"),
            ram=ram * 1024 if ram else None,  # 0: the device does not know
            flash=flash * 1024 if flash else None,
            os=read.word("os"),
            board=read.word("board"),
            target=read.word("target"),
            features=read.words("features") or frozenset(),
            sensors=_sensors(read.words("sensors") or frozenset()),
            boards=read.words("boards") or frozenset(),
            runtimes=runtimes,
            labels=read.words_by_name("labels", MAX_OURS),
            models=read.models(),
            dtypes=dtypes,
            operators=read.words("operators") or None,  # none at all: it does not say
        )


@dataclass(frozen=True)
class Variant:
    """One published file of a model and what it needs of a device.

    Attributes:
        file: its name.
        engines: runtimes that run it; one is enough.
        runtimes: the least version of each runtime that runs it, where there is one.
        flash: bytes of the file.
        arena: bytes that it plans for activations; None where that is not known before it runs.
        ram: bytes that running it on Linux takes at least; None: arena and file.
        kind, arch, target, board: what it was made for; None: for any.
        abi: of the programs that a board's core must run.
    """

    file: str
    engines: tuple[str, ...]
    flash: int
    dtype: str
    arena: int | None = None
    ram: int | None = None
    sha256: str = ""
    operators: frozenset[str] = frozenset()
    runtimes: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    arch: str | None = None
    target: str | None = None
    board: str | None = None
    abi: int | None = None

    @property
    def least_ram(self) -> int | None:
        """Bytes of RAM without which it runs nowhere; None if unknown."""
        return self.arena if self.arena is not None else self.ram


@dataclass(frozen=True)
class ModelFacts:
    """A published model: its manifest, the sensors it listens to, and its variants."""

    manifest: Manifest
    variants: tuple[Variant, ...]
    sensors: frozenset[str]

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def key(self) -> str:
        """Name and version, as filters write it: "kws:2.1"."""
        return f"{self.name}:{self.version}"

    @classmethod
    def from_manifest(cls, manifest: Manifest, variants: Iterable[Variant] | None = None) -> ModelFacts:
        """The facts of a manifest; without `variants`, every file with an engine is one."""
        sensors = frozenset(
            sensor
            for spec in manifest.inputs
            if spec.preprocess is not None
            and (sensor := _SENSOR_OF_PREPROCESS.get(str(spec.preprocess.to_dict()["kind"])))
        )
        return cls(manifest, tuple(_derived(manifest) if variants is None else variants), sensors)

    @classmethod
    def from_published(cls, published: object) -> ModelFacts:
        """Reads what the registry holds of a model: {"name", "version", "manifest": {…}, "variants": […]}.

        A manifest alone will do; name and version beside it come before its own (`publish --version`).

        Raises:
            BadFile: naming the field that is wrong.
        """
        import json

        if not isinstance(published, dict):
            raise BadFile(f"model: expected an object, found {kind_of(published)}")
        body = published.get("manifest", published)
        manifest = Manifest.from_json(body if isinstance(body, str) else json.dumps(body))
        if body is not published:
            given = {key: published[key] for key in ("name", "version") if isinstance(published.get(key), str)}
            for key, value in given.items():
                text(value, f"model.{key}", 100, _NAME)
            manifest = replace(manifest, **given)
        listed = published.get("variants") if body is not published else None
        if listed is None:
            return cls.from_manifest(manifest)
        where = f"model {manifest.name}:{manifest.version}"
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_ITEMS:
            raise BadFile(f"{where}.variants: expected a list of 1 to {MAX_ITEMS}, found {shown(listed)}")
        return cls.from_manifest(
            manifest, [_variant(each, manifest, f"{where}.variants[{at}]") for at, each in enumerate(listed)]
        )


def sensor_name(name: str) -> str:
    """One name for each kind of sensor, lower case: "Mic" -> "microphone"."""
    lower = name.lower()
    return _SENSOR_NAMES.get(lower, lower)


def operator_name(name: str) -> str:
    """An operator's full name, for which people leave the overload out: "edge::conv2d" -> "edge::conv2d.out"."""
    return name if "." in name else f"{name}.out"


@lru_cache(1024)
def _dtypes_of(runtimes: tuple[str, ...]) -> frozenset[str]:
    return frozenset(dtype for name in runtimes for dtype in _RUNTIME_DTYPES.get(name, ()))


def _derived(manifest: Manifest) -> Iterable[Variant]:
    bits = manifest.quantization.bits if manifest.quantization else 32.0
    for name, entry in manifest.files.items():
        if entry.engines:
            yield Variant(
                file=name,
                engines=entry.engines,
                flash=entry.bytes,
                dtype=_BITS_DTYPE.get(bits, "float32"),
                arena=entry.arena_bytes,
                sha256=entry.sha256,
                operators=frozenset(entry.ops),
            )


def _variant(value: object, manifest: Manifest, where: str) -> Variant:
    """Reads a published variant, as `edge.fleet.variant` writes it; dtype and operators are the manifest's."""
    if not isinstance(value, dict):
        raise BadFile(f"{where}: expected an object, found {kind_of(value)}")
    read = _Reader(value, where)
    engines = value.get("engines")
    if not isinstance(engines, list) or any(engine not in ENGINES for engine in engines):
        raise BadFile(f"{where}.engines: expected a list of {', '.join(ENGINES)}; found {shown(engines)}")
    file, kind, flash = read.word("path"), read.word("kind"), read.number("length")
    if file is None or flash is None:
        raise BadFile(f"{where}: field {'path' if file is None else 'length'!r} is missing")
    if kind not in _KIND_OF_FILE:
        raise BadFile(f"{where}.kind: expected one of {', '.join(_KIND_OF_FILE)}; found {shown(kind)}")
    sha256 = read.word("sha256") or ""
    if sha256 and not _SHA256.fullmatch(sha256):
        raise BadFile(f"{where}.sha256: {shown(sha256)} is not 64 lower-case hexadecimal digits")
    target = read.word("target")
    # A board's firmware links operators; on Linux a runtime has them all.
    core = [entry for entry in manifest.files.values() if "core" in entry.engines]
    called = frozenset(core[0].ops) if core and kind != "bundle" else frozenset[str]()
    bits = manifest.quantization.bits if manifest.quantization else 32.0
    return Variant(
        file=file.rpartition("/")[2],
        engines=tuple(engines),
        flash=flash,
        dtype=_BITS_DTYPE.get(bits, "float32"),
        arena=read.number("arena_bytes"),
        ram=read.number("ram_bytes") or None,
        sha256=sha256,
        operators=read.words("operators") or called,
        runtimes=read.words_by_name("runtimes"),
        kind=_KIND_OF_FILE[kind],
        arch=read.word("arch"),
        target=None if target == "generic" else target,
        board=read.word("board"),
        abi=read.number("abi"),
    )


class _Reader:
    """Optional fields of one JSON object; errors say where. Ten thousand inventories are read for one match."""

    def __init__(self, value: Mapping[str, Any], where: str) -> None:
        self._value = value
        self._where = where

    def word(self, name: str) -> str | None:
        value = self._value.get(name)
        if value is None or value == "":
            return None
        return value if type(value) is str and _is_word(value) else self._refused(value, name)

    def number(self, name: str) -> int | None:
        value = self._value.get(name)
        if value is None or (type(value) is int and 0 <= value <= MAX_KB):
            return value
        return integer(value, f"{self._where}.{name}", 0, MAX_KB)

    def words(self, name: str, most: int = MAX_MODELS) -> frozenset[str] | None:
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise BadFile(f"{self._where}.{name}: expected a list, found {kind_of(value)}")
        if len(value) > most:
            raise BadFile(f"{self._where}.{name}: {len(value)} entries; at most {most} are read")
        try:
            return _plain_words(tuple(value))
        except (TypeError, ValueError):
            return frozenset(self._refused(each, name) for each in value)

    def words_by_name(self, name: str, most: int = MAX_ITEMS) -> dict[str, str]:
        value = self._value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise BadFile(f"{self._where}.{name}: expected an object, found {kind_of(value)}")
        if len(value) > most:
            raise BadFile(f"{self._where}.{name}: {len(value)} entries; at most {most} are read")
        try:
            _plain_words((*value, *value.values()))
        except (TypeError, ValueError):
            for pair in value.items():
                for each in pair:
                    self._refused(each, name)
        return value

    def models(self) -> tuple[HeldModel, ...]:
        value = self._value.get("models")
        if value is None:
            return ()
        where = f"{self._where}.models"
        if not isinstance(value, list):
            raise BadFile(f"{where}: expected a list, found {kind_of(value)}")
        if len(value) > MAX_MODELS:
            raise BadFile(f"{where}: {len(value)} entries; at most {MAX_MODELS} are read")
        found = []
        for each in value:
            if not isinstance(each, dict):
                raise BadFile(f"{where}: expected objects, found {kind_of(each)}")
            active = each.get("active", False)
            if not isinstance(active, bool):
                raise BadFile(f"{where}: active: expected true or false, found {kind_of(active)}")
            name, version = each.get("name"), each.get("version")
            for word in (name, version):
                if type(word) is not str or not _is_word(word):
                    self._refused(word, "models")
            # What no manifest can be called is no model of the fleet's: "a:b" could be taken for version b of a.
            if _NAME.fullmatch(str(name)) and _NAME.fullmatch(str(version)):
                found.append(HeldModel(str(name), str(version), active))
        return tuple(found)

    def _refused(self, value: object, name: str) -> str:
        """Says what is wrong with a word, or returns it where it only was no plain ASCII."""
        return text(value, f"{self._where}.{name}", MAX_TEXT, _WORD)


# Devices say the same few words: what was looked at once is known. Only texts are, and a text equals nothing else.
@lru_cache(8_192)
def _is_word(value: str) -> bool:
    """Whether a text is plain, without need of a closer look: printable ASCII."""
    return 0 < len(value) <= MAX_TEXT and value.isascii() and value.isprintable()


@lru_cache(8_192)
def _plain_words(values: tuple[Any, ...]) -> frozenset[str]:
    """The texts as a set.

    Raises:
        TypeError, ValueError: not all are plain.
    """
    if not all(type(value) is str and _is_word(value) for value in values):
        raise ValueError
    return frozenset(values)


@lru_cache(1_024)
def _sensors(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(sensor_name, names))
