"""Updates within the agent: chunks over MQTT, jobs that bring models, and activation at its time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edge.fleet.device.board_update import BoardDevice, BoardUpdates
from edge.fleet.device.home import Home
from edge.fleet.device.install import Installer, UpdateJob
from edge.fleet.device.jobs import JobHandler, JobMemory, Report
from edge.fleet.device.models import ModelStore, Outcome
from edge.fleet.device.trusted_metadata import ROOT_BYTES, TrustedModels
from edge.fleet.errors import BadMessage
from edge.fleet.inventory import InstalledModel, Inventory
from edge.fleet.messages import BlobRequest, Job, JobReport
from edge.runtime.errors import EdgeError

_log = logging.getLogger("edge.fleet.updates")

UPDATE, CANCEL = "model.update", "model.cancel"

_ANSWER_SECONDS = 10.0
_ATTEMPTS = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0


class NoAnswer(EdgeError):
    """The server did not send a chunk in time: the connection is gone, or slow."""


class Agent(Protocol):
    """What updates need of the device that they are brought to: `edge.fleet.device.agent.Agent`, or a simulated one."""

    @property
    def home(self) -> Home: ...

    @property
    def outbox(self) -> JobMemory: ...

    @property
    def connected(self) -> threading.Event: ...

    def on_down(self, kind: str, handler: Callable[[tuple[str, ...], bytes], None]) -> None: ...

    def on_job(self, kind: str, handler: JobHandler) -> None: ...

    def on_job_seen(self, handler: Callable[[str, Job], None]) -> None: ...

    def report(self, kind: str, body: dict[str, Any]) -> None: ...

    def publish(self, kind: str, body: dict[str, Any]) -> bool: ...

    def inventory_changed(self) -> None: ...


class MqttSource:
    """Chunks that are asked for on `up/blob` and come on `down/blob/<name>/<offset>` (`edge.fleet.device.download`)."""

    def __init__(self, agent: Agent, seconds: float = _ANSWER_SECONDS) -> None:
        self._agent = agent
        self._seconds = seconds
        self._asking = threading.Lock()
        self._came: queue.SimpleQueue[tuple[str, int, bytes]] = queue.SimpleQueue()
        agent.on_down("blob", self._chunk_came)

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        """As `Source.fetch`.

        Raises:
            NoAnswer: none came, though it was asked for several times.
        """
        with self._asking:
            return self._fetch(name, offset, length)

    def _fetch(self, name: str, offset: int, length: int) -> bytes | None:
        for _ in range(_ATTEMPTS):
            if not self._agent.connected.wait(self._seconds):
                continue
            self._agent.publish("blob", BlobRequest(name, offset, length).json())
            deadline = time.monotonic() + self._seconds
            while (left := deadline - time.monotonic()) > 0:
                try:
                    found, at, data = self._came.get(timeout=left)
                except queue.Empty:
                    break
                if (found, at) == (name, offset):  # else what an earlier request's second answer brought
                    return None if not data and not offset else data
        raise NoAnswer(f"{name[:12]}…: the server sent nothing for {_ATTEMPTS * self._seconds:g} s")

    def _chunk_came(self, rest: tuple[str, ...], payload: bytes) -> None:
        if len(rest) != 2 or not rest[1].isdecimal():
            raise BadMessage("blob: no name and offset in its topic")
        if self._asking.locked():  # else nobody waits for it, and nobody would take it away
            self._came.put((rest[0], int(rest[1]), payload))


class Updates:
    """Brings the agent's device its models.

    Jobs of the kind "model.update" are done on the agent's thread for jobs; what waits for its time of activation is
    activated on a thread of its own, or by whoever calls `recover` and `activate_due` instead of `start`. Outcomes go
    through the agent's outbox, so that they arrive.

    Args:
        agent: of the device, not yet running.
        source: where chunks come from; over the agent's connection by default.
        options: for `Installer`.
    """

    def __init__(self, agent: Agent, source: Any = None, **options: Any) -> None:
        self._agent = agent
        self._source = source or MqttSource(agent)
        self._withdrawn: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._go_on = threading.Event()  # ends a pause between attempts
        self.installer = Installer(
            agent.home.folder, self._source, withdrawn=lambda job: job in self._withdrawn, **options
        )
        agent.on_job(UPDATE, self._update)
        agent.on_job(CANCEL, self._cancel)
        agent.on_job_seen(self._seen)

    def start(self) -> None:
        """Ends what a crash interrupted, and begins to wait for what is due."""
        self.recover()
        threading.Thread(target=self._activate, name="activation", daemon=True).start()

    def recover(self) -> None:
        """Ends what a crash interrupted."""
        with self._lock:
            outcomes = self.installer.recover()
        for outcome in outcomes:
            self._tell(outcome)

    def activate_due(self) -> float | None:
        """Activates what is due; returns when something is next, in seconds since 1970, or None."""
        with self._lock:
            outcomes = self.installer.due()
            due = self.installer.next_time()
        for outcome in outcomes:
            self._tell(outcome)
        return due

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        self._go_on.set()

    def for_board(
        self,
        folder: Path,
        open_device: Callable[[], BoardDevice],
        model_of: Callable[[Any], Any],
        withdrawn: Callable[[str], bool],
    ) -> BoardUpdates:
        """What installs on a board behind this device: over this device's connection, with what it trusts."""
        trust = self._agent.home.folder / "trust"
        return _TrustingBoardUpdates(
            self._first_root, folder, self._source, open_device, model_of, trust=trust, withdrawn=withdrawn
        )

    def _first_root(self) -> None:
        with self._lock:
            self._trust()

    def _update(self, job: str, arguments: dict[str, Any], report: Report) -> None:
        update = UpdateJob.read(job, arguments)
        pause = _FIRST_PAUSE
        while not self._stopped.is_set():
            try:
                with self._lock:
                    self._trust()
                    outcome = self.installer.install(update, _reporter(report, update.target))
            except EdgeError as error:
                # Nothing is wrong with the model: the connection is gone, or the disk is full.
                _log.warning("%s: %s", update.target, error)
                if job not in self._withdrawn:
                    self._go_on.wait(pause)
                    self._go_on.clear()
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            if outcome is not None:
                _log_outcome(outcome, update.target)
                report(JobReport(outcome.state, outcome.detail, outcome.metrics))
            self._wake.set()
            return

    def _cancel(self, job: str, arguments: dict[str, Any], report: Report) -> None:
        with self._lock:
            outcome = self.installer.cancel(str(arguments.get("job")))
        if outcome is not None:
            self._tell(outcome)
        report(JobReport("done", "" if outcome is not None else "nothing was waiting"))

    def _seen(self, name: str, job: Job) -> None:
        """On the network's thread: a job that is taken back must be known before the one that it is about is done."""
        if job.kind == CANCEL and len(self._withdrawn) < 10_000:
            self._withdrawn.add(str(job.arguments.get("job"))[:200])
            self._go_on.set()

    def _trust(self) -> None:
        """The first root came with the certificate; from a server too old for that it is asked for here."""
        folder = self._agent.home.folder / "trust"
        if (folder / "root.json").exists():
            return
        root = b""
        while len(root) <= ROOT_BYTES:
            chunk = self._source.fetch("1.root.json", len(root), 32768)
            root += chunk or b""
            if not chunk or len(chunk) < 32768:
                break
        TrustedModels.provision(folder, root)

    def _activate(self) -> None:
        while not self._stopped.is_set():
            due = self.activate_due()
            self._wake.wait(None if due is None else max(0.0, min(due - time.time(), 60.0)))
            self._wake.clear()

    def _tell(self, outcome: Outcome) -> None:
        _log_outcome(outcome, f"job {outcome.job}")
        self._agent.inventory_changed()  # before the end of the job: the next rollout notes what a device has
        body = JobReport(outcome.state, outcome.detail, outcome.metrics).json()
        self._agent.report(f"job/{outcome.job}", body)
        self._agent.outbox.note_job(outcome.job, outcome.state)


