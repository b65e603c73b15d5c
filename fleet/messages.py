"""The fleet's messages: JSON in an envelope, read as strictly as if an enemy had written them.

    {"v": 1, "boot": "9f2c…", "seq": 12, "at": 1764000000.5, "body": {…}}

`boot` is drawn at each start of the sender and `seq` counts from 1 within it, so (device, boot, seq) names a message
for ever: a sender repeats one until `down/ack/<seq>` answers, and the server keeps it once. Bodies are typed below;
unknown fields are ignored (a newer sender has them), wrong ones are refused by name.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from edge.fleet.addresses import MOST as MOST_ADDRESSES
from edge.fleet.addresses import read_address
from edge.fleet.errors import BadMessage
from edge.fleet.identity import DEVICE_ID
from edge.fleet.inventory import Inventory
from edge.runtime.errors import BadFile
from edge.runtime.fields import Fields, integer, kind_of, number, shown, text

VERSION = 1
LONGEST = 64 * 1024
"""Bytes of a message, all told. Blobs have topics of their own and no envelope; a chunk has at most as many."""
DEEPEST = 16
"""How deep objects and lists may nest."""

ROLL_CALL_SECONDS = 10.0
"""Within this a device answers `f/v1/all/roll` with its status, at a random moment."""
ROLL_CALL_OVER_SECONDS = 2 * ROLL_CALL_SECONDS
"""Who has not answered by then is not there."""

JOB_STATES = ("accepted", "downloading", "verified", "staged", "active", "done", "failed", "rolled-back")
"""What a device says of a job, in the order in which it comes to be ("done": a command, which activates nothing)."""
FINAL_JOB_STATES = ("active", "done", "failed", "rolled-back")

_BOOT = re.compile(r"[0-9a-f]{16}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SETTING = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"[0-9a-f]{64}|timestamp\.json|[1-9][0-9]{0,8}\.(root|targets|snapshot)\.json")
_SIGNATURE = re.compile(r"[0-9a-f]{16,160}")
_PEM = re.compile(r"-----BEGIN [A-Z ]{4,40}-----\n[A-Za-z0-9+/=\n]{1,16000}-----END [A-Z ]{4,40}-----\n?")
_MOST_SEQ = 2**53 - 1
_T = TypeVar("_T")


def new_boot() -> str:
    """A `boot` for a sender that starts: 64 random bits."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Envelope:
    """A message: who numbered it, when (the sender's clock, seconds since 1970), and what it says."""

    boot: str
    seq: int
    at: float
    body: dict[str, Any]

    @classmethod
    def read(cls, payload: bytes, where: str = "message") -> Envelope:
        """Reads a message's bytes; the body is an object, which `Hello.read` and its like look into.

        Raises:
            BadMessage: it is too large, no UTF-8, no JSON, too deep, of another version, or a field is wrong.
        """
        value = parse(payload, where)
        if isinstance(value, dict) and (plain := cls._plain(value)) is not None:
            return plain
        try:
            fields = Fields(value, where)
            fields.integer("v", VERSION, VERSION)
            body = fields.raw("body")
            if not isinstance(body, dict):
                raise fields.fail("body", f"expected an object, found {kind_of(body)}")
            return cls(
                boot=fields.text("boot", 16, _BOOT),
                seq=fields.integer("seq", 1, _MOST_SEQ),
                at=fields.number("at", 0, 2**40),
                body=body,
            )
        except BadFile as error:
            raise BadMessage(str(error)) from error

    @classmethod
    def _plain(cls, value: dict[str, Any]) -> Envelope | None:
        """The same of what is right at a glance, as nearly all is: finding words for what is wrong costs more."""
        boot, seq, at, body = value.get("boot"), value.get("seq"), value.get("at"), value.get("body")
        if (
            value.get("v") == VERSION
            and type(value["v"]) is int
            and type(boot) is str
            and _BOOT.fullmatch(boot)
            and type(seq) is int
            and 0 < seq <= _MOST_SEQ
            and type(at) is float
            and 0 <= at <= 2**40
            and type(body) is dict
        ):
            return cls(boot, seq, at, body)
        return None

    def encode(self) -> bytes:
        """The bytes of the message.

        Raises:
            BadMessage: they are too many.
        """
        return encode({"v": VERSION, "boot": self.boot, "seq": self.seq, "at": self.at, "body": self.body})


