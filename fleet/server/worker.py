"""A worker: a process that takes in what the devices of one shard say, beside the server and the other workers.

    python -m edge.fleet.server.worker     (the server starts it: `edge.fleet.server.workers`)

It is told what to do by a line of JSON on standard input, says how it does on standard output, a line a second, and
ends when its input does: that is when the server ends, however that comes about. It has a connection to the broker
under a name of its own, which may hear devices and answer them and nothing else, and one to the database. What has to
be done once for the fleet, with the authority's key or at certain times, is the server's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.fleet.addresses import Address
from edge.fleet.errors import FleetError
from edge.fleet.identity import WORKER_IDS
from edge.fleet.logs import log_to_stderr
from edge.fleet.server.database import Database, emit
from edge.fleet.server.follower import Follower
from edge.fleet.server.ingest import Ingest, Publication
from edge.fleet.server.jobs import Jobs
from edge.fleet.server.link import BrokerAddress, Link
from edge.fleet.server.shard import Shard
from edge.fleet.server.state import State
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.service import Reports
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.store import BlobStore
from edge.runtime.errors import EdgeError

_log = logging.getLogger("edge.fleet.server")

FLOODED = "device.flooded"
"""The event by which a worker has the server shut a device out."""

_SAY_SECONDS = 1.0
_UP_SECONDS = 30.0
# What has come in is committed; a database that is away must not keep an ended server's worker alive.
_END_SECONDS = 10.0


@dataclass(frozen=True)
class Orders:
    """What a worker is told.

    Attributes:
        number: its own, 1 to `workers`.
        folder: of the fleet's state.
        database: URL or path of the registry.
        brokers: main listeners, "host:port", of which one is as good as another.
        most_qos: as of `Link`.
        root: certificate of the fleet's root, PEM.
        log, log_json: as of `log_to_stderr`.
    """

    number: int
    workers: int
    folder: str
    database: str
    brokers: tuple[str, ...]
    most_qos: int
    root: str
    log: str
    log_json: bool

    @property
    def identity(self) -> Path:
        """The worker's key and certificate, which the server has put there."""
        return State(Path(self.folder)).worker_identity(self.number)


class Worker:
    """The services of one shard.

    Raises:
        FleetError: from `start`: the broker or the database does not let it in.
    """

    def __init__(self, orders: Orders) -> None:
        self.state = State(Path(orders.folder))
        self.database = Database(orders.database)
        first, *others = (Address.parse(each, 0, "broker") for each in orders.brokers)
        self.link = Link(
            BrokerAddress(first.host, first.port, 0, tuple(others)),
            WORKER_IDS[orders.number - 1],
            orders.identity,
            orders.root,
            self._on_connect,
            self._on_message,
            4,
            self._on_granted,
            orders.most_qos,
        )
        self.shard = Shard(self.database, self.link, orders.number, orders.workers)
        self.ingest = Ingest(self.database, self.publish, self._flood)
        self.ingest.on_arrival(Jobs(self.database, self.link).came_in)
        Reports(self, Source(ModelRepository(self.state.tuf), BlobStore(self.state.models)))
        self._follower = Follower(self.database)
        self._follower.follow("device.changed", self.shard.changed)
        self._follower.follow("device.removed", self.shard.changed)
        self._follower.every(1, self.shard.end_roll_calls)

    def publish(self, publication: Publication) -> None:
        """Publishes, if the broker is there; what matters is in the database and is sent again."""
        self.link.publish(publication)

    def start(self) -> None:
        """Returns when the shard's devices are heard."""
        last_event = self.database.last_event()
        self.shard.load()
        self.ingest.start()
        self.link.start()
        self._follower.start(last_event)
        if not self.shard.heard.wait(_UP_SECONDS):
            raise FleetError("the broker does not answer the worker's subscriptions")

    def stop(self) -> None:
        """What has come in is committed and acknowledged first."""
        self._follower.stop()
        self.ingest.stop()
        self.link.stop()
        self.database.close()

    def figures(self) -> dict[str, object]:
        """How it does, for the server."""
        connected = self.link.connected.is_set()
        return {"connected": connected, "devices": len(self.shard), **asdict(self.ingest.counts)}

    def _on_connect(self) -> None:
        self.shard.connected()

    def _on_granted(self, packet: int, failed: bool) -> None:
        self.shard.granted(packet, failed)

    def _on_message(self, topic: str, payload: bytes) -> None:
        if not topic.endswith("/up/csr"):  # signed by the server, who has the key
            self.ingest.offer(topic, payload)

    def _flood(self, device: str) -> None:
        threading.Thread(target=self._report_flood, args=(device,), name="flood", daemon=True).start()

    def _report_flood(self, device: str) -> None:
        with self.database.transaction() as connection:
            emit(connection, FLOODED, device, {})


def run(orders: Orders) -> None:
    """Works until standard input ends, or SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the server, which ends its workers
    signal.signal(signal.SIGTERM, lambda *_: ended.set())

    def wait_for_end() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        ended.set()
        # Also where it still waits for a broker that has ended with the server.
        _end_within(_END_SECONDS)

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()
    worker = Worker(orders)
    try:
        worker.start()
        while not ended.is_set():
            sys.stdout.write(json.dumps(worker.figures()) + "\n")
            sys.stdout.flush()
            ended.wait(_SAY_SECONDS)
    except BrokenPipeError:  # the server is gone
        pass
    finally:
        _end_within(_END_SECONDS)
        worker.stop()


def _end_within(seconds: float) -> None:
    """Ends this process then at the latest, whatever it waits for."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _orders() -> Orders:
    """The first line of standard input, of which nothing is to be left in a buffer whose lock a thread would hold."""
    line = b""
    while not line.endswith(b"\n"):
        if not (more := os.read(0, 65536)):
            sys.exit(1)
        line += more
    return Orders(**json.loads(line))


def main() -> None:
    orders = _orders()
    log_to_stderr(orders.log, orders.log_json, orders.number)
    try:
        run(orders)
    except EdgeError as error:
        _log.error("%s", error)
        sys.exit(1)
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()


if __name__ == "__main__":
    main()
