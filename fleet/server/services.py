"""The fleet's server: the services that run between the broker and the database, and what ties them together.

    devices ⇄ broker ⇄ Link [network thread] ─► Ingest ─► database ─► acknowledgement
                                            ◄─ Jobs, Certificates, Access ◄─ Follower ◄─ outbox ◄─ operators' commands

With workers, each of them is such a link, ingest and database connection in a process of its own, for the devices of
one shard; the server itself then takes in only what is done with the authority's key: requests for certificates.

Commands such as `edge fleet approve` only change the database; the follower's thread sees that in the outbox and does
the rest: it signs certificates, rewrites the broker's list of revocations and of tokens, ends sessions, sends jobs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.fleet import topics
from edge.fleet.addresses import local, parse_url
from edge.fleet.identity import SERVER_ID
from edge.fleet.messages import ROLL_CALL_OVER_SECONDS
from edge.fleet.server import registry
from edge.fleet.server.access import Access
from edge.fleet.server.authority import Authority
from edge.fleet.server.broker import BrokerFiles, Listeners, Mosquitto, find_mosquitto
from edge.fleet.server.certificates import Certificates
from edge.fleet.server.database import Database, Event, audit, set_setting
from edge.fleet.server.follower import Follower
from edge.fleet.server.ingest import Ingest, Publication
from edge.fleet.server.jobs import RESEND_SECONDS, Jobs
from edge.fleet.server.link import BrokerAddress, Link, external, trust, write_identity
from edge.fleet.server.reload_command import ReloadCommand
from edge.fleet.server.running import only_one
from edge.fleet.server.state import NATS_PORT, Settings, State
from edge.fleet.server.worker import FLOODED
from edge.fleet.server.workers import Workers

if TYPE_CHECKING:
    from edge.fleet.server.loopback_broker import Loopback
    from edge.fleet.server.nats_admission import Admission

_log = logging.getLogger("edge.fleet.server")

_HOUR = 3600.0
_KEEP_REPORTS_DAYS = 30
_REPORT_SECONDS = 5.0
# With a node of a cluster die the last wills of its devices: who did not come back is found by asking.
_ROLL_CALL_AGAIN = 900.0


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
        self.link: Link
        self.jobs: Jobs
        self.workers: Workers | None = None
        self.started_at = time.time()
        self._broker: Mosquitto | Loopback | None = None
        self._reload_command: ReloadCommand | None = None
        self._identity: Path
        self.admission: Admission | None = None
        self._follower: Follower
        self._roll_called_at: float | None = None
        # Gives the root of the metadata that models are signed with, which devices get with their certificates.
        self.models_root: Callable[[], bytes] = lambda: b""
        self._undo = contextlib.ExitStack()

    # What parts of the fleet that live elsewhere (updates, semantics) hook into, before `start`: each is a function
    # that is given the server once the database, the authority and the ingest are there.
    extensions: tuple[Callable[[Server], object], ...] = ()

    def follow(self, kind: str, action: Callable[[Event], None]) -> None:
        """Has `action` see every event of a kind that is committed from now on, in order, on the follower's thread."""
        self._follower.follow(kind, action)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls `action` again and again, on the follower's thread."""
        self._follower.every(seconds, action)

    def publish(self, publication: Publication) -> None:
        """Publishes, if the broker is there; what matters is in the database and is sent again."""
        self.link.publish(publication)

    def send(self, topic: str, body: dict[str, Any], qos: int = 1) -> None:
        """Publishes a body in an envelope of the server's."""
        self.link.send(topic, body, qos)

    @property
    def connected(self) -> threading.Event:
        """Set while the server has its broker."""
        return self.link.connected

    def start(self) -> None:
        """Starts everything; returns when devices can connect."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(only_one(self.state))
            self.database = self.state.database(self.settings)
            undo.callback(self.database.close)
            last_event = self.database.last_event()  # what came before is looked at below
            self.authority = Authority(self.state.authority)
            self._follower = Follower(self.database)
            if self.settings.broker_reload:
                self._reload_command = ReloadCommand(self.settings.broker_reload, self.state.broker, self.database)
            access = Access(self.database, self.authority, self.state.broker, self._reload)
            self._start_broker(access, undo)
            access.start(self.address)
            self._admit(access, undo)
            self.link = self._link()
            certificates = Certificates(
                self.database, self.authority, self.link, self.address, lambda: self.models_root()
            )
            self.jobs = Jobs(self.database, self.link)
            self._boot_requested = certificates.boot_requested
            self.ingest = Ingest(self.database, self.publish, access.flood)
            self.ingest.on_arrival(self.jobs.came_in)
            self.ingest.on("csr", certificates.requested)
            self._follower.follow_batches("token.changed", lambda events: access.write_tokens())
            self._follower.follow_batches("certificate.revoked", access.revoked)
            self.follow("enrollment.decided", certificates.decided)
            self.follow("job.created", lambda event: self.jobs.send(event.subject))
            self.every(_HOUR, access.write_revocations)
            self.every(30, access.write_tokens)
            self.every(30, access.watch_clock)
            self.every(30, access.shut_out)
            self.every(_HOUR, self._prune)
            self.every(1, self._end_roll_call)
            self.follow(FLOODED, lambda event: access.flood(event.subject))
            self.every(RESEND_SECONDS / 2, self.jobs.resend)
            for extension in self.extensions:
                extension(self)
            self.link.start()
            if self.admission is not None:
                self.admission.limit_retained()
            undo.callback(self.link.stop)
            self.ingest.start()
            undo.callback(self.ingest.stop)
            certificates.sign()
            if self._shared:
                self.workers = workers = Workers(self.state, self.settings, self.address, self.authority)
                self.every(_REPORT_SECONDS, workers.write_reports)
                undo.callback(workers.stop)
                workers.start()
            self._follower.start(last_event)
            undo.callback(self._follower.stop)
            undo.callback(access.stop)
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

    def _start_broker(self, access: Access, undo: contextlib.ExitStack) -> None:
        settings, folder = self.settings, self.state.broker
        key = self.authority.broker_certificate(folder / "broker.key", folder / "broker.pem", settings.names)
        with self.database.transaction() as connection:
            set_setting(connection, "broker_key", key)
        authorities = self.authority.root_pem + self.authority.issuing_pem
        BrokerFiles(folder).write_rules(authorities)
        access.write_revocations()
        access.write_tokens()
        if settings.broker:
            self.address = external(settings)
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
        self.address = BrokerAddress(local(settings.host), settings.port, settings.boot_port)

    def _reload(self) -> bool:
        if self._broker is not None:
            self._broker.reload()
        if self._reload_command is not None:
            return self._reload_command()
        return True

    def _admit(self, access: Access, undo: contextlib.ExitStack) -> None:
        """Answers a NATS cluster's questions about who may come in: the server itself, to begin with."""
        self._identity = self.state.broker / "server.pem"
        write_identity(self._identity, self.authority.service()[0])
        if self.settings.on_nats:
            from edge.fleet.server.nats_admission import Admission, signing_key

            addresses = parse_url(self.settings.nats, NATS_PORT, "--nats", "nats")
            context = trust(self.authority.root_pem, self._identity)
            admission = Admission(addresses, context, signing_key(self.state), self.database, access.is_suspended)
            admission.start()
            undo.callback(admission.stop)
            self.admission = admission
            self.every(_ROLL_CALL_AGAIN, self._call_roll)

    def _link(self) -> Link:
        root = self.authority.root_pem
        # Where there are several, the next one is tried: waiting long helps nobody.
        longest_pause = 4 if self._broker or self.address.others else 30
        return Link(
            self.address,
            SERVER_ID,
            self._identity,
            root,
            self._on_connect,
            self._on_message,
            longest_pause,
            most_qos=self.settings.most_qos,
        )

    @property
    def _shared(self) -> bool:
        """Whether devices are divided among workers: one would have all, as the server itself."""
        return self.settings.workers > 1

    def _on_connect(self) -> None:
        if self._shared:  # who call their devices themselves
            self.link.subscribe([topics.EVERY_REQUEST, topics.EVERY_BOOT])
            return
        self.link.subscribe([topics.EVERY_UP, topics.EVERY_BOOT])
        self._call_roll()

    def _call_roll(self) -> None:
        # Who came or went meanwhile? Who is there answers; who has not by then is not.
        self._roll_called_at = time.time()
        self.send(topics.to_all("roll"), {}, qos=0)

    def _end_roll_call(self) -> None:
        called = self._roll_called_at
        if called is not None and time.time() > called + ROLL_CALL_OVER_SECONDS:
            self._roll_called_at = None
            with self.database.transaction() as connection:
                registry.mark_silent(connection, called)

    def _on_message(self, topic: str, payload: bytes) -> None:
        if topic.startswith("boot/"):
            self._boot_requested(topic, payload)
        else:
            self.ingest.offer(topic, payload)

    def _prune(self) -> None:
        with self.database.transaction() as connection:
            registry.prune(connection, time.time() - _KEEP_REPORTS_DAYS * 86400)