def parse(payload: bytes, where: str) -> object:
    """Any JSON value of at most `LONGEST` bytes and `DEEPEST` levels, without NaN and infinities.

    Raises:
        BadMessage: it is something else.
    """
    if len(payload) > LONGEST:
        raise BadMessage(f"{where}: {len(payload)} bytes; at most {LONGEST} are read")
    try:
        value: object = _DECODER.decode(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"{where}: not JSON in UTF-8 ({str(error)[:80]})") from error
    if payload.count(b"{") + payload.count(b"[") > DEEPEST or _LARGE.search(payload):
        _check(value, where, DEEPEST)
    return value


def encode(document: dict[str, Any]) -> bytes:
    """`document` as compact JSON in UTF-8.

    Raises:
        BadMessage: it is longer than a message may be.
    """
    payload = _ENCODER.encode(document).encode()
    if len(payload) > LONGEST:
        raise BadMessage(f"a message of {len(payload)} bytes cannot be sent: at most {LONGEST}")
    return payload


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


# Made once: json.loads and json.dumps make one a call where they are given options.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# What is written with fewer digits than these fits 64 bits, or a float.
_LARGE = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{3}")


def _check(value: object, where: str, levels: int) -> None:
    if isinstance(value, dict | list):
        if levels == 0:
            raise BadMessage(f"{where}: nested deeper than {DEEPEST} levels")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, where, levels - 1)
    elif isinstance(value, float) and not math.isfinite(value):  # 1e999
        raise BadMessage(f"{where}: a number is too large")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadMessage(f"{where}: {shown(value)} does not fit 64 bits")


def _reader(read: Callable[[Fields], _T], body: object, where: str) -> _T:
    try:
        return read(Fields(body, where))
    except BadFile as error:
        raise BadMessage(str(error)) from error


@dataclass(frozen=True)
class Hello:
    """`up/hello`: the first message of a start, and again whenever the inventory changes."""

    inventory: Inventory

    @classmethod
    def read(cls, body: object, where: str = "hello") -> Hello:
        return _reader(lambda fields: cls(Inventory.read(fields.raw("inventory"), f"{where}.inventory")), body, where)

    def json(self) -> dict[str, Any]:
        return {"inventory": self.inventory.json()}


@dataclass(frozen=True)
class Status:
    """`up/status`: "online" after each connection and roll call; the broker publishes the last will, "offline"."""

    online: bool

    @classmethod
    def read(cls, body: object, where: str = "status") -> Status:
        return _reader(lambda fields: cls(fields.boolean("online")), body, where)

    def json(self) -> dict[str, Any]:
        return {"online": self.online}


@dataclass(frozen=True)
class Telemetry:
    """`up/tel`: measured values by name; numbers, texts, booleans, at most 256."""

    values: dict[str, float | int | str | bool]

    @classmethod
    def read(cls, body: object, where: str = "tel") -> Telemetry:
        def reading(fields: Fields) -> Telemetry:
            values = fields.table("values", 256, measured)
            for name in values:
                text(name, f"{where}.values", 100)
            return cls(values)

        return _reader(reading, body, where)

    def json(self) -> dict[str, Any]:
        return {"values": self.values}


