"""Boards that have no network, presented to the fleet as devices of their own by the device that they are attached to.

Each board gets an id below the gateway's ("attic.mic1"), a key and a certificate of its own, kept in the gateway's
folder under boards/, and a connection of its own: for the broker and the registry it is a device like any other, with
its own topics, which the gateway's certificate does not open. The gateway asks for a board's first certificate over its
own connection (`up/csr`); the operator approves it like any other; from then on the board's agent renews it by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any, Protocol

from edge.fleet.device.agent import Agent
from edge.fleet.device.home import Home
from edge.fleet.device.jobs import Report
from edge.fleet.errors import FleetError
from edge.fleet.identity import attached_to
from edge.fleet.inventory import Inventory
from edge.fleet.messages import CertificateAnswer, CertificateRequest

_log = logging.getLogger("edge.fleet.gateway")

# How often a board that was not approved yet is asked about again: the answer may have come while nobody listened.
_ASK_AGAIN_SECONDS = 300.0


class Board(Protocol):
    """What a gateway needs of a board; the firmware bridge's link to one has it."""

    @property
    def name(self) -> str:
        """What follows the gateway's id and the dot: "mic1"."""
        ...

    def inventory(self) -> Inventory:
        """What the board says of itself now; raises `OSError` or `EdgeError` while it does not answer."""
        ...

    def measure(self) -> dict[str, float | int | str | bool]:
        """Values to report at each heartbeat."""
        ...

    def seen(self, job: str, kind: str, arguments: dict[str, Any]) -> None:
        """Sees a job as it comes, before its turn, on the network's thread: it must be quick."""
        ...

    def do(self, job: str, kind: str, arguments: dict[str, Any], report: Report) -> None:
        """Does a job of a kind that the agent does not do by itself, as `edge.fleet.device.agent.JobHandler` says."""
        ...


class Gateway:
    """Enrolls the boards behind an agent and runs an agent for each.

    Args:
        agent: the gateway's own, which need not run yet.
        boards: those attached.
        heartbeat: seconds between heartbeats of each board.
    """

    def __init__(self, agent: Agent, boards: Iterable[Board], heartbeat: float = 30.0) -> None:
        self._agent = agent
        self._boards = {board.name: board for board in boards}
        self._heartbeat = heartbeat
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Agent, threading.Thread]] = {}
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        for name in self._boards:
            if not attached_to(f"{agent.place.id}.{name}", agent.place.id):
                raise FleetError(f"board {name!r}: its name must make a device's id: {agent.place.id}.{name}")

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the boards, for the gateway's own inventory."""
        return tuple(f"{self._agent.place.id}.{name}" for name in self._boards)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Says goodbye for every board."""
        self._stop.set()
        self._thread.join(10)
        with self._lock:
            running, self._running = dict(self._running), {}
        for agent, _ in running.values():
            agent.stop()
        for _, thread in running.values():
            thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            for name, board in self._boards.items():
                if name in self._running:
                    continue
                home = Home(self._agent.home.folder / "boards" / name)
                try:
                    if home.place() is None:
                        self._ask(home, board)
                    else:
                        self._present(home, board)
                except (OSError, FleetError) as error:
                    _log.warning("%s: %s", name, error)
            self._stop.wait(_ASK_AGAIN_SECONDS)

    def _ask(self, home: Home, board: Board) -> None:
        """Asks for the board's first certificate, or what became of the request."""
        csr, _, key = home.next_request()
        device = f"{self._agent.place.id}.{board.name}"
        self._agent.on_board_certificate(key, lambda answer: self._answered(home, board, answer))
        self._agent.report("csr", CertificateRequest(csr, device, inventory=board.inventory()).json())

    def _answered(self, home: Home, board: Board, answer: CertificateAnswer) -> None:
        if answer.state != "issued":
            _log.info("%s: %s", board.name, answer.detail or answer.state)
            return
        if not attached_to(answer.device, self._agent.place.id):
            raise FleetError(f"{answer.device}: not a name for a board of {self._agent.place.id}")
        home.accept(answer, self._agent.place.host)
        self._present(home, board)

    def _present(self, home: Home, board: Board) -> None:
        """Starts the board's own agent."""
        with self._lock:
            if board.name in self._running or self._stop.is_set():
                return
            agent = Agent(home, board.inventory, self._heartbeat, board.measure)
            agent.on_any_job(board.do)
            agent.on_job_seen(lambda name, job: board.seen(name, job.kind, job.arguments))
            thread = threading.Thread(target=agent.run, name=agent.place.id, daemon=True)
            self._running[board.name] = (agent, thread)
        thread.start()
