"""How what devices send becomes part of the database: validated, committed in groups, and only then acknowledged.

The network thread hands messages to `offer`, which never waits; one thread commits them, as many in a transaction
as have gathered since the last (a disk that takes 5 ms to flush makes groups grow, not devices wait). After the
commit each message is answered by `down/ack/<seq>`; one that is well formed but wrong is answered too, with what is
wrong, or it would be repeated for ever. Repeats of what was committed are acknowledged and otherwise ignored.

One device cannot crowd out the others: each may have `MOST_WAITING` messages in the queue, and what it sends beyond is
dropped, for it to repeat; one that goes on sending faster than any agent of ours is handed to `on_flood`; and of what
one sends more slowly, so much is taken in an hour.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from edge.fleet import topics
from edge.fleet.errors import BadMessage, cause
from edge.fleet.messages import LONGEST, Envelope, Hello, JobReport, Status, Telemetry
from edge.fleet.server import enrollment, registry, tables
from edge.fleet.server.database import Database, claim
from edge.fleet.server.twins import Twins
from edge.runtime.errors import EdgeError

_log = logging.getLogger("edge.fleet.ingest")

MOST_WAITING = 2000
_MOST_QUEUED = 100_000
_MOST_IN_A_GROUP = 4000
# Faster than this for a whole window is no agent of ours, which waits for acknowledgements.
FLOOD_WINDOW = 2.0
FLOOD_MESSAGES, FLOOD_BYTES = 5000, 20_000_000
# What is kept fills the disk: a device has so much of it in an hour, and has to repeat what is beyond in the next.
HOUR_MESSAGES, HOUR_BYTES = 100_000, 64_000_000
_HOUR = 3600.0

# Who was written down as there is not written down again for so long.
_NOTE_SECONDS = 5.0
_ATTEMPTS, _DEADLOCKS = 3, ("40001", "40P01")

_ENCODER = json.JSONEncoder(separators=(",", ":"))

# Messages that are not kept: a status is replaced by the next, a blob's request by its answer.
_TRANSIENT = ("status", "blob")


@dataclass(frozen=True)
class Report:
    """A message that a device sent: what it is about, and its envelope."""

    device: str
    kind: str
    rest: tuple[str, ...]
    envelope: Envelope
    error: str = ""  # what is wrong with its body, if that was looked at

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is known by, for ever."""
        return self.device, self.envelope.boot, self.envelope.seq


@dataclass(frozen=True)
class Publication:
    """Something to publish once a transaction is committed."""

    topic: str
    payload: bytes
    qos: int = 0


Handler = Callable[[Connection, Report], "list[Publication] | None"]
"""Takes part in the transaction that keeps the report, once for each; what it returns is published after."""


@dataclass
class Counts:
    """Since the start: messages kept, repeats, those refused (malformed or wrong), dropped for their number, groups."""

    committed: int = 0
    repeated: int = 0
    refused: int = 0
    dropped: int = 0
    groups: int = 0

    def add(self, more: Counts) -> None:
        for name, value in vars(more).items():
            setattr(self, name, getattr(self, name) + value)


class _Presence:
    """What a group says of who is there.

    Attributes:
        online: whether a device is there, by the last that it said.
        said: those that said so themselves, or whose broker did: by a status.
        arrived: those that have connected, or answered a roll call.
        starts: devices that have said so, each with the number of its start, in order.
    """

    def __init__(self, reports: list[Report]) -> None:
        self.online: dict[str, bool] = {}
        self.said: set[str] = set()
        self.arrived: set[str] = set()
        self.starts: list[tuple[str, str]] = []
        for report in reports:
            if report.kind == "status":
                self.online[report.device] = here = _is_online(report)
                self.said.add(report.device)
                if here:
                    self.arrived.add(report.device)
                    self.starts.append((report.device, report.envelope.boot))
            elif report.kind != "csr":  # which another process may take in, and not in order
                self.online.setdefault(report.device, True)