def measured(value: object, where: str) -> float | int | str | bool:
    """A value that is measured or set: a number, a text of at most 1,000 characters, true or false.

    Raises:
        BadFile: it is something else.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return integer(value, where, -(2**63), 2**63 - 1)
    if isinstance(value, float):
        return number(value, where, -1e308, 1e308)
    return text(value, where, 1000)


@dataclass(frozen=True)
class JobReport:
    """`up/job/<id>`: how far a job has come. `metrics` are figures that a gate may look at."""

    state: str
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, body: object, where: str = "job") -> JobReport:
        def reading(fields: Fields) -> JobReport:
            detail, metrics = fields.raw("detail", ""), fields.raw("metrics", {})
            inner = Fields({"metrics": metrics}, where)
            figures = inner.table("metrics", 64, lambda value, at: number(value, at, -1e308, 1e308))
            for name in figures:
                text(name, f"{where}.metrics", 100)
            return cls(
                state=fields.choice("state", JOB_STATES),
                detail=text(detail, f"{where}.detail", 1000),
                metrics=figures,
            )

        return _reader(reading, body, where)

    def json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """`down/job/<id>`: what the device is to do. `arguments` are the kind's own business, to be checked by it."""

    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, body: object, where: str = "job") -> Job:
        def reading(fields: Fields) -> Job:
            arguments = fields.raw("arguments", {})
            if not isinstance(arguments, dict):
                raise fields.fail("arguments", f"expected an object, found {kind_of(arguments)}")
            return cls(fields.text("kind", 64, _ID), arguments)

        return _reader(reading, body, where)

    def json(self) -> dict[str, Any]:
        return {"kind": self.kind, "arguments": self.arguments}


@dataclass(frozen=True)
class Desired:
    """The arguments of a job `shadow`: what a device should be.

    Attributes:
        version: counts up; 0 where nothing was ever wanted.
        settings: numbers, texts and booleans by name, at most 64.
    """

    version: int = 0
    settings: dict[str, float | int | str | bool] = field(default_factory=dict)

    @classmethod
    def read(cls, body: object, where: str = "shadow") -> Desired:
        def reading(fields: Fields) -> Desired:
            settings = fields.table("desired", 64, measured)
            for name in settings:
                text(name, f"{where}.desired", 64, _SETTING)
            return cls(fields.integer("version", 0, _MOST_SEQ), settings)

        return _reader(reading, body, where)

    def json(self) -> dict[str, Any]:
        return {"version": self.version, "desired": self.settings}


@dataclass(frozen=True)
class CertificateRequest:
    """`up/csr`, and `boot/<token>/up`: a certificate is asked for.

    Attributes:
        csr: the request, PEM; of what it says only the key is used.
        device: the id that the device would like; "" leaves it to the operator. On `up/csr`: "" for the device itself,
            or the id of a board behind it.
        proof: `edge.fleet.identity.claim_proof`, on the bootstrap topics only.
        inventory: what the operator sees before deciding.
        vouched: ECDSA signature (SHA-256; DER, hexadecimal) of `edge.fleet.identity.renewal_statement` by the key that
            the device has a certificate for: a renewal, on `up/csr`, needs it.
    """

    csr: str
    device: str = ""
    proof: str = ""
    inventory: Inventory | None = None
    vouched: str = ""

    @classmethod
    def read(cls, body: object, where: str = "csr") -> CertificateRequest:
        def reading(fields: Fields) -> CertificateRequest:
            names = ("device", "proof", "inventory", "vouched")
            device, proof, inventory, vouched = (fields.raw(name, None) for name in names)
            return cls(
                csr=_pem(fields.raw("csr"), f"{where}.csr"),
                device=text(device, f"{where}.device", 64, DEVICE_ID) if device else "",
                proof=text(proof, f"{where}.proof", 64, _HASH) if proof else "",
                inventory=None if inventory is None else Inventory.read(inventory, f"{where}.inventory"),
                vouched=text(vouched, f"{where}.vouched", 160, _SIGNATURE) if vouched else "",
            )

        return _reader(reading, body, where)

    def json(self) -> dict[str, Any]:
        inventory = None if self.inventory is None else self.inventory.json()
        named = {"csr": self.csr, "device": self.device, "proof": self.proof, "inventory": inventory}
        return {**named, "vouched": self.vouched}


# Of a root in an answer, in which two PEM chains of a few KB stand too; a longer one is asked for by name.
LONGEST_ROOT = 32_000

ENROLLMENT_STATES = ("pending", "issued", "rejected")


