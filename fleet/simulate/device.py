"""A simulated device: everything that `edge.fleet.device.agent` promises, on an asyncio loop that thousands share.

It has its own key and certificate, its own connection and its own models; what it says is sent again until it is
acknowledged. Only its outbox is in memory, and its jobs are done on a pool of threads that all devices of a process
share.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTProtocolVersion

from edge.fleet import topics
from edge.fleet.addresses import Address
from edge.fleet.device.agent import KEEPALIVE_SECONDS, MOST_JOBS, QOS, WINDOW
from edge.fleet.device.home import Home
from edge.fleet.device.jobs import JobHandler, Jobs, Report
from edge.fleet.device.shadow import DeviceShadow
from edge.fleet.device.updates import CANCEL, UPDATE
from edge.fleet.errors import BadMessage
from edge.fleet.inventory import InstalledModel, Inventory
from edge.fleet.messages import (
    ROLL_CALL_SECONDS,
    CertificateAnswer,
    CertificateRequest,
    Envelope,
    Hello,
    Job,
    JobReport,
    Sender,
    Status,
    Telemetry,
    parse,
)
from edge.fleet.settings import heartbeat_of
from edge.fleet.simulate.connection import Connection, NotLetIn
from edge.fleet.simulate.inventories import Measurements
from edge.fleet.simulate.models import SimulatedUpdates
from edge.fleet.simulate.outbox import MemoryOutbox, Waiting
from edge.runtime.errors import EdgeError
from edge.runtime.fields import Fields

_log = logging.getLogger("edge.fleet.simulate")

RESEND_SECONDS = 20.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_GOOD_SESSION_SECONDS = 10.0
_RENEWAL_SECONDS = 3600.0
_GOODBYE_SECONDS = 2.0


@dataclass
class Counts:
    """What the devices of a process have done."""

    sent: int = 0
    resent: int = 0
    acknowledged: int = 0
    refused: int = 0
    connects: int = 0
    lost: int = 0
    jobs: Counter[str] = field(default_factory=Counter)  # by the state in which they ended, or are


@dataclass
class Surroundings:
    """What the devices of a process share.

    Attributes:
        addresses: of the broker; when one fails, a device tries the next.
        every: seconds between the reports of a device, if nobody has told it otherwise.
        connecting: threads that connect.
        working: threads that do jobs.
        slots: how many devices may be connecting at once.
        draining: nobody reports anything new.
    """

    addresses: list[Address]
    every: float
    connecting: Executor
    working: Executor
    slots: asyncio.Semaphore
    draining: bool = False
    counts: Counts = field(default_factory=Counts)
    protocol: MQTTProtocolVersion = mqtt.MQTTv5


class SimulatedDevice:
    """One device; every method is for the loop's thread, unless it says otherwise.

    Args:
        home: its folder, enrolled.
        inventory: what it is, without its models.
        around: what it shares with others.
        updates: makes what brings it its models, the first time that there is something to bring.
    """

    def __init__(
        self,
        home: Home,
        inventory: Inventory,
        around: Surroundings,
        updates: Callable[[SimulatedDevice], SimulatedUpdates],
    ) -> None:
        place = home.place()
        if place is None:
            raise EdgeError(f"{home.folder}: this device is not enrolled")
        self.id = place.id
        self.home = home
        self.outbox = MemoryOutbox()
        self.connected = threading.Event()
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._make_updates = updates
        self._updates: SimulatedUpdates | None = None
        self._machine = inventory
        self._models: tuple[InstalledModel, ...] = ()
        self._said: Inventory | None = None
        self._measurements = Measurements(self.id)
        self._status = Sender()
        self._context: ssl.SSLContext | None = None
        self._connection: Connection | None = None
        self._stopping = asyncio.Event()
        self._address = random.randrange(len(around.addresses))  # noqa: S311
        self._renewal_due = home.renewal_due()
        self._asked_at = -_RENEWAL_SECONDS
        self._queued: set[str] = set()
        self._job_queue: list[tuple[str, Job]] = []
        self._working = False
        self._shadow = DeviceShadow(home.folder)
        self._every = around.every
        self._shadow.obey("heartbeat", heartbeat_of, self._set_heartbeat, around.every)
        self._jobs = Jobs(self.id, self.outbox, self.report, self.inventory_changed)
        self._jobs.on("hello", self._hello_asked)
        self._jobs.on("shadow", self._shadow.do)
        self._job_seen: list[Callable[[str, Job], None]] = []
        self._down: dict[str, Callable[[tuple[str, ...], bytes], None]] = {
            "ack": self._acknowledged,
            "job": self._job_came,
            "cert": self._certificate_came,
            "roll": self._roll_called,
        }

    # What updates need (`edge.fleet.device.updates.Agent`). On any thread: report, publish, inventory_changed.

    def on_down(self, kind: str, handler: Callable[[tuple[str, ...], bytes], None]) -> None:
        self._down[kind] = handler

    def on_job(self, kind: str, handler: JobHandler) -> None:
        self._jobs.on(kind, handler)

    def on_job_seen(self, handler: Callable[[str, Job], None]) -> None:
        self._job_seen.append(handler)

    def report(self, kind: str, body: dict[str, Any]) -> None:
        """Sends a message that must arrive, for as long as this process lives."""
        self._call(self._put, kind, body)

    def publish(self, kind: str, body: dict[str, Any]) -> bool:
        """Sends a message that need not arrive; returns whether there is a connection."""
        if not self.connected.is_set():
            return False
        self._call(self._say, kind, body)
        return True

    def inventory_changed(self) -> None:
        """Has the server told what the device is now, if that has changed."""
        updates = self._updates
        if updates is not None:
            self._call(self._take_models, tuple(InstalledModel(**row) for row in updates.store.inventory()))

    def _call(self, action: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(action, *arguments)

    # Running.

    async def run(self, begin: float) -> None:
        """Connects after `begin` seconds, and stays connected until `stop`."""
        pause = _SHORTEST_PAUSE
        await self._sleep(begin)
        if self._stopping.is_set():
            return
        if SimulatedUpdates.has_models(self.home):
            self._begin_updates().recover()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._session()
            except NotLetIn as error:
                self._around.protocol = error.protocol
                _log.info("%s: %s", self.id, error)
            except (OSError, EdgeError) as error:
                _log.info("%s: %s", self.id, error)
            except Exception:  # a device must not fall silent because of one connection
                _log.exception("%s: a connection ended by a bug in edge", self.id)
            self._address += 1
            if time.monotonic() - began > _GOOD_SESSION_SECONDS:
                pause = _SHORTEST_PAUSE
            await self._sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(_LONGEST_PAUSE, pause * 2)

    def stop(self) -> None:
        """Has `run` say goodbye and return."""
        self._stopping.set()
        if self._updates is not None:
            self._updates.stop()
        if self._connection is not None:
            self._connection.publish(topics.up(self.id, "status"), self._online(False), QOS)
            self._connection.disconnect(_GOODBYE_SECONDS)

    @property
    def online(self) -> bool:
        return self.connected.is_set()

    @property
    def busy(self) -> bool:
        """Whether it has a job to do."""
        return bool(self._queued)

    @property
    def models(self) -> tuple[InstalledModel, ...]:
        return self._models

    def tend(self, now: float) -> None:
        """What has to be done every few seconds: pings, and what was not acknowledged is sent again.

        Args:
            now: by the monotonic clock.
        """
        if self._connection is None or not self.connected.is_set():
            return
        self._connection.tend()
        self._send_waiting(now)
        if time.time() >= self._renewal_due and now - self._asked_at > _RENEWAL_SECONDS:
            self._asked_at = now
            csr, der, _ = self.home.next_request()
            self._put("csr", CertificateRequest(csr, vouched=self.home.vouch(der)).json())

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _session(self) -> None:
        """One connection, from its beginning to its end."""
        around = self._around
        address = around.addresses[self._address % len(around.addresses)]
        async with around.slots:
            if self._stopping.is_set():
                return
            if self._context is None:
                self._context = await self._loop.run_in_executor(around.connecting, self.home.trust)
            will = topics.up(self.id, "status"), self._online(False)
            connection = Connection(self.id, self._context, around.protocol, will, self._came)
            filters = [(topics.everything_down(self.id), QOS), (topics.to_all("#"), QOS)]
            await connection.open(address, KEEPALIVE_SECONDS, filters, around.connecting)
        self._connection = connection
        around.counts.connects += 1
        self.connected.set()
        try:
            connection.publish(topics.up(self.id, "status"), self._online(True), QOS)
            if self._said is None:
                self._say_hello()
                self._loop.call_later(random.uniform(0, around.every), self._beat)  # noqa: S311
            self._send_waiting(time.monotonic())
            await connection.closed
        finally:
            self.connected.clear()
            self._connection = None
            self._forget_sent()
            around.counts.lost += not self._stopping.is_set()
            connection.drop()

    def _forget_sent(self) -> None:
        for message in self.outbox.waiting.values():
            message.at = 0.0

    def _online(self, online: bool) -> bytes:
        return self._status.wrap(Status(online).json()).encode()

    def _beat(self) -> None:
        if not self._around.draining and not self._stopping.is_set():
            values = Telemetry(self._measurements.at(time.time()))
            self._put("tel", values.json())
            self._loop.call_later(self._every * random.uniform(0.9, 1.1), self._beat)  # noqa: S311

    def _put(self, kind: str, body: dict[str, Any]) -> None:
        message = self.outbox.put(kind, body)
        self._around.counts.sent += 1
        if kind.startswith("job/"):
            self._around.counts.jobs[str(body.get("state"))] += 1
        if self._connection is not None and len(self.outbox.waiting) <= WINDOW:
            self._send(message, time.monotonic())

    def _send_waiting(self, now: float) -> None:
        """Sends the oldest messages that are not on their way, up to a window, and again those that were lost."""
        for message in list(itertools.islice(self.outbox.waiting.values(), WINDOW)):
            if not message.at or now - message.at >= RESEND_SECONDS:
                self._around.counts.resent += bool(message.at)
                self._send(message, now)

    def _send(self, message: Waiting, now: float) -> None:
        if self._connection is not None:
            message.at = now
            self._connection.publish(topics.up(self.id, *message.kind.split("/")), message.payload, QOS)

    def _say(self, kind: str, body: dict[str, Any]) -> None:
        if self._connection is not None:
            self._connection.publish(topics.up(self.id, *kind.split("/")), self._status.wrap(body).encode(), 0)

    def _say_hello(self) -> None:
        self._said = replace(self._machine, models=self._models)
        self._put("hello", Hello(self._said).json())

    def _take_models(self, models: tuple[InstalledModel, ...]) -> None:
        self._models = models
        if self._said is not None and self._said.models != models:
            self._say_hello()

    # What comes down.

    def _came(self, topic: str, payload: bytes) -> None:
        try:
            kind, rest = topics.parse_down(topic, self.id)
            handler = self._down.get(kind)
            if handler is not None:
                handler(rest, payload)
        except EdgeError as error:
            _log.warning("%s: %s", self.id, error)
        except Exception:  # the loop must live on
            _log.exception("%s: a message on %s could not be taken", self.id, topic[:100])

    def _acknowledged(self, rest: tuple[str, ...], payload: bytes) -> None:
        fields = Fields(parse(payload, "ack"), "ack")
        boot, error = fields.text("boot", 16), fields.raw("error", "")
        if len(rest) != 1 or not rest[0].isdigit():
            raise BadMessage("ack: no number in its topic")
        if self.outbox.acknowledged(boot, int(rest[0])):
            self._around.counts.acknowledged += 1
            if error:
                self._around.counts.refused += 1
                _log.error("%s: the server refuses message %s: %s", self.id, rest[0], str(error)[:500])

    def _roll_called(self, rest: tuple[str, ...], payload: bytes) -> None:
        # At a random moment: all devices are asked at once.
        self._loop.call_later(random.uniform(0, ROLL_CALL_SECONDS), self._answer_roll_call)  # noqa: S311

    def _answer_roll_call(self) -> None:
        if self._connection is not None:
            self._connection.publish(topics.up(self.id, "status"), self._online(True), QOS)
            self._forget_sent()  # the server was away: what was on its way may not have come
            self._send_waiting(time.monotonic())

    def _job_came(self, rest: tuple[str, ...], payload: bytes) -> None:
        if len(rest) != 1:
            raise BadMessage("job: no id in its topic")
        job = Job.read(Envelope.read(payload, "job").body)
        if job.kind in (UPDATE, CANCEL):
            self._begin_updates()
        for seen in self._job_seen:
            seen(rest[0], job)
        if rest[0] not in self._queued and len(self._queued) < MOST_JOBS and not self.outbox.is_full:
            self._queued.add(rest[0])
            self._job_queue.append((rest[0], job))
            self._next_job()

    def _next_job(self) -> None:
        """One job of a device at a time, on a thread of the pool."""
        if self._working or not self._job_queue or self._stopping.is_set():
            return
        self._working = True
        name, job = self._job_queue.pop(0)
        work = self._loop.run_in_executor(self._around.working, self._jobs.do, name, job)
        work.add_done_callback(lambda done: self._job_done(name, done))

    def _job_done(self, name: str, done: asyncio.Future[None]) -> None:
        self._working = False
        self._queued.discard(name)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.error("%s: job %s: %r", self.id, name, error)
        if self._updates is not None:
            self._updates.activate_later()
        self._next_job()

    def _hello_asked(self, job: str, arguments: dict[str, Any], report: Report) -> None:
        self._call(self._say_hello)
        report(JobReport("done"))

    def _set_heartbeat(self, seconds: float) -> None:
        self._every = seconds  # from the next one on

    def _begin_updates(self) -> SimulatedUpdates:
        if self._updates is None:
            self._updates = self._make_updates(self)
        return self._updates

    def _certificate_came(self, rest: tuple[str, ...], payload: bytes) -> None:
        answer = CertificateAnswer.read(Envelope.read(payload, "certificate").body)
        if answer.state == "issued" and answer.device == self.id and answer.key == self.home.waits_for():
            place = self.home.place()
            assert place is not None
            self.home.accept(answer, place.host)
            self._renewal_due = self.home.renewal_due()
            self._context = None  # the next connection shows the new one
            if self._connection is not None:
                self._connection.drop()
