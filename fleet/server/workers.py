"""The workers of a server: started, watched, started again when they end, ended with it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

from edge.fleet.errors import FleetError
from edge.fleet.identity import WORKER_IDS
from edge.fleet.logs import how_it_logs
from edge.fleet.server.authority import Authority
from edge.fleet.server.ingest import Counts
from edge.fleet.server.link import BrokerAddress, write_identity
from edge.fleet.server.state import Settings, State
from edge.fleet.server.worker import Orders
from edge.runtime.errors import BadFile
from edge.runtime.fields import Fields
from edge.runtime.whole_file import whole_file

_log = logging.getLogger("edge.fleet.workers")

_UP_SECONDS, _STOP_SECONDS = 60.0, 12.0
# It says how it does every second: one that does not for so long has hung.
_SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class WorkerReport:
    """How one worker does, for metrics and `edge fleet status`. Counts are since the server's start.

    Attributes:
        up: whether it runs and has the broker.
        restarts: how often it was started again.
        devices: of its shard.
    """

    worker: int
    up: bool
    pid: int
    restarts: int
    devices: int
    committed: int
    repeated: int
    refused: int
    dropped: int
    groups: int


class _Process:
    """One worker and the thread that watches it."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"worker {orders.number}", daemon=True)
        self._figures: dict[str, Any] = {}
        self._said_at = 0.0
        self._before = Counts()  # of those that have ended
        self._restarts = 0
        self.up = threading.Event()

    def start(self) -> None:
        self._launch()
        self._thread.start()

    def stop(self) -> None:
        """Has it end; `join` waits for that."""
        with self._lock:
            self._stopping.set()
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def join(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(5)

    def kill_if_silent(self) -> None:
        with self._lock:
            if self._process is not None and time.monotonic() > self._said_at + _SILENT_SECONDS:
                self._process.kill()

    def report(self) -> WorkerReport:
        with self._lock:
            now, before = self._figures, self._before
            process = self._process
            counts = {name: now.get(name, 0) + value for name, value in dataclasses.asdict(before).items()}
            up = process is not None and process.poll() is None and bool(now.get("connected"))
            pid = process.pid if process else 0
            return WorkerReport(self._orders.number, up, pid, self._restarts, now.get("devices", 0), **counts)

    def _launch(self) -> None:
        # Modules come from where ours came from, and never from the folder in which the server was started.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
        command = [sys.executable, "-m", "edge.fleet.server.worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=environment)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(dataclasses.asdict(self._orders)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:  # it has ended: so says `_watch`
            pass
        with self._lock:
            self._process, self._figures, self._said_at = process, {}, time.monotonic()
            if self._stopping.is_set():
                process.stdin.close()

    def _watch(self) -> None:
        failures = 0
        while True:
            process = self._process
            assert process is not None and process.stdout is not None
            started = time.monotonic()
            self._read(process.stdout)
            process.wait()
            with self._lock:
                for name in dataclasses.asdict(self._before):
                    setattr(self._before, name, getattr(self._before, name) + self._figures.get(name, 0))
                self._figures = {}
            if self._stopping.is_set():
                return
            failures = failures + 1 if time.monotonic() - started < 10 else 0
            _log.error("worker %d ended with %s: starting it again", self._orders.number, process.returncode)
            if self._stopping.wait(min(30.0, 0.1 * 2**failures) * random.uniform(0.5, 1.0)):  # noqa: S311
                return
            self._launch()
            self._restarts += 1

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            with self._lock:
                self._figures, self._said_at = json.loads(line), time.monotonic()
            self.up.set()


class Workers:
    """All workers of a server.

    Args:
        state: of the fleet.
        settings: `workers` of them, on `database`.
        address: of the broker.
        authority: makes their identities.
    """

    def __init__(self, state: State, settings: Settings, address: BrokerAddress, authority: Authority) -> None:
        self._state = state
        level, as_json = how_it_logs()
        self._processes = []
        for number in range(1, settings.workers + 1):
            identity, _ = authority.service(WORKER_IDS[number - 1])
            write_identity(state.worker_identity(number), identity)
            orders = Orders(
                number=number,
                workers=settings.workers,
                folder=str(state.folder.resolve()),
                database=settings.database or str(state.registry.resolve()),
                brokers=tuple(map(str, address.brokers)),
                most_qos=settings.most_qos,
                root=authority.root_pem,
                log=level,
                log_json=as_json,
            )
            self._processes.append(_Process(orders))
        self._written: list[WorkerReport] | None = None

    def start(self) -> None:
        """Returns when all of them hear their devices.

        Raises:
            FleetError: one does not come up.
        """
        for process in self._processes:
            process.start()
        deadline = time.monotonic() + _UP_SECONDS
        for number, process in enumerate(self._processes, 1):
            if not process.up.wait(max(0.0, deadline - time.monotonic())):
                self.stop()
                raise FleetError(f"worker {number} did not start: the log says why")
        self.write_reports()

    def stop(self) -> None:
        """Ends all and waits for them: what has come in is committed and acknowledged first."""
        for process in self._processes:
            process.stop()
        for process in self._processes:
            process.join()
        self._state.workers.unlink(missing_ok=True)

    def reports(self) -> list[WorkerReport]:
        return [process.report() for process in self._processes]

    def write_reports(self) -> None:
        """Puts down how they do, for commands of the operator; looks whether one has hung. Called now and then."""
        for process in self._processes:
            process.kill_if_silent()
        if (reports := self.reports()) != self._written:
            with whole_file(self._state.workers) as file:
                file.write(json.dumps([dataclasses.asdict(report) for report in reports]).encode())
            self._written = reports


def read_reports(state: State) -> list[WorkerReport]:
    """What the running server last put down about its workers.

    Raises:
        FleetError: the file is damaged.
    """
    where = str(state.workers)
    try:
        found: object = json.loads(state.workers.read_text())
        return list(Fields({"workers": found}, where).items("workers", len(WORKER_IDS), _report))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, BadFile) as error:
        raise FleetError(f"{where}: damaged ({error}): the next start of the server writes it anew") from error


def _report(value: object, where: str) -> WorkerReport:
    fields = Fields(value, where)
    names = [field.name for field in dataclasses.fields(WorkerReport) if field.name != "up"]
    found = {name: fields.integer(name, 0, 2**63 - 1) for name in names}
    report = WorkerReport(up=fields.boolean("up"), **found)
    fields.done()
    return report