@dataclass(frozen=True)
class CertificateAnswer:
    """`down/cert`, and `boot/<token>/down`: what became of a request.

    Attributes:
        state: "pending" (wait; the answer comes by itself), "issued", "rejected".
        key: fingerprint of the requested key: which request this answers.
        device: the id that the operator gave.
        certificate: the device's, then the issuing authority's, PEM.
        root: the fleet's root, PEM.
        port: of the broker's main listener, on the host that the device already talks to.
        addresses: "host:port" of each broker, where they are several or elsewhere; () means the host and `port`.
        detail: for people.
        models_root: root of the TUF metadata that models are signed with, JSON; "" from a server that does not say.
    """

    state: str
    key: str
    device: str = ""
    certificate: str = ""
    root: str = ""
    port: int = 0
    detail: str = ""
    addresses: tuple[str, ...] = ()
    models_root: str = ""

    @classmethod
    def read(cls, body: object, where: str = "certificate") -> CertificateAnswer:
        def reading(fields: Fields) -> CertificateAnswer:
            state = fields.choice("state", ENROLLMENT_STATES)
            inner = Fields({"addresses": fields.raw("addresses", [])}, where)
            issued = state == "issued"
            return cls(
                state=state,
                key=fields.text("key", 64, _HASH),
                device=fields.text("device", 64, DEVICE_ID) if issued else "",
                certificate=_pem(fields.raw("certificate"), f"{where}.certificate", most=2) if issued else "",
                root=_pem(fields.raw("root"), f"{where}.root") if issued else "",
                port=fields.integer("port", 1, 65535) if issued else 0,
                detail=text(fields.raw("detail", ""), f"{where}.detail", 1000),
                addresses=inner.items("addresses", MOST_ADDRESSES, read_address),
                models_root=_models_root(fields.raw("models_root", ""), f"{where}.models_root") if issued else "",
            )

        return _reader(reading, body, where)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def _models_root(value: object, where: str) -> str:
    """Text of at most `LONGEST_ROOT` characters; who signed it is for `edge.fleet.device.trusted_metadata` to check."""
    if not isinstance(value, str):
        raise BadFile(f"{where}: expected text, found {kind_of(value)}")
    if len(value) > LONGEST_ROOT:
        raise BadFile(f"{where}: {len(value)} characters; at most {LONGEST_ROOT} are read")
    return value


def _pem(value: object, where: str, most: int = 1) -> str:
    """One to `most` PEM blocks. `text` would refuse the line ends, so the length and form are checked here."""
    if not isinstance(value, str):
        raise BadFile(f"{where}: expected text, found {kind_of(value)}")
    if len(value) > 16_000 or not re.fullmatch(f"(?:{_PEM.pattern}){{1,{most}}}", value):
        raise BadFile(f"{where}: not a PEM block of at most 16,000 characters")
    return value


@dataclass(frozen=True)
class BlobRequest:
    """`up/blob`: bytes `offset` to `offset + length` of a blob, on `down/blob/<hash>/<offset>`.

    `name` is its SHA-256, or the name of a file of TUF metadata, "timestamp.json", "3.root.json": those are known by
    name, and change. An empty answer says that there is nothing (more).
    """

    name: str
    offset: int
    length: int

    @classmethod
    def read(cls, body: object, where: str = "blob") -> BlobRequest:
        return _reader(
            lambda fields: cls(
                name=fields.text("hash", 64, _BLOB),
                offset=fields.integer("offset", 0, 2**40),
                length=fields.integer("length", 1, LONGEST),
            ),
            body,
            where,
        )

    def json(self) -> dict[str, Any]:
        return {"hash": self.name, "offset": self.offset, "length": self.length}


class Sender:
    """Numbers the messages of one start of a program."""

    def __init__(self) -> None:
        self.boot = new_boot()
        self._seq = 0

    def wrap(self, body: dict[str, Any]) -> Envelope:
        self._seq += 1
        return Envelope(self.boot, self._seq, time.time(), body)
