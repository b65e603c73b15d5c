"""The fleet's server: the services that run between the broker and the database, and what ties them together.

    devices ⇄ broker ⇄ [network thread] ─► Ingest ─► database ─► acknowledgement
                                       ◄─ Server.publish ◄─ [follower thread] ◄─ outbox ◄─ operators' commands

Commands such as `edge fleet approve` only change the database; the follower thread sees that in the outbox and does the
rest: it signs certificates, rewrites the broker's list of revocations and of tokens, ends sessions, sends jobs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from edge.fleet import topics
from edge.fleet.errors import BadMessage, FleetError, Refused
from edge.fleet.identity import SERVER_ID
from edge.fleet.messages import ROLL_CALL_SECONDS, CertificateAnswer, CertificateRequest, Envelope, Job, Sender
from edge.fleet.server import enrollment, registry, tables
from edge.fleet.server.authority import Authority
from edge.fleet.server.broker import BrokerFiles, Listeners, Mosquitto, find_mosquitto
from edge.fleet.server.database import Database, Event, audit, set_setting, setting
from edge.fleet.server.ingest import Ingest, Publication, Report
from edge.fleet.server.state import Settings, State
from edge.runtime.whole_file import whole_file

if TYPE_CHECKING:
    from edge.fleet.server.loopback_broker import Loopback

_log = logging.getLogger("edge.fleet.server")

_POLL_SECONDS = 0.2
_HOUR = 3600.0
# A job that is not answered is sent again when its device connects, and after this.
_RESEND_SECONDS = 120.0
_KEEP_REPORTS_DAYS = 30
# Devices answer a roll call within `edge.fleet.messages.ROLL_CALL_SECONDS`, at random moments.
_ROLL_CALL_SECONDS = 2 * ROLL_CALL_SECONDS
_SUSPEND_SECONDS = 60.0
_MOST_ASKED, _ASKING_SECONDS = 10, 5.0


@dataclass(frozen=True)
class BrokerAddress:
    """Where devices and the server find the broker."""

    host: str
    port: int
    boot_port: int


class Server:
    """A running fleet.

    Args:
        state: its folder.
        settings: how it runs.

    Raises:
        FleetError: from `start`: a port is taken, the broker does not come up, the database cannot be opened, another
            server runs on the same folder.
    """

    def __init__(self, state: State, settings: Settings) -> None:
        self.state = state
        self.settings = settings
        self.database: Database
        self.authority: Authority
        self.ingest: Ingest
        self.address: BrokerAddress
        self.started_at = time.time()
        self.connected = threading.Event()
        self._sender = Sender()
        self._files = BrokerFiles(state.broker)
        self._broker: Mosquitto | Loopback | None = None
        self._client: mqtt.Client
        self._stopping = threading.Event()
        self._signing = threading.Lock()
        self._revoking = threading.Lock()
        self._follower: threading.Thread
        self._followers: dict[str, list[Callable[[Event], None]]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._asking: Counter[str] = Counter()
        self._asking_ends = 0.0
        self._roll_called_at: float | None = None
        self._suspended: dict[str, float] = {}
        # Gives the root of the metadata that models are signed with, which devices get with their certificates.
        self.models_root: Callable[[], bytes] = lambda: b""
        self._undo = contextlib.ExitStack()

    # What parts of the fleet that live elsewhere (updates, semantics) hook into, before `start`: each is a function
    # that is given the server once the database, the authority and the ingest are there.
    extensions: tuple[Callable[[Server], object], ...] = ()

    def follow(self, kind: str, action: Callable[[Event], None]) -> None:
        """Has `action` see every event of a kind that is committed from now on, in order, on the follower's thread."""
        self._followers.setdefault(kind, []).append(action)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls `action` again and again, on the follower's thread."""
        self._timers.append((seconds, action))

    def publish(self, publication: Publication) -> None:
        """Publishes, if the broker is there; what matters is in the database and is sent again."""
        self._client.publish(publication.topic, publication.payload, publication.qos)

    def send(self, topic: str, body: dict[str, Any], qos: int = 1) -> None:
        """Publishes a body in an envelope of the server's."""
        self.publish(Publication(topic, self._sender.wrap(body).encode(), qos))

    def start(self) -> None:
        """Starts everything; returns when devices can connect."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(_only_one(self.state))
            self.database = Database(self.settings.database or self.state.registry)
            undo.callback(self.database.close)
            last_event = self.database.last_event()  # what came before is looked at below
            self.authority = Authority(self.state.authority)
            self._start_broker(undo)
            self.ingest = Ingest(self.database, self.publish, self._flood)
            self.ingest.on_arrival(self._came_in)
            self.ingest.on("csr", self._certificate_requested)
            self.follow("token.changed", lambda event: self._write_tokens())
            self.follow("certificate.revoked", self._revoked)
            self.follow("enrollment.decided", self._decided)
            self.follow("job.created", lambda event: self._send_job(event.subject))
            self.every(_HOUR, self._write_revocations)
            self.every(30, self._write_tokens)
            self.every(_HOUR, self._prune)
            self.every(1, self._end_roll_call)
            self.every(_RESEND_SECONDS / 2, self._resend_jobs)
            for extension in self.extensions:
                extension(self)
            self._connect(undo)
            self.ingest.start()
            undo.callback(self.ingest.stop)
            self._sign()
            self._follower = threading.Thread(target=self._follow, args=(last_event,), name="follower", daemon=True)
            self._follower.start()
            undo.callback(self._follower.join, 10)
            undo.callback(self._stopping.set)
            with self.database.transaction() as connection:
                audit(connection, "fleet", "server.start", str(self.state.folder), port=self.address.port)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Stops everything in order: what has come in is committed and acknowledged first."""
        try:
            with self.database.transaction() as connection:
                audit(connection, "fleet", "server.stop", str(self.state.folder))
        finally:
            self._undo.close()

    @property
    def broker_pid(self) -> int | None:
        return self._broker.pid if self._broker else None

    @property
    def broker_restarts(self) -> int:
        return self._broker.restarts if self._broker else 0

    def _start_broker(self, undo: contextlib.ExitStack) -> None:
        settings, folder = self.settings, self.state.broker
        key = self.authority.broker_certificate(folder / "broker.key", folder / "broker.pem", settings.names)
        with self.database.transaction() as connection:
            set_setting(connection, "broker_key", key)
        authorities = self.authority.root_pem + self.authority.issuing_pem
        self._files.write_rules(authorities)
        self._write_revocations()
        self._write_tokens()
        if settings.broker:
            # Its keeper gives it the files that were written here, and has it read them again when they change.
            url = urlsplit(settings.broker)
            if url.scheme != "mqtts" or not url.hostname:
                raise FleetError(f"--broker {settings.broker}: a URL like mqtts://host:8883 (TLS with certificates)")
            self.address = BrokerAddress(url.hostname, url.port or 8883, settings.boot_port)
            return
        listeners = Listeners(settings.host, settings.port, settings.boot_port)
        if find_mosquitto() is not None:
            self._broker = Mosquitto(folder, listeners, authorities)
        else:
            from edge.fleet.server.loopback_broker import Loopback

            settings = dataclasses.replace(settings, host="127.0.0.1")
            self._broker = Loopback(folder, listeners)
        self._broker.start()
        undo.callback(self._broker.stop)
        local = settings.host not in ("", "0.0.0.0", "::")  # noqa: S104 (a comparison)
        self.address = BrokerAddress(settings.host if local else "127.0.0.1", settings.port, settings.boot_port)

    # The broker's side.

    def _connect(self, undo: contextlib.ExitStack) -> None:
        identity, _ = self.authority.service()
        path = self.state.broker / "server.pem"
        with whole_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(identity)
        self._client = client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=SERVER_ID, protocol=mqtt.MQTTv311)
        client.tls_set_context(self._trust(path))
        client.reconnect_delay_set(1, 4 if self._broker else 30)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(20_000)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.connect_async(self.address.host, self.address.port, 30)
        client.loop_start()
        undo.callback(client.loop_stop)
        undo.callback(client.disconnect)
        if not self.connected.wait(15):
            raise FleetError(f"the broker at {self.address.host}:{self.address.port} does not let the server in")

    def _trust(self, identity: Path) -> ssl.SSLContext:
        """TLS to a broker with a certificate of our authority: nobody else has one for servers, whatever its name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.authority.root_pem)
        context.load_cert_chain(identity)
        return context

    def _on_connect(self, client: mqtt.Client, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            _log.error("the broker refuses the server: %s", code)
            return
        # At most once is enough here: devices repeat what is not acknowledged, and it spares an answer a message.
        # So is MQTT 3.1.1, whose packets cost less to read and write.
        client.subscribe([(topics.EVERY_UP, 0), (topics.EVERY_BOOT, 0)])
        # Who came or went meanwhile? Who is there answers; who has not by then is not.
        self._roll_called_at = time.time()
        self.send(topics.to_all("roll"), {}, qos=0)
        self.connected.set()
        _log.info("connected to the broker at %s:%d", self.address.host, self.address.port)

    def _end_roll_call(self) -> None:
        called, table = self._roll_called_at, tables.devices
        if called is not None and time.time() > called + _ROLL_CALL_SECONDS:
            self._roll_called_at = None
            silent = sa.or_(table.c.last_seen.is_(None), table.c.last_seen < called)
            with self.database.transaction() as connection:
                connection.execute(table.update().where(table.c.online, silent).values(online=False))

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self.connected.clear()
        if not self._stopping.is_set():
            _log.warning("lost the broker (%s): connecting again", code)

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        try:
            if message.topic.startswith("boot/"):
                self._boot_requested(message.topic, bytes(message.payload))
            else:
                self.ingest.offer(message.topic, bytes(message.payload))
        except Exception:  # paho's thread must live on
            _log.exception("a message on %s could not be taken in", message.topic[:100])

    # Enrollment.

    def _boot_requested(self, topic: str, payload: bytes) -> None:
        """Stores a request for enrollment and answers it. Rare, so it is done on the network thread."""
        try:
            token = topics.parse_boot(topic)
            if self._asks_too_often(token):
                return
            envelope = Envelope.read(payload, topic)
            message = CertificateRequest.read(envelope.body, topic)
        except BadMessage as error:
            _log.warning("%s", error)
            return
        try:
            with self.database.transaction() as connection:
                found = enrollment.request(connection, token, message)
        except Refused as error:
            _log.warning("%s: %s", topic, error)
            self._record_refusal(token, str(error))
            body = {"state": "rejected", "key": "0" * 64, "detail": str(error)}
            self.send(topics.boot_down(token), body)
            return
        if found.state == "pending":
            self._sign()  # it may have been approved ahead
            with self.database.reading() as connection:
                found = enrollment.answer(connection, found.key)
        self._answer(found, token, None)

    def _asks_too_often(self, token: str) -> bool:
        """Whoever has a token may ask, but not keep the database busy by it: devices ask once a minute."""
        now = time.monotonic()
        if now > self._asking_ends:
            self._asking_ends = now + _ASKING_SECONDS
            self._asking.clear()
        self._asking[token] += 1
        return self._asking[token] > _MOST_ASKED

    def _record_refusal(self, token: str, why: str) -> None:
        with self.database.transaction() as connection:
            audit(connection, f"token {token}", "enrollment.refuse", token, reason=why)

    def _certificate_requested(self, connection: sa.Connection, report: Report) -> list[Publication]:
        """`up/csr`: a device renews its certificate, or a gateway asks for one for a board of its own."""
        message = CertificateRequest.read(report.envelope.body, f"{report.device} csr")
        if message.device not in ("", report.device):
            found = enrollment.board_request(connection, report.device, message)
        else:
            found = enrollment.renew(connection, self.authority, report.device, message)
        return [self._publication(found, topics.down(report.device, "cert"))]

    def _decided(self, event: Event) -> None:
        if event.body.get("state") == "approved":
            self._sign()
        else:
            self._answer_key(event.subject)

    def _sign(self) -> None:
        """Signs what was approved, and tells those who wait for it."""
        while True:
            with self._signing, self.database.transaction() as connection:
                keys = enrollment.sign_approved(connection, self.authority)
            for key in keys:
                self._answer_key(key)
            if not keys:
                return

    def _answer_key(self, key: str) -> None:
        with self.database.reading() as connection:
            found = enrollment.answer(connection, key)
            token, gateway = enrollment.where_to(connection, key)
        self._answer(found, token, gateway)

    def _answer(self, found: CertificateAnswer, token: str | None, gateway: str | None) -> None:
        if token is not None:
            self.publish(self._publication(found, topics.boot_down(token)))
        elif gateway is not None:
            self.publish(self._publication(found, topics.down(gateway, "cert")))

    def _publication(self, found: CertificateAnswer, topic: str) -> Publication:
        body = enrollment.finish(found, self.authority, self.address.port, self.models_root()).json()
        return Publication(topic, self._sender.wrap(body).encode(), qos=1)

    # Certificates that are taken back.

    def _revoked(self, event: Event) -> None:
        self._write_revocations()
        self._end_session(event.subject)

    def _write_revocations(self) -> None:
        with self._revoking:  # a list must not replace a later one
            self._write_revocations_in_turn()

    def _write_revocations_in_turn(self) -> None:
        now = time.time()
        suspended = [device for device, until in list(self._suspended.items()) if until > now]
        with self.database.transaction() as connection:
            revoked = dict(enrollment.revoked(connection))
            if suspended:
                table = tables.certificates
                query = sa.select(table.c.serial).where(table.c.device.in_(suspended))
                revoked |= dict.fromkeys(connection.scalars(query), now)
            # Later than the last one by a second, and never in the future: several in a second begin in the past.
            issued_at = max(now - _HOUR, setting(connection, "revocation_list", 0.0) + 1)
            set_setting(connection, "revocation_list", issued_at)
        self._files.write_revocations(self.authority.revocation_list(sorted(revoked.items()), issued_at))
        self._reload()

    def _end_session(self, device: str) -> None:
        """Ends a device's session by taking it over: it would last until the connection breaks."""
        path = self.state.broker / f"stand-in-{device}.pem"
        ended = threading.Event()
        client: mqtt.Client | None = None
        try:
            with whole_file(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(self.authority.stand_in(device))
            client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=mqtt.MQTTv311)
            client.tls_set_context(self._trust(path))
            client.on_connect = lambda *_: ended.set()
            client.connect(self.address.host, self.address.port)
            client.loop_start()
            if not ended.wait(5):
                raise FleetError("the broker did not answer")
            client.disconnect()
        except (OSError, FleetError) as error:
            _log.error("%s: its session could not be ended (%s); it ends with its connection", device, error)
        finally:
            if client is not None:
                client.loop_stop()
            path.unlink(missing_ok=True)

    def _flood(self, device: str) -> None:
        """Called on the network thread: the rest is done on the follower's."""
        self._suspended[device] = time.time() + _SUSPEND_SECONDS
        threading.Thread(target=self._suspend, args=(device,), name="suspend", daemon=True).start()

    def _suspend(self, device: str) -> None:
        _log.warning("%s: sends more than any agent does: shut out for %d seconds", device, int(_SUSPEND_SECONDS))
        with self.database.transaction() as connection:
            audit(connection, "fleet", "device.suspend", device, reason="flood", seconds=_SUSPEND_SECONDS)
        self._write_revocations()
        self._end_session(device)
        self._stopping.wait(_SUSPEND_SECONDS)
        self._write_revocations()

    def _write_tokens(self) -> None:
        with self.database.reading() as connection:
            tokens = sorted(enrollment.open_tokens(connection))
        self._files.write_tokens(tokens)
        self._reload()

    def _reload(self) -> None:
        if self._broker is not None:
            self._broker.reload()

    # Jobs.

    def _came_in(self, connection: sa.Connection, devices: list[str]) -> list[Publication]:
        """Devices have connected: they get what they have yet to do."""
        return [self._job_publication(job["device"], job) for job in registry.open_jobs(connection, devices)]

    def _send_job(self, job: str) -> None:
        with self.database.reading() as connection:
            row = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job)).first()
        if row is not None:
            self.publish(self._job_publication(row.device, dict(row._mapping)))

    def _resend_jobs(self) -> None:
        table, devices = tables.jobs, tables.devices
        query = (
            sa.select(table)
            .join(devices, devices.c.id == table.c.device)
            .where(table.c.state == "queued", devices.c.online, table.c.updated_at < time.time() - _RESEND_SECONDS)
            .limit(1000)
        )
        with self.database.reading() as connection:
            for row in connection.execute(query).all():
                self.publish(self._job_publication(row.device, dict(row._mapping)))

    def _job_publication(self, device: str, job: dict[str, Any]) -> Publication:
        body = Job(job["kind"], job["body"]).json()
        return Publication(topics.down(device, "job", job["id"]), self._sender.wrap(body).encode(), qos=1)

    def _prune(self) -> None:
        with self.database.transaction() as connection:
            registry.prune(connection, time.time() - _KEEP_REPORTS_DAYS * 86400)

    # The outbox.

    def _follow(self, after: int) -> None:
        due = [time.monotonic() + seconds for seconds, _ in self._timers]
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                for event in self.database.follow(after):
                    after = event.id
                    for action in self._followers.get(event.kind, ()):
                        self._guard(partial(action, event), event.kind)
            except Exception:
                _log.exception("the outbox could not be read")
                self._stopping.wait(1)
            for number, (seconds, timer) in enumerate(self._timers):
                if time.monotonic() >= due[number]:
                    due[number] = time.monotonic() + seconds
                    self._guard(timer, "a timer")

    def _guard(self, action: Callable[[], None], what: str) -> None:
        try:
            action()
        except Exception:
            _log.exception("%s: could not be followed", what)


@contextlib.contextmanager
def _only_one(state: State) -> Any:
    """Holds the folder's lock: two servers on one database would sign and revoke past each other."""
    import fcntl

    path = state.folder / "server.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            pid = file.read().strip() or "another process"
            raise FleetError(f"{state.folder}: this fleet runs already (process {pid})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def running_pid(state: State) -> int | None:
    """The process of the server that runs on a folder, or None."""
    import fcntl

    try:
        with (state.folder / "server.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        pass
    return None
