"""A simulation: processes of simulated devices, begun, watched and ended."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.fleet.addresses import Address, local, parse_url
from edge.fleet.device.home import Home
from edge.fleet.errors import FleetError
from edge.fleet.identity import device_id
from edge.fleet.lock import hold
from edge.fleet.server.running import running_pid
from edge.fleet.server.state import Settings, State
from edge.fleet.simulate import membership
from edge.fleet.simulate.limits import raise_open_files
from edge.fleet.simulate.worker import Task

MOST = 99_999
DEVICES_IN_A_PROCESS = 2500
"""By default; a process is one core's worth of Python."""

_DRAIN_SECONDS, _END_SECONDS = 60.0, 30.0
# So many devices begin to connect in a second.
_CONNECTS_A_SECOND = 250


@dataclass(frozen=True)
class Options:
    """How devices are simulated.

    Attributes:
        count: how many devices.
        every: seconds between the reports of each.
        prefix: their ids are prefix-00001 and so on.
        labels: that all say they have.
        processes: how many; 0: as many as `DEVICES_IN_A_PROCESS` asks for.
        fail_share: share of the devices on which each new model fails its health check.
        broker: URL of the broker, with one or several addresses; "": the fleet's own.
        log: level of what devices log.
    """

    count: int
    every: float = 30.0
    prefix: str = "sim"
    labels: dict[str, str] = field(default_factory=dict)
    processes: int = 0
    fail_share: float = 0.0
    broker: str = ""
    log: str = "warning"

    def names(self) -> list[str]:
        """The devices' ids."""
        return [device_id(f"{self.prefix}-{number:05}", "--prefix") for number in range(1, self.count + 1)]


@dataclass
class Totals:
    """What all devices have done so far, and how they are."""

    devices: int = 0
    connected: int = 0
    sent: int = 0
    resent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unacknowledged: int = 0
    dropped: int = 0
    connects: int = 0
    lost: int = 0
    enrolled: int = 0
    failures: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, said: dict[str, Any]) -> None:
        """Adds what one process says of its devices."""
        for name, value in said.items():
            if name in ("jobs", "models", "failed"):
                getattr(self, name).update(value)
            elif name not in ("ended", "quiet"):
                setattr(self, name, getattr(self, name) + value)


class Simulation:
    """The devices of one folder of a fleet's state.

    Args:
        state: of the fleet that the devices belong to.
        options: how.
        actor: who asked for it, for the audit log.
    """

    def __init__(self, state: State, options: Options, actor: str) -> None:
        self._state = state
        self._options = options
        self._actor = actor
        self.folder = folder_of(state)
        self._workers: list[_Process] = []
        self._asked: list[str] = []
        self._undo = contextlib.ExitStack()

    def start(self, told: Callable[[int], None] = lambda done: None) -> int:
        """Starts all processes; those of its devices that have no certificate yet begin by enrolling.

        Args:
            told: told how many claim tokens were made.

        Returns:
            How many devices have to enroll.

        Raises:
            FleetError: the fleet does not run, the devices are simulated already, or a process may not have as many
                connections.
        """
        options, settings = self._options, self._state.settings()
        names = options.names()
        processes = options.processes or math.ceil(len(names) / DEVICES_IN_A_PROCESS)
        raise_open_files(math.ceil(len(names) / processes))  # the processes inherit it
        if running_pid(self._state) is None:
            raise FleetError(f"{self._state.folder}: this fleet does not run: start it with 'edge fleet up'")
        lock = self._undo.enter_context(only_one(self.folder))
        brokers, boot = _listeners(settings, options.broker)
        with self._undo.pop_all() as undo:
            new = [name for name in names if not _enrolled(self.folder / name)]
            database = self._state.database()
            try:
                tokens = membership.issue_tokens(database, new, self._actor, told)
            finally:
                database.close()
            self._asked = list(tokens)
            for number in range(processes):
                own = names[number::processes]
                task = Task(
                    folder=str(self.folder),
                    devices=own,
                    tokens={name: tokens[name] for name in own if name in tokens},
                    boot=boot,
                    brokers=brokers,
                    labels=options.labels,
                    every=options.every,
                    faulty=options.fail_share,
                    ramp=len(names) / _CONNECTS_A_SECOND,
                    log=options.log,
                )
                worker = _Process(task, lock)
                undo.callback(worker.end, 0)
                self._workers.append(worker)
            self._undo = undo.pop_all()
        return len(new)

    @property
    def pids(self) -> list[int]:
        """The processes that hold the devices."""
        return [worker.pid for worker in self._workers]

    def totals(self) -> Totals:
        """How it stands.

        Raises:
            FleetError: a process of devices has died.
        """
        totals = Totals()
        for worker in self._workers:
            totals.add(worker.said())
        return totals

    def drain(self, seconds: float = _DRAIN_SECONDS) -> None:
        """Has the devices report nothing new, and waits until all jobs are done and all is acknowledged, so long."""
        for worker in self._workers:
            worker.say("drain")
        deadline = time.monotonic() + seconds
        while not all(worker.said().get("quiet") for worker in self._workers) and time.monotonic() < deadline:
            time.sleep(0.2)

    def stop(self) -> Totals:
        """Has all devices say goodbye, and ends the processes; returns how it stood at the end."""
        for worker in self._workers:
            worker.say("stop")
        deadline = time.monotonic() + _END_SECONDS
        for worker in self._workers:
            worker.end(max(0.0, deadline - time.monotonic()))
        totals = Totals()
        for worker in self._workers:
            totals.add(worker.last)
        if totals.enrolled < len(self._asked):
            database = self._state.database()
            membership.close_unused(database, self._asked)
            database.close()
        self._undo.close()
        return totals


class _Process:
    """A process of devices, as its parent sees it; it holds the file `lock` open for as long as it lives."""

    def __init__(self, task: Task, lock: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge.fleet.simulate.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(lock,),
        )
        self.pid = self._process.pid
        self.last: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.say(task.line().strip())

    def said(self) -> dict[str, Any]:
        """What it has said last.

        Raises:
            FleetError: it has died.
        """
        if self._process.poll() is not None:
            raise FleetError(f"a process of simulated devices ended with {self._process.returncode}: see its log above")
        return self.last

    def say(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which `said` tells
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()

    def end(self, seconds: float) -> None:
        """Waits so long for it to end, and then ends it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last = json.loads(line)


def _enrolled(home: Path) -> bool:
    return home.is_dir() and Home(home).place() is not None


def folder_of(state: State) -> Path:
    """Where a fleet's simulated devices have their homes."""
    return state.folder / "simulated"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Holds the folder's lock, whose descriptor is given: a device must not be simulated twice at once.

    Raises:
        FleetError: somebody else has it.
    """
    folder.mkdir(exist_ok=True, mode=0o700)
    with hold(folder / "lock", f"{folder}: these devices are simulated already") as lock:
        yield lock


def _listeners(settings: Settings, broker: str) -> tuple[list[str], list[str]]:
    """Addresses of the broker and of its bootstrap listeners, as this machine reaches them."""
    here = local(settings.host)
    url = broker or settings.broker
    brokers = parse_url(url, 8883, "--broker") if url else (Address(here, settings.port),)
    if broker and not settings.boot:
        boot = tuple(Address(host, settings.boot_port) for host in dict.fromkeys(one.host for one in brokers))
    else:
        boot = settings.boot_addresses(here)
    return list(map(str, brokers)), list(map(str, boot))