class Ingest:
    """The queue and the thread that commits it.

    Args:
        database: the registry.
        publish: called with what is to be published, from the committing thread.
        on_flood: called with the id of a device that sends too much, at most once a window, from the network thread.
    """

    def __init__(
        self, database: Database, publish: Callable[[Publication], None], on_flood: Callable[[str], None] | None = None
    ) -> None:
        self._database = database
        self._publish = publish
        self._on_flood = on_flood or (lambda device: None)
        self._queue: queue.SimpleQueue[tuple[topics.Up, bytes] | None] = queue.SimpleQueue()
        self._waiting: Counter[str] = Counter()
        self._number_waiting = 0
        self._lock = threading.Lock()
        self._handlers: dict[str, list[Handler]] = {}
        self._arrivals: list[Callable[[Connection, list[str]], list[Publication]]] = []
        self._transient: dict[str, Callable[[str, Envelope], None]] = {}
        self._window_ends = 0.0
        self._sent: Counter[str] = Counter()
        self._sent_bytes: Counter[str] = Counter()
        self._flooding: set[str] = set()
        self._noted: dict[str, float] = {}
        self._twins = Twins()
        self._hour_ends = 0.0
        self._in_hour: Counter[str] = Counter()
        self._bytes_in_hour: Counter[str] = Counter()
        self._sated: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self.counts = Counts()
        self.on("hello", _hello)
        self.on("job", _job)

    def on(self, kind: str, handler: Handler) -> None:
        """Has `handler` see every new report of a kind ("job", "fl", "td", …), after those that were there before it.

        It takes part in a transaction that takes its turn among all writers, also those of other processes. It
        validates the body and raises `BadMessage` if that is wrong: the device is told and does not repeat it.
        """
        self._handlers.setdefault(kind, []).append(handler)

    def on_arrival(self, action: Callable[[Connection, list[str]], list[Publication]]) -> None:
        """Has `action` be told of devices that have connected, or answered a roll call, within the transaction."""
        self._arrivals.append(action)

    def on_transient(self, kind: str, handler: Callable[[str, Envelope], None]) -> None:
        """Has `handler(device, envelope)` see messages of a kind that is not kept ("blob"), outside a transaction."""
        self._transient[kind] = handler

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Commits what has come in and ends the thread."""
        self._queue.put(None)
        self._thread.join(30)

    def offer(self, topic: str, payload: bytes) -> None:
        """Takes a message in, or drops it: for its topic or size, or because its device has too many waiting."""
        try:
            up = topics.parse_up(topic)
        except BadMessage as error:
            self.counts.refused += 1
            _log.warning("%s", error)
            return
        if self._floods(up.device, len(payload), up.kind not in _TRANSIENT):
            self.counts.dropped += 1
            return
        with self._lock:
            if self._waiting[up.device] >= MOST_WAITING or self._number_waiting >= _MOST_QUEUED:
                self.counts.dropped += 1
                return
            self._waiting[up.device] += 1
            self._number_waiting += 1
        self._queue.put((up, payload[: LONGEST + 1]))

    def _floods(self, device: str, size: int, kept: bool) -> bool:
        now = time.monotonic()
        if now > self._hour_ends:
            self._hour_ends = now + _HOUR
            self._in_hour.clear()
            self._bytes_in_hour.clear()
            self._sated.clear()
        if now > self._window_ends:
            self._window_ends = now + FLOOD_WINDOW
            self._sent.clear()
            self._sent_bytes.clear()
            self._flooding.clear()
        self._sent[device] += 1
        self._sent_bytes[device] += size
        if self._sent[device] <= FLOOD_MESSAGES and self._sent_bytes[device] <= FLOOD_BYTES:
            return kept and self._has_had_its_share(device, size)
        if device not in self._flooding:
            self._flooding.add(device)
            self._on_flood(device)
        return True

    def _has_had_its_share(self, device: str, size: int) -> bool:
        if self._in_hour[device] >= HOUR_MESSAGES or self._bytes_in_hour[device] + size > HOUR_BYTES:
            if device not in self._sated:
                self._sated.add(device)
                _log.warning("%s: has filled its share of this hour: what it sends is not taken until the next", device)
            return True
        self._in_hour[device] += 1
        self._bytes_in_hour[device] += size
        return False

    def _run(self) -> None:
        ended = False
        while not ended:
            group = [self._queue.get()]
            while len(group) < _MOST_IN_A_GROUP:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = None in group
            messages = [message for message in group if message is not None]
            with self._lock:
                self._number_waiting -= len(messages)
                for up, _ in messages:
                    self._waiting[up.device] -= 1
                    if not self._waiting[up.device]:
                        del self._waiting[up.device]
            if not messages:
                continue
            try:
                self._commit(messages)
            except Exception as error:  # a full disk, a database away: nothing is acknowledged, all will be repeated
                _log.exception(
                    "%d messages could not be committed (%s): their devices will repeat them",
                    len(messages),
                    cause(error),
                )
                time.sleep(0.5)

    def _commit(self, messages: list[tuple[topics.Up, bytes]]) -> None:
        reports = self._read(messages)
        presence = _Presence(reports)
        for device, boot in presence.starts:
            self._twins.came(device, boot)
        # What is only kept goes beside other processes' transactions; what handlers write has to take its turn.
        alone = [one for one in reports if one.kind in self._handlers]
        quiet = [one for one in reports if one.kind not in self._handlers]
        parts = [reports] if self._database.is_sqlite or not alone else [part for part in (alone, quiet) if part]
        for part in parts:
            in_turn = part is not quiet
            last = part is parts[-1]
            publications = self._transact(part, in_turn, presence if last else None)
            for publication in publications:
                self._publish(publication)
        for report in reports:
            if report.kind in self._transient:
                self._answer(report)

    def _read(self, messages: list[tuple[topics.Up, bytes]]) -> list[Report]:
        reports = []
        for up, payload in messages:
            try:
                envelope = Envelope.read(payload, f"{up.device} {up.kind}")
            except BadMessage as error:  # it has no number by which it could be answered
                self.counts.refused += 1
                _log.warning("%s", error)
                continue
            error_text = ""
            if (check := _CHECKS.get(up.kind)) is not None:  # not within the transaction, for which others wait
                try:
                    check(envelope.body, f"{up.device} {up.kind}")
                except BadMessage as error:
                    error_text = str(error)
            reports.append(Report(up.device, up.kind, up.rest, envelope, error_text))
        return reports

    def _answer(self, report: Report) -> None:
        try:
            self._transient[report.kind](report.device, report.envelope)
        except EdgeError as error:
            self.counts.refused += 1
            _log.warning("%s: %s", report.device, error)
        except Exception as error:
            _log.exception("%s: a request for a %s failed (%s)", report.device, report.kind, cause(error))

    def _transact(self, reports: list[Report], in_turn: bool, presence: _Presence | None) -> list[Publication]:
        for attempt in range(_ATTEMPTS):
            counts = Counts(groups=1)
            try:
                with self._database.transaction(in_turn) as connection:
                    publications = self._keep(connection, reports, counts)
                    noted = self._note(connection, presence, publications) if presence else {}
            except sa.exc.DBAPIError as error:
                # PostgreSQL ends one of two that wait for each other; what it undid can be done again.
                if getattr(error.orig, "sqlstate", None) not in _DEADLOCKS or attempt == _ATTEMPTS - 1:
                    raise
                continue
            self.counts.add(counts)
            self._noted.update(noted)
            break
        return publications

    def _keep(self, connection: Connection, reports: list[Report], counts: Counts) -> list[Publication]:
        now = time.time()
        known = self._active(connection, {report.device for report in reports})
        rows = {
            one.key: _row(one, now)
            for one in reports
            if one.device in known and not one.error and one.kind not in _TRANSIENT
        }
        fresh = claim(connection, tables.reports, list(rows.values())) if rows else set()
        refused: list[tuple[str, str, int]] = []
        publications: list[Publication] = []
        for report in reports:
            if report.device not in known:
                counts.refused += 1
                _log.warning("%s: not an active device of this fleet: its %s is not taken", report.device, report.kind)
                continue
            if report.kind in _TRANSIENT:
                continue
            error = report.error
            if error:
                counts.refused += 1
            elif report.key in fresh:
                fresh.remove(report.key)
                if report.kind in self._handlers:
                    answers, error = self._handle(connection, report)
                    publications.extend(answers)
                if error:
                    counts.refused += 1
                    refused.append(report.key)
                else:
                    counts.committed += 1
            else:
                counts.repeated += 1
            publications.append(_acknowledgement(report, error))
        if refused:
            table = tables.reports
            key = [table.c[name] == sa.bindparam(f"_{name}") for name in ("device", "boot", "seq")]
            parameters = [{"_device": device, "_boot": boot, "_seq": seq} for device, boot, seq in refused]
            connection.execute(table.delete().where(*key), parameters)
        return publications

    def _note(self, connection: Connection, presence: _Presence, publications: list[Publication]) -> dict[str, float]:
        """Writes down who is there and was heard; what is known and was written a moment ago is left."""
        now, table = time.time(), tables.devices
        due = {
            device: here
            for device, here in presence.online.items()
            if device in presence.said or self._noted.get(device, 0.0) < now - _NOTE_SECONDS
        }
        if due:
            seen = table.update().where(table.c.id == sa.bindparam("of"), table.c.state == "active")
            connection.execute(
                seen.values(online=sa.bindparam("on"), last_seen=now),
                [{"of": device, "on": here} for device, here in sorted(due.items())],
            )
        if presence.arrived:
            arrived = sorted(self._active(connection, presence.arrived))
            publications.extend(one for action in self._arrivals for one in action(connection, arrived))
        return {device: now if here else 0.0 for device, here in due.items()}

    def _handle(self, connection: Connection, report: Report) -> tuple[list[Publication], str]:
        """Lets the handlers of a report's kind see it; what is wrong with it, if anything is, undoes what they did."""
        handlers = self._handlers.get(report.kind, ())
        savepoint = connection.begin_nested()
        try:
            publications = [one for handler in handlers for one in handler(connection, report) or ()]
        except EdgeError as error:
            savepoint.rollback()
            _log.warning("%s: %s", report.device, error)
            return [], str(error)
        except sa.exc.DBAPIError:
            raise
        except Exception:
            savepoint.rollback()
            _log.exception("%s: a report of the kind %s could not be handled", report.device, report.kind)
            return [], "the server could not handle it, which is a bug of the server's"
        savepoint.commit()
        return publications, ""

    def _active(self, connection: Connection, devices: set[str]) -> set[str]:
        table = tables.devices
        query = sa.select(table.c.id).where(table.c.id.in_(devices), table.c.state == "active")
        return set(connection.scalars(query))


