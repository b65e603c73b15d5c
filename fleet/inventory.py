"""What a device says of itself in its `hello`: the machine, its engines, sensors, labels, boards and models.

Written by the device (`edge.fleet.device.describe`, and gateways for their boards), read by the server, which believes
its form only after `Inventory.read`, and its content as far as one believes a device about itself.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edge.fleet.errors import BadMessage
from edge.runtime.errors import BadFile
from edge.runtime.fields import Fields, text

KINDS = ("linux", "microcontroller")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:;/_+()@-]{0,99}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# As manifests write them: "edge::ternary_linear.out", "aten::add.out".
_OPERATOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class InstalledModel:
    """A model that lies on a device; `sha256` is of the bundle, "" where the device does not know it."""

    name: str
    version: str
    sha256: str = ""
    active: bool = False

    @classmethod
    def read(cls, value: object, where: str) -> InstalledModel:
        fields = Fields(value, where)
        sha256 = fields.raw("sha256", "")
        return cls(
            name=fields.text("name", 100, _WORD),
            version=fields.text("version", 100, _WORD),
            sha256=text(sha256, f"{where}.sha256", 64, _HASH) if sha256 else "",
            active=_boolean(fields, "active", False),
        )


@dataclass(frozen=True)
class Inventory:
    """A device, in its own words.

    Attributes:
        kind: "linux", or "microcontroller".
        arch: of the processor, as `uname -m` says it: "aarch64", "armv7em".
        cpu: the processor's name.
        features: its extensions, "neon", "asimddp", "avx2".
        cores: how many.
        ram_kb, flash_kb: memory, and storage for models, in units of 1,024 bytes; 0 where unknown.
        os, python, edge: versions; "" where there is none.
        runtimes: engines and their versions: {"core": "0.1.0", "litert": "2.3.0"}.
        sensors: "microphone", "camera", "accelerometer".
        labels: set on the device: {"building": "7"}.
        boards: ids of the boards behind a gateway.
        models: what lies on it.
        board: of a microcontroller, "mps2-an386".
        target: the name in `edge targets` that it is, where known.
        operators: what a board's firmware links, "edge::ternary_linear.out"; empty: not told.
        dtypes: the number formats that its firmware computes with, "int8", "ternary"; empty: not told.
    """

    kind: Literal["linux", "microcontroller"] = "linux"
    arch: str = ""
    cpu: str = ""
    features: tuple[str, ...] = ()
    cores: int = 1
    ram_kb: int = 0
    flash_kb: int = 0
    os: str = ""
    python: str = ""
    edge: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    sensors: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    boards: tuple[str, ...] = ()
    models: tuple[InstalledModel, ...] = ()
    board: str = ""
    target: str = ""
    operators: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: object, where: str = "inventory") -> Inventory:
        """Checks every field that there is; those that are missing have their defaults, unknown ones are ignored.

        Raises:
            BadMessage: a field is wrong; the text names it.
        """
        try:
            # A missing field is an old device, not a wrong one.
            fields = Fields({**_DEFAULTS, **value} if isinstance(value, dict) else value, where)
            kind = fields.choice("kind", KINDS)
            return cls(
                kind="linux" if kind == "linux" else "microcontroller",
                **{name: _optional_word(fields, name) for name in _WORDS},
                features=fields.items("features", 64, _name),
                cores=fields.integer("cores", 1, 4096),
                ram_kb=fields.integer("ram_kb", 0, 2**40),
                flash_kb=fields.integer("flash_kb", 0, 2**40),
                runtimes=_names(fields.table("runtimes", 32, _word), f"{where}.runtimes"),
                sensors=fields.items("sensors", 64, _name),
                labels=_names(fields.table("labels", 64, _word), f"{where}.labels"),
                boards=fields.items("boards", 256, _name),
                models=fields.items("models", 64, InstalledModel.read),
                operators=fields.items("operators", 256, _operator),
                dtypes=fields.items("dtypes", 16, _name),
            )
        except BadFile as error:
            raise BadMessage(str(error)) from error

    def json(self) -> dict[str, Any]:
        return asdict(self)


_WORDS = ("arch", "cpu", "os", "python", "edge", "board", "target")
_DEFAULTS: dict[str, object] = {
    "kind": "linux",
    "features": [],
    "cores": 1,
    "ram_kb": 0,
    "flash_kb": 0,
    "runtimes": {},
    "sensors": [],
    "labels": {},
    "boards": [],
    "models": [],
    "operators": [],
    "dtypes": [],
    **dict.fromkeys(_WORDS, ""),
}


def _word(value: object, where: str) -> str:
    return text(value, where, 100, _WORD)


def _name(value: object, where: str) -> str:
    return text(value, where, 64, _NAME)


def _operator(value: object, where: str) -> str:
    return text(value, where, 100, _OPERATOR)


def _optional_word(fields: Fields, name: str) -> str:
    value = fields.raw(name)
    return _word(value, f"{fields.where}.{name}") if value else ""


def _names(table: dict[str, str], where: str) -> dict[str, str]:
    for name in table:
        text(name, where, 64, _NAME)
    return table


def _boolean(fields: Fields, name: str, default: bool) -> bool:
    value = fields.raw(name, default)
    if not isinstance(value, bool):
        raise fields.fail(name, "expected true or false")
    return value