class _TrustingBoardUpdates(BoardUpdates):
    """Sees to it that there is a trusted root before the first update."""

    def __init__(self, first_root: Callable[[], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._first_root = first_root

    def update(self, *arguments: Any, **options: Any) -> Outcome | None:
        self._first_root()
        return super().update(*arguments, **options)


def with_models(home: Home, describe: Callable[[], Inventory]) -> Callable[[], Inventory]:
    """A description of the device that tells its models too."""
    store = ModelStore(home.folder / "models")

    def described() -> Inventory:
        return replace(describe(), models=tuple(InstalledModel(**row) for row in store.inventory()))

    return described


def _log_outcome(outcome: Outcome, what: str) -> None:
    level = logging.INFO if outcome.state == "active" else logging.WARNING
    _log.log(level, "%s: %s%s", what, outcome.state, f": {outcome.detail}" if outcome.detail else "")


def _reporter(report: Report, target: str) -> Callable[[str, str, Any], None]:
    def tell(state: str, detail: str, metrics: Any) -> None:
        size = f", {metrics['bytes']:,.0f} bytes" if "bytes" in metrics else ""
        _log.info("%s: %s%s", target, {"staged": "passed its trial"}.get(state, state), size)
        if state != "accepted":  # the agent has said so
            report(JobReport(state, detail, dict(metrics)))

    return tell
