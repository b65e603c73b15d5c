"""Models on simulated devices: the installer of real ones, on a pool of threads; the disk holds each bundle once.

Each device downloads a bundle over its own connection, verifies it, and keeps its own state and links. Then the file
that it downloaded gives way to a hard link of the same, verified, contents: bundles are never written to in place.
Trials run in the process of the simulator and not each in one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from edge.fleet.device import trial
from edge.fleet.device.download import holds
from edge.fleet.device.home import Home
from edge.fleet.device.models import ModelStore
from edge.fleet.device.updates import Agent, Updates
from edge.fleet.variant import Blob

_log = logging.getLogger("edge.fleet.simulate")


class SimulatedUpdates:
    """Brings a simulated device its models.

    Args:
        agent: the device.
        shared: folder of the bundles that all devices of the simulation link to.
        working: threads that do the work.
        faulty: whether every new model fails its health check on this device.
    """

    def __init__(self, agent: Agent, shared: Path, working: Executor, faulty: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._working = working
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._updates = Updates(
            agent,
            check=_broken if faulty else trial.health_of,
            compare=trial.shadow_of,
            stored=lambda path: share(path, shared),
        )
        self._after_recovery = agent.inventory_changed

    @staticmethod
    def has_models(home: Home) -> bool:
        """Whether the device was brought something in an earlier run."""
        return (home.folder / "models").is_dir()

    @property
    def store(self) -> ModelStore:
        return self._updates.installer.store

    def recover(self) -> None:
        """Ends what the end of an earlier run interrupted; the device then says what it holds."""

        def ending() -> None:
            self._updates.recover()
            self._after_recovery()

        self._run(ending, self.activate_later)

    def activate_later(self) -> None:
        """Activates what is due, and what waits at its time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._updates.installer.next_time()
        if due is not None and not self._stopped:
            pause = max(0.0, min(due - time.time(), 3600.0))
            self._timer = self._loop.call_later(pause, self._run, self._updates.activate_due, self.activate_later)

    def stop(self) -> None:
        self._stopped = True
        self._updates.stop()
        if self._timer is not None:
            self._timer.cancel()

    def _run(self, work: Callable[[], object], then: Callable[[], None]) -> None:
        def done(future: asyncio.Future[object]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                _log.error("an activation: %r", error)
            elif not self._stopped:
                then()

        if not self._stopped:
            self._loop.run_in_executor(self._working, work).add_done_callback(done)


def _broken(path: Path) -> dict[str, float]:
    raise trial.Unhealthy("a simulated fault: this device was told to find every new model broken (--fail-share)")


def share(path: Path, folder: Path) -> None:
    """Puts a hard link to the same contents in the place of `path`, a verified bundle that is named by its hash.

    Where links cannot be made, the device keeps its own copy.
    """
    kept = folder / path.name
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True, mode=0o700)
        if not holds(kept, Blob(path.stem, path.stat().st_size)):
            _link(path, kept)
        elif not kept.samefile(path):
            _link(kept, path)


def _link(existing: Path, path: Path) -> None:
    new = path.with_name(f".{existing.stat().st_ino}-{os.urandom(4).hex()}.link")
    os.link(existing, new)
    os.replace(new, path)