def _row(report: Report, now: float) -> dict[str, Any]:
    envelope = report.envelope
    return {
        "device": report.device,
        "boot": envelope.boot,
        "seq": envelope.seq,
        "kind": "/".join((report.kind, *report.rest)),
        "at": envelope.at,
        "received_at": now,
        "body": _ENCODER.encode(envelope.body),
    }


def _acknowledgement(report: Report, error: str) -> Publication:
    boot, topic = report.envelope.boot, topics.down(report.device, "ack", str(report.envelope.seq))
    if error:
        return Publication(topic, _ENCODER.encode({"boot": boot, "error": error[:500]}).encode())
    return Publication(topic, b'{"boot":"%b"}' % boot.encode())  # hexadecimal digits: nothing to escape


def _is_online(report: Report) -> bool:
    try:
        return Status.read(report.envelope.body, f"{report.device} status").online
    except BadMessage:
        return True


def _hello(connection: Connection, report: Report) -> None:
    registry.hello(connection, report.device, Hello.read(report.envelope.body, f"{report.device} hello").inventory)
    enrollment.certified(connection, report.device)


def _job(connection: Connection, report: Report) -> None:
    body = JobReport.read(report.envelope.body, f"{report.device} job")
    registry.job_reported(connection, report.device, report.rest[0], body)


# Bodies that are read only to see that they can be.
_CHECKS: dict[str, Callable[[object, str], object]] = {"tel": Telemetry.read}
