"""What runs on a device for as long as it is on: `edge device run`.

It keeps one connection to the fleet's broker, made again with growing, random pauses when it breaks. Through it go:

- `status`: "online", and again at a roll call; the broker says "offline" as its last will;
- `hello`: the inventory, at each start and whenever it changed;
- everything in the outbox, oldest first, a window at a time, until it is acknowledged: telemetry, reports of jobs;
- a certificate request when two thirds of the certificate's life are over.

What comes down is looked up by kind: acknowledgements, certificates, jobs; other parts of edge (updates, learning) add
handlers with `on_down` and `on_job`. Jobs run one after the other, on a thread of their own, and each once: what became
of it is remembered, and told again if it is asked for again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.fleet import topics
from edge.fleet.device.home import Home, Place
from edge.fleet.device.jobs import AnyJobHandler, JobHandler, Jobs, Report
from edge.fleet.device.outbox import Outbox
from edge.fleet.device.refusal import REVOKED, refusal
from edge.fleet.device.shadow import DeviceShadow
from edge.fleet.errors import BadMessage, FleetError
from edge.fleet.identity import client_id
from edge.fleet.inventory import Inventory
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
from edge.fleet.mqtt_version import other_protocol
from edge.fleet.settings import heartbeat_of, log_level_of
from edge.runtime.errors import EdgeError
from edge.runtime.fields import Fields

_log = logging.getLogger("edge.fleet.agent")
_every_log = logging.getLogger("edge.fleet")

KEEPALIVE_SECONDS = 60
# Messages on their way at once; what was not acknowledged is sent again after a while, in case it was dropped.
WINDOW = 100
_RESEND_SECONDS = 20.0
# At most once: what counts is the server's acknowledgement, not a broker's. More would cost: a NATS cluster keeps a
# replicated consumer for each subscription at QoS 1, and writes each message at QoS 1 to three disks.
QOS = 0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_RENEWAL_SECONDS = 300.0
MOST_JOBS = 1000
# A broker that knows one version of MQTT may say nothing at all to the other.
_ANSWER_SECONDS = 10.0
# A connection that lasted as long was a good one: after it the pauses begin anew.
_GOOD_SESSION_SECONDS = 10.0
# So many sessions in so long that were taken over, or ended right after they began well: a copy of this device runs.
_THROWN_OUT, _THROWN_OUT_SECONDS = 3, 600.0
_TAKEN_OVER = 0x8E

DownHandler = Callable[[tuple[str, ...], bytes], None]
"""Sees a message that came down: what follows the kind in its topic, and its bytes (not yet validated)."""


class Agent:
    """A device of a fleet.

    Args:
        home: its folder, enrolled.
        describe: gives the inventory as it is now.
        heartbeat: seconds between heartbeats; each is a telemetry message of what `measure` gives.
        measure: gives values to report at each heartbeat.

    Raises:
        FleetError: the device is not enrolled.
    """

    def __init__(
        self,
        home: Home,
        describe: Callable[[], Inventory],
        heartbeat: float = 30.0,
        measure: Callable[[], dict[str, float | int | str | bool]] = dict,
    ) -> None:
        place = home.place()
        if place is None:
            raise FleetError(
                f"{home.folder}: this device is not enrolled: edge device enroll --token … mqtts://host:port"
            )
        self.home = home
        self.place: Place = place
        self.outbox = Outbox(home.outbox)
        self.connected = threading.Event()
        self._describe = describe
        self._heartbeat = heartbeat
        self._measure = measure
        self._status = Sender()
        self._protocol = mqtt.MQTTv5
        # Which of several brokers: devices spread over them, and each takes the next when one fails it.
        self._turn = random.randrange(1 << 16)  # noqa: S311
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._lost = threading.Event()
        self._client: mqtt.Client | None = None
        self._broker = place.brokers[0]
        self._thrown_out: list[float] = []
        self._taken_over = False
        self._renewed = False
        self._refusal = ""
        self._sent: dict[tuple[str, int], float] = {}
        self._acks: queue.SimpleQueue[tuple[str, int, str]] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[tuple[str, Job] | None] = queue.SimpleQueue()
        self._queued_jobs: set[str] = set()
        self._tasks = Jobs(place.id, self.outbox, self.report, self.inventory_changed)
        self._job_seen: list[Callable[[str, Job], None]] = []
        self._down_handlers: dict[str, DownHandler] = {"ack": self._acknowledged, "job": self._job_came}
        self._down_handlers["cert"] = self._certificate_came
        self._down_handlers["roll"] = self._roll_called
        self._answer_at = float("inf")
        self._board_answers: dict[str, Callable[[CertificateAnswer], None]] = {}
        self._inventory: Inventory | None = None
        self._asked_at = 0.0
        self.on_job("hello", self._hello)
        self.shadow = DeviceShadow(home.folder)
        self.shadow.obey("heartbeat", heartbeat_of, self._set_heartbeat, heartbeat)
        self.shadow.obey("log", log_level_of, _every_log.setLevel, _every_log.level)
        self.on_job("shadow", self.shadow.do)

    # For the parts of edge that add to the agent.

    def on_job(self, kind: str, handler: JobHandler) -> None:
        """Has `handler` do the jobs of a kind. It reports a final state, or raises `EdgeError`: the job has failed."""
        self._tasks.on(kind, handler)

    def on_any_job(self, handler: AnyJobHandler) -> None:
        """Has `handler(id, kind, arguments, report)` do the jobs for whose kind there is no handler."""
        self._tasks.on_any(handler)

    def on_down(self, kind: str, handler: DownHandler) -> None:
        """Has `handler` see messages of a kind ("blob", "fl"), on the network's thread: it must be quick."""
        self._down_handlers[kind] = handler

    def on_job_seen(self, handler: Callable[[str, Job], None]) -> None:
        """Has `handler` see each job as it comes, before its turn, on the network's thread: it must be quick."""
        self._job_seen.append(handler)

    def inventory_changed(self) -> None:
        """Has the server told what the device is now, if that has changed."""
        if self._describe() != self._inventory:
            self._say_hello()

    def on_board_certificate(self, key: str, handler: Callable[[CertificateAnswer], None]) -> None:
        """Has `handler` get the answer to a board's certificate request, named by its key's fingerprint."""
        self._board_answers[key] = handler

    def report(self, kind: str, body: dict[str, Any]) -> None:
        """Sends a message that must arrive: it is on the disk when this returns, and is sent until acknowledged.

        Args:
            kind: what follows "up/" in its topic: "tel", "td", "fl/9/1".
        """
        self.outbox.put(kind, body)
        self._wake.set()

    def telemetry(self, values: dict[str, float | int | str | bool]) -> None:
        """Reports measured values."""
        self.report("tel", Telemetry.read(Telemetry(values).json()).json())

    def publish(self, kind: str, body: dict[str, Any]) -> bool:
        """Sends a message that need not arrive (a request that will be repeated); returns whether it was sent."""
        client = self._client
        if client is None or not self.connected.is_set():
            return False
        client.publish(topics.up(self.place.id, *kind.split("/")), self._status.wrap(body).encode(), 0)
        return True

    # Running.

    def run(self) -> None:
        """Runs until `stop`."""
        worker = threading.Thread(target=self._work, name=f"{self.place.id} jobs", daemon=True)
        worker.start()
        pause = _SHORTEST_PAUSE
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    self._adopt()
                    self._session()
                except (OSError, EdgeError) as error:
                    _log.warning("%s: %s", self.place.id, error)
                except Exception:  # a device must not fall silent because of one connection
                    _log.exception("%s: a connection ended by a bug in edge", self.place.id)
                self._turn += 1
                if time.monotonic() - began > _GOOD_SESSION_SECONDS:
                    pause = _SHORTEST_PAUSE
                # Random: a thousand devices that lost their broker at once must not come back at once.
                self._stop.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(_LONGEST_PAUSE, pause * 2)
        finally:
            self._jobs.put(None)
            worker.join(5)
            self.outbox.close()

    def stop(self) -> None:
        """Has `run` say goodbye and return."""
        self._stop.set()
        self._wake.set()

    def _adopt(self) -> None:
        """Takes a new certificate that `edge device enroll --again` has brought for what this device is already."""
        joining = self.home.joining_place() if self.home.has_joined else None
        if joining is not None and joining.id == self.place.id and self.home.joins_same_fleet():
            self.home.adopt()
            self.place = joining
            _log.info("%s: goes on with the certificate of its new enrollment", self.place.id)

    def _session(self) -> None:
        """One connection, from its beginning to its end."""
        place = self.place
        brokers = place.brokers
        self._broker = broker = brokers[self._turn % len(brokers)]
        self._lost.clear()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id(place.id),
            protocol=self._protocol,
            reconnect_on_failure=False,
        )
        client.tls_set_context(self.home.trust())
        client.max_inflight_messages_set(2 * WINDOW)
        client.will_set(topics.up(place.id, "status"), self._online(False), QOS)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.connect(broker.host, broker.port, KEEPALIVE_SECONDS)
        self._client, self._taken_over = client, False
        client.loop_start()
        began = time.monotonic()
        try:
            self._serve(client)
        finally:
            if was_connected := self.connected.is_set():
                self._count_ends(began)
            if was_connected and not self._lost.is_set():
                with contextlib.suppress(RuntimeError):  # paho's word for: the connection is gone
                    client.publish(topics.up(place.id, "status"), self._online(False), QOS).wait_for_publish(2)
            self.connected.clear()
            self._client = None
            client.disconnect()
            client.loop_stop()
            self._sent.clear()
            if was_connected:
                self.home.note_connection(False, str(self._broker))

    def _count_ends(self, began: float) -> None:
        """Warns when session after session is taken away: a copy of this device's folder runs elsewhere."""
        now = time.monotonic()
        brief = self._lost.is_set() and not self._renewed and now - began < _GOOD_SESSION_SECONDS
        self._renewed = False
        if not self._taken_over and not brief:
            return
        self._thrown_out = [*(at for at in self._thrown_out if now - at < _THROWN_OUT_SECONDS), now]
        if len(self._thrown_out) >= _THROWN_OUT:
            self._thrown_out.clear()
            _log.warning(
                "%s: was thrown out %d times after connecting well: another machine uses this identity, or the broker "
                "is restarted; a copied device needs an enrollment of its own (edge device enroll --again)",
                self.place.id,
                _THROWN_OUT,
            )

    def _serve(self, client: mqtt.Client) -> None:
        deadline = time.monotonic() + _ANSWER_SECONDS
        next_renewal, last_beat, jitter = 0.0, -1e9, 1.0
        while not self._stop.is_set() and not self._lost.is_set():
            now = time.monotonic()
            if self.connected.is_set():
                if now >= last_beat + jitter * self._heartbeat:
                    last_beat, jitter = now, random.uniform(0.9, 1.1)  # noqa: S311
                    self._beat()
                if now >= next_renewal:
                    next_renewal = now + _RENEWAL_SECONDS
                    self._renew()
                self._send_waiting(client)
                if now >= self._answer_at:
                    self._answer_at = float("inf")
                    client.publish(topics.up(self.place.id, "status"), self._online(True), QOS)
                    self._sent.clear()  # the server was away: what was on its way may not have come
                next_beat = last_beat + jitter * self._heartbeat
                pause = max(0.01, min(next_beat - now, self._answer_at - now, _RESEND_SECONDS / 4))
            elif now > deadline:
                self._protocol = other_protocol(self._protocol, None)
                raise FleetError(f"the broker at {self._broker} does not answer")
            else:
                pause = 1.0
            self._wake.wait(pause)
            self._wake.clear()
            self._take_acknowledgements()
        if self._lost.is_set() and not self.connected.is_set():
            why = self._why_refused()
            raise FleetError(f"the broker at {self._broker} ends the connection ({why})")

    def _why_refused(self) -> str:
        if self.home.expired():
            return "its certificate has expired: enroll with --again"
        if not self._refusal:
            self._refusal = refusal(self._broker.host, self._broker.port, self.home.trust())
            self.home.note_connection(False, str(self._broker), self._refusal)
        if self._refusal == REVOKED:
            return "this device is revoked: it comes back with a new claim token: edge device enroll --again"
        return self._refusal or "is it revoked?"

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._taken_over = getattr(code, "value", 0) == _TAKEN_OVER
        self._now(self._lost)

    def _on_connect(self, client: mqtt.Client, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            _log.warning("%s: the broker does not let this device in: %s", self.place.id, code)
            self._protocol = other_protocol(self._protocol, code)
            self._lost.set()
            self._wake.set()
            return
        client.subscribe([(topics.everything_down(self.place.id), QOS), (topics.to_all("#"), QOS)])
        client.publish(topics.up(self.place.id, "status"), self._online(True), QOS)
        _log.info("%s: connected to %s", self.place.id, self._broker)

    def _on_subscribe(self, _client: mqtt.Client, _user: Any, _mid: int, codes: list[Any], _properties: Any) -> None:
        if any(code.is_failure for code in codes):  # a connection on which nothing would come down
            _log.warning("%s: the broker at %s lets this device hear nothing", self.place.id, self._broker)
            self._now(self._lost)
        else:
            self._refusal = ""
            self._now(self.connected)
            self.home.note_connection(True, str(self._broker))

    def _now(self, event: threading.Event) -> None:
        event.set()
        self._wake.set()

    def _online(self, online: bool) -> bytes:
        return self._status.wrap(Status(online).json()).encode()

    def _beat(self) -> None:
        self.inventory_changed()  # the first time, or something changed
        values = self._measure()
        self.telemetry({"uptime": round(time.monotonic(), 1), **values})

    def _say_hello(self) -> None:
        self._inventory = self._describe()
        self.report("hello", Hello(self._inventory).json())

    def _send_waiting(self, client: mqtt.Client) -> None:
        """Sends the oldest messages that are not on their way, up to a window, and again those that were lost."""
        now = time.monotonic()
        for _, kind, envelope in self.outbox.waiting(most=WINDOW):
            key = (envelope.boot, envelope.seq)
            if now - self._sent.get(key, -_RESEND_SECONDS) >= _RESEND_SECONDS:
                self._sent[key] = now
                client.publish(topics.up(self.place.id, *kind.split("/")), envelope.encode(), QOS)

    def _take_acknowledgements(self) -> None:
        by_boot: dict[str, list[int]] = {}
        while True:
            try:
                boot, seq, error = self._acks.get_nowait()
            except queue.Empty:
                break
            by_boot.setdefault(boot, []).append(seq)
            self._sent.pop((boot, seq), None)
            if error:
                _log.error("%s: the server refuses message %d: %s", self.place.id, seq, error)
        for boot, seqs in by_boot.items():
            self.outbox.acknowledged(boot, seqs)

    # What comes down.

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        try:
            kind, rest = topics.parse_down(message.topic, self.place.id)
            handler = self._down_handlers.get(kind)
            if handler is not None:
                handler(rest, bytes(message.payload))
        except EdgeError as error:
            _log.warning("%s: %s", self.place.id, error)
        except Exception:  # paho's thread must live on
            _log.exception("%s: a message on %s could not be taken", self.place.id, message.topic[:100])

    def _acknowledged(self, rest: tuple[str, ...], payload: bytes) -> None:
        fields = Fields(parse(payload, "ack"), "ack")
        boot, error = fields.text("boot", 16), fields.raw("error", "")
        if len(rest) != 1 or not rest[0].isdigit():
            raise BadMessage("ack: no number in its topic")
        told = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:500])
        self._acks.put((boot, int(rest[0]), told))
        self._wake.set()

    def _roll_called(self, rest: tuple[str, ...], payload: bytes) -> None:
        # At a random moment: all devices are asked at once.
        self._answer_at = time.monotonic() + random.uniform(0, ROLL_CALL_SECONDS)  # noqa: S311
        self._wake.set()

    def _job_came(self, rest: tuple[str, ...], payload: bytes) -> None:
        if len(rest) != 1:
            raise BadMessage("job: no id in its topic")
        job = Job.read(Envelope.read(payload, "job").body)
        for seen in self._job_seen:
            seen(rest[0], job)
        if rest[0] in self._queued_jobs:
            return
        # A server that floods, or takes no reports, must fill neither memory nor disk; an honest one sends again.
        if len(self._queued_jobs) >= MOST_JOBS or self.outbox.is_full:
            _log.warning("%s: too much to do, or to tell: a job is not taken now", self.place.id)
            return
        self._queued_jobs.add(rest[0])
        self._jobs.put((rest[0], job))

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            name, job = item
            try:
                self._tasks.do(name, job)
            except Exception:
                _log.exception("%s: job %s", self.place.id, name)
            finally:
                self._queued_jobs.discard(name)

    def _hello(self, job: str, arguments: dict[str, Any], report: Report) -> None:
        self._say_hello()
        report(JobReport("done"))

    def _set_heartbeat(self, seconds: float) -> None:
        self._heartbeat = seconds
        self._wake.set()

    # The certificate.

    def _renew(self) -> None:
        """Asks for the next certificate when it is time to, and again until it comes."""
        due = time.time() >= self.home.renewal_due()
        if due or self.home.waits_for():
            csr, der, _ = self.home.next_request()
            self.report("csr", CertificateRequest(csr, vouched=self.home.vouch(der)).json())
            _log.info("%s: asks for its next certificate", self.place.id)

    def _certificate_came(self, rest: tuple[str, ...], payload: bytes) -> None:
        answer = CertificateAnswer.read(Envelope.read(payload, "certificate").body)
        handler = self._board_answers.get(answer.key)
        if handler is not None:
            handler(answer)
        elif answer.state == "issued" and answer.device == self.place.id and answer.key == self.home.waits_for():
            self.place = self.home.accept(answer, self.place.host)
            _log.info("%s: has its next certificate", self.place.id)
            self._renewed = True
            self._lost.set()  # the next connection shows it
            self._wake.set()
