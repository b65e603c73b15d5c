"""Who may come in to a NATS cluster, and what each may say and hear there: answered by the fleet's server.

    device ──TLS──► nats-server ──"$SYS.REQ.USER.AUTH"──► Admission ──► registry
                                ◄────── signed answer ───┘

At each connection a nats-server sends what it saw: the certificate, already verified against the fleet's authority, or
the user name and password, and the client id. The answer is a JSON web token, signed with a key that the cluster's
configuration names, which holds the subjects for this connection alone and ends with the certificate. So the cluster
needs no list of devices, tokens or revocations: the registry is asked each time, and is never out of date.

What is checked here, and not by NATS: that the client id is the certificate's name or the token's id. NATS gives a
session to whoever names it.

MQTT topics are NATS subjects: "/" becomes ".", and a "." within a level becomes "//". Ids of devices hold neither "/"
nor wildcards (`edge.fleet.identity.DEVICE_ID`), so that no id reads as two levels or as a pattern.

Formats: github.com/nats-io/jwt, version 2; nkeys (Ed25519 in base32 with a prefix and a CRC-16).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from nats.aio.client import Client
from nats.aio.msg import Msg

from edge.fleet import topics
from edge.fleet.addresses import Address
from edge.fleet.errors import FleetError, Refused
from edge.fleet.identity import DEVICE_ID, SERVER_ID, WORKER_IDS, client_id, is_token_id
from edge.fleet.server import enrollment, tables
from edge.fleet.server.broker import verify_password
from edge.fleet.server.database import Database
from edge.fleet.server.state import State
from edge.runtime.errors import BadFile
from edge.runtime.fields import Fields
from edge.runtime.whole_file import whole_file

_log = logging.getLogger("edge.fleet.nats")

ACCOUNT = "FLEET"
"""The NATS account that all of a fleet share."""

_SUBJECT = "$SYS.REQ.USER.AUTH"
_LONGEST_REQUEST = 64 * 1024
_CONNECT_SECONDS = 15.0
_RETAINED, _MOST_RETAINED = "$MQTT_rmsgs", 16_000_000
_ACCOUNT_PREFIX, _USER_PREFIX = 0, 20 << 3


class SigningKey:
    """The Ed25519 key with which answers are signed, in a file (PEM, mode 0600); made where it is missing.

    Raises:
        FleetError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            with whole_file(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(pem)
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise FleetError(f"{path}: not a readable key ({error})") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise FleetError(f"{path}: not an Ed25519 key")
        self._key = key
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = nkey(_ACCOUNT_PREFIX, raw)

    def token(self, claims: dict[str, Any]) -> str:
        """A JSON web token of NATS's kind."""
        now = int(time.time())
        claims = {**claims, "iss": self.public, "iat": now}
        claims["jti"] = _base32(hashlib.sha256(_json(claims)).digest())
        signed = b".".join((_HEADER, _base64(_json(claims))))
        return b".".join((signed, _base64(self._key.sign(signed)))).decode()


def signing_key(state: State) -> SigningKey:
    """The fleet's."""
    return SigningKey(state.authority / "nats.key")


def nkey(prefix: int, raw: bytes) -> str:
    """A public key as NATS writes it."""
    body = bytes([prefix]) + raw
    return _base32(body + binascii.crc_hqx(body, 0).to_bytes(2, "little"))


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_HEADER = _base64(_json({"typ": "JWT", "alg": "ed25519-nkey"}))


@dataclass(frozen=True)
class Knock:
    """A connection that a nats-server asks about.

    Attributes:
        user: the key that the answer has to be for.
        server: id of the nats-server.
        client_id: what the client calls itself.
        mqtt: whether it speaks MQTT.
        certificate: the client's, PEM, which the nats-server has verified; "" if it showed none.
        name, password: what it said.
    """

    user: str
    server: str
    client_id: str
    mqtt: bool
    certificate: str = ""
    name: str = ""
    password: str = ""

    @classmethod
    def read(cls, payload: bytes) -> Knock:
        """Reads a request: a JSON web token, which came from the cluster and whose signature says no more.

        Raises:
            BadFile: it is something else.
        """
        parts = payload.split(b".")
        if len(payload) > _LONGEST_REQUEST or len(parts) != 3:
            raise BadFile("authorization request: not a JSON web token of at most 64 KiB")
        try:
            body = json.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
        except (ValueError, RecursionError) as error:
            raise BadFile(f"authorization request: not JSON ({str(error)[:60]})") from error
        fields = Fields(Fields(body, "authorization request").raw("nats"), "authorization request")
        server = Fields(fields.raw("server_id"), "server_id")
        client = Fields(fields.raw("client_info"), "client_info")
        said = Fields(fields.raw("connect_opts"), "connect_opts")
        tls = fields.raw("client_tls", None)
        chains = Fields(tls, "client_tls").raw("verified_chains", None) if tls else None
        chain = chains[0] if isinstance(chains, list) and chains else None
        certificate = chain[0] if isinstance(chain, list) and chain else ""
        return cls(
            user=fields.text("user_nkey", 80),
            server=server.text("id", 80),
            client_id=str(client.raw("mqtt_id", ""))[:200],
            mqtt=client.raw("type", "") == "mqtt",
            certificate=str(certificate)[:16_000],
            name=str(said.raw("user", ""))[:200],
            password=str(said.raw("pass", ""))[:200],
        )


@dataclass(frozen=True)
class Grant:
    """Who a client is, the NATS subjects that it may publish and subscribe to, and until when (seconds since 1970)."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    until: float = 0.0


def subject(topic: str) -> str:
    """A topic, or a filter that ends with "#", as NATS has it: "f/v1/a.b/up/#" -> "f.v1.a//b.up.>"."""
    return (
        topic.replace(".", "//").replace("#", ">").replace("+", "*")
        if "/" not in topic
        else ".".join(subject(level) for level in topic.split("/"))
    )


def device_grant(device: str, until: float) -> Grant:
    """A device: its own topics, and what all read."""
    reads = (topics.everything_down(device), topics.to_all("#"))
    return Grant(device, tuple(map(subject, topics.all_up(device))), _with_parents(reads), until)


def token_grant(token: str) -> Grant:
    """A device that enrolls: one topic each way."""
    return Grant(token, (topics.boot_up(token).replace("/", "."),), (topics.boot_down(token).replace("/", "."),))


def service_grant(until: float) -> Grant:
    """The fleet's own services."""
    every = (f"{topics.ROOT}/#", "boot/#")
    return Grant(SERVER_ID, tuple(map(subject, every)), _with_parents(every), until)


def worker_grant(name: str, until: float) -> Grant:
    """Those that share its work: what devices say, and what they are answered."""
    return Grant(name, (subject(topics.EVERY_DOWN),), _with_parents((topics.EVERY_UP,)), until)


def _with_parents(filters: Sequence[str]) -> tuple[str, ...]:
    """MQTT's "a/#" is also "a", for which NATS makes a second subscription."""
    return tuple(one for each in filters for one in (subject(each), subject(each).removesuffix(".>")))


def admit(connection: sa.Connection, knock: Knock, suspended: Callable[[str], bool]) -> Grant:
    """Decides about a connection.

    Args:
        suspended: whether a device is shut out for a while.

    Raises:
        Refused: it may not come in; why, for the log.
    """
    if not knock.mqtt:
        raise Refused("only MQTT is spoken here")
    if knock.certificate:
        return _by_certificate(connection, knock, suspended)
    if not is_token_id(knock.name):
        raise Refused("neither a certificate nor a claim token")
    if knock.client_id != knock.name:
        raise Refused(f"{knock.name}: says to be {knock.client_id[:70]!r}")
    hashed = enrollment.open_token(connection, knock.name)
    if hashed is None or not verify_password(knock.password, hashed):
        raise Refused(f"{knock.name}: not an open claim token, or not its secret")
    return token_grant(knock.name)


def _by_certificate(connection: sa.Connection, knock: Knock, suspended: Callable[[str], bool]) -> Grant:
    try:
        certificate = x509.load_pem_x509_certificate(knock.certificate.encode())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        until = certificate.not_valid_after_utc.timestamp()
    except ValueError as error:
        raise Refused(f"a certificate that cannot be read ({str(error)[:60]})") from error
    name = str(names[0].value) if len(names) == 1 else ""
    if name not in (SERVER_ID, *WORKER_IDS) and not DEVICE_ID.fullmatch(name):
        raise Refused(f"{name[:70]!r}: not the name of a device")
    if knock.client_id != client_id(name):
        raise Refused(f"{name}: says to be {knock.client_id[:70]!r}")
    if name == SERVER_ID:
        return service_grant(until)
    if name in WORKER_IDS:
        return worker_grant(name, until)
    table = tables.certificates
    query = sa.select(table.c.revoked_at).where(table.c.serial == f"{certificate.serial_number:x}")
    row = connection.execute(query).first()
    # One that the registry does not know is a stand-in of ours, or newer than a backup that was restored.
    if row is not None and (row.revoked_at is not None or suspended(name)):
        raise Refused(f"{name}: its certificate was taken back")
    return device_grant(name, until)


class Admission:
    """Answers the cluster, on a thread of its own.

    Args:
        addresses: where the nats-servers listen for the fleet's server.
        context: TLS with the server's certificate.
        key: signs the answers.
        database: the registry.
        suspended: whether a device is shut out for a while.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        context: ssl.SSLContext,
        key: SigningKey,
        database: Database,
        suspended: Callable[[str], bool],
    ) -> None:
        self._addresses = addresses
        self._context = context
        self._key = key
        self._database = database
        self._suspended = suspended
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="admission", daemon=True)
        # Reading the registry may wait for a disk: several at once, and none on the network's thread.
        self._readers = ThreadPoolExecutor(4, "admission")
        self._client: Client | None = None
        self.admitted = self.refused = 0

    def start(self) -> None:
        """Connects, and answers from then on, whichever node is there.

        Raises:
            FleetError: no node answers.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result(_CONNECT_SECONDS)
        except Exception as error:  # what nats-py raises for a node that is away depends on how it is
            self.stop()
            where = ", ".join(map(str, self._addresses))
            raise FleetError(f"no NATS server answers the fleet's server at {where} ({error or 'timeout'})") from error

    def stop(self) -> None:
        if self._client is not None:
            try:
                asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(5)
            except Exception:
                _log.debug("the connection to NATS did not close in time", exc_info=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def retained(self) -> dict[str, Any]:
        """The stream in which NATS keeps retained messages, as its API describes it."""
        return await self._api("INFO", b"")

    def limit_retained(self) -> None:
        """Bounds what devices can have NATS retain: it has no way to refuse that, and the fleet retains nothing."""

        async def limit() -> None:
            config = (await self.retained())["config"]
            config |= {"max_bytes": _MOST_RETAINED, "discard": "old"}
            await self._api("UPDATE", _json(config))

        try:
            asyncio.run_coroutine_threadsafe(limit(), self._loop).result(10)
        except Exception as error:  # the cluster has no leader for the moment, for example
            _log.warning("what devices retain could not be limited (%s): it is at the next start", error or "timeout")

    async def _api(self, verb: str, payload: bytes) -> dict[str, Any]:
        assert self._client is not None
        answer = await self._client.request(f"$JS.API.STREAM.{verb}.{_RETAINED}", payload, timeout=4)
        found: dict[str, Any] = json.loads(answer.data)
        if "error" in found:
            raise FleetError(str(found["error"].get("description", ""))[:200])
        return found

    async def _connect(self) -> None:
        async def lost() -> None:
            _log.warning("lost a NATS server: connecting to another")

        async def failed(error: Exception) -> None:
            _log.warning("NATS: %s", str(error)[:200] or type(error).__name__)

        self._client = await nats.connect(
            [f"tls://{address}" for address in self._addresses],
            name=SERVER_ID,
            tls=self._context,
            connect_timeout=4,
            reconnect_time_wait=0.3,
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            disconnected_cb=lost,
            error_cb=failed,
        )
        # A queue: of several servers of one fleet, one answers.
        await self._client.subscribe(_SUBJECT, queue="edge", cb=self._asked)
        await self._client.flush(3)

    async def _asked(self, message: Msg) -> None:
        answer = self._loop.run_in_executor(self._readers, self._answer, message.data)
        answer.add_done_callback(lambda done: self._loop.create_task(self._respond(message, done)))

    async def _respond(self, message: Msg, done: asyncio.Future[bytes | None]) -> None:
        try:
            answer = done.result()
            if answer is not None:
                await message.respond(answer)
        except Exception:
            _log.exception("a question about a connection could not be answered")

    def _answer(self, payload: bytes) -> bytes | None:
        try:
            knock = Knock.read(payload)
        except BadFile as error:
            _log.warning("%s", error)
            return None
        response: dict[str, Any] = {"type": "authorization_response", "version": 2}
        try:
            with self._database.reading() as connection:
                grant = admit(connection, knock, self._suspended)
            self.admitted += 1
            response["jwt"] = self._user(knock, grant)
        except Refused as error:
            self.refused += 1
            _log.info("not let in: %s", error)
            response["error"] = "refused"
        return self._key.token({"sub": knock.user, "aud": knock.server, "nats": response}).encode()

    def _user(self, knock: Knock, grant: Grant) -> str:
        permissions = {
            "pub": {"allow": list(grant.publish)},
            "sub": {"allow": list(grant.subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "allowed_connection_types": ["MQTT"],
            "type": "user",
            "version": 2,
        }
        claims: dict[str, Any] = {"sub": knock.user, "name": grant.name, "aud": ACCOUNT, "nats": permissions}
        if grant.until:
            claims["exp"] = int(grant.until)
        return self._key.token(claims)
