"""One process of a simulation: its share of the devices, on one loop (`python -m edge.fleet.simulate.worker`).

It is told what to do by one line of JSON on standard input, and says on standard output, a line at a time, how far it
has come. It ends when standard input does, or says "stop".
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.fleet.addresses import Address
from edge.fleet.device.enroll import enroll, pinned_context
from edge.fleet.device.home import Home
from edge.fleet.identity import ClaimToken
from edge.fleet.logs import log_to_stderr
from edge.fleet.simulate.device import SimulatedDevice, Surroundings
from edge.fleet.simulate.inventories import simulated_inventory
from edge.fleet.simulate.limits import raise_open_files
from edge.fleet.simulate.models import SimulatedUpdates
from edge.runtime.errors import EdgeError

_log = logging.getLogger("edge.fleet.simulate")

_TELL_SECONDS, _TEND_SECONDS = 1.0, 5.0
_ENROLL_ATTEMPTS, _ENROLL_SECONDS = 8, 60.0
_END_SECONDS = 10.0
_CONNECTING, _WORKING, _ENROLLING = 16, 8, 8


@dataclass(frozen=True)
class Task:
    """What a process has to do.

    Attributes:
        folder: of the simulation; a device's home is a folder in it, named by its id.
        devices: ids; those without a certificate have a claim token in `tokens`.
        tokens: claim tokens by id.
        boot: "host:port" of the broker's bootstrap listeners.
        brokers: "host:port" of the broker, or of several that are as good.
        labels: of the devices.
        every: seconds between reports.
        faulty: share of the devices on which each new model fails its health check.
        ramp: seconds over which the devices begin to connect.
        log: level.
    """

    folder: str
    devices: list[str]
    tokens: dict[str, str]
    boot: list[str]
    brokers: list[str]
    labels: dict[str, str]
    every: float
    faulty: float
    ramp: float
    log: str

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> Task:
        """What `line` wrote."""
        return cls(**json.loads(line))


class Worker:
    """The devices of one process.

    Args:
        task: what it has to do.
        tell: takes what is to be said to the parent.
    """

    def __init__(self, task: Task, tell: Callable[[dict[str, Any]], None]) -> None:
        self._task = task
        self._tell = tell
        self._folder = Path(task.folder)
        self._devices: list[SimulatedDevice] = []
        self._running: set[asyncio.Task[None]] = set()
        self._enrolled = 0
        self._failed: dict[str, str] = {}
        self._ending = threading.Event()
        self._pin = functools.cache(pinned_context)

    async def run(self) -> None:
        """Enrolls, connects and keeps the devices until the parent says "stop"."""
        task, loop = self._task, asyncio.get_running_loop()
        asked = asyncio.Event()
        self._draining = asyncio.Event()
        threading.Thread(target=self._listen, args=(loop, asked), daemon=True).start()
        connecting = ThreadPoolExecutor(_CONNECTING, "connecting")
        working = ThreadPoolExecutor(_WORKING, "working")
        enrolling = ThreadPoolExecutor(_ENROLLING, "enrolling")
        addresses = [Address.parse(one, 8883) for one in task.brokers]
        self._around = Surroundings(addresses, task.every, connecting, working, asyncio.Semaphore(_CONNECTING))
        self._working = working
        timers = [loop.create_task(self._report()), loop.create_task(self._tend())]
        ready = [name for name in task.devices if name not in task.tokens]
        for number, name in enumerate(ready):
            self._begin(name, task.ramp * number / len(ready))
        enrollments = [loop.run_in_executor(enrolling, self._enroll, name) for name in task.tokens]
        for done in asyncio.as_completed(enrollments):
            enrolled = await done
            if enrolled is not None and not asked.is_set():
                self._enrolled += 1
                self._begin(enrolled, 0)
            if asked.is_set():
                break
        await asked.wait()
        self._ending.set()
        for device in self._devices:
            device.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=_END_SECONDS)
        for timer in timers:
            timer.cancel()
        self._tell(self._counts() | {"ended": True})
        for pool in (enrolling, working, connecting):
            pool.shutdown(wait=False, cancel_futures=True)

    def _listen(self, loop: asyncio.AbstractEventLoop, asked: asyncio.Event) -> None:
        for line in sys.stdin:
            if line.strip() == "drain":
                self._around.draining = True  # what waits can be acknowledged
            else:
                break
        loop.call_soon_threadsafe(asked.set)
        self._ending.set()

    def _enroll(self, name: str) -> str | None:
        """Gets a device its certificate; on a thread. None if it could not be had."""
        task = self._task
        token, inventory = ClaimToken.parse(task.tokens[name]), simulated_inventory(name, task.labels)
        boot, *others = (Address.parse(one, 8884) for one in task.boot)
        pause = 0.5
        for _ in range(_ENROLL_ATTEMPTS):
            if self._ending.is_set():
                return None
            try:
                home = Home(self._folder / name)
                place = enroll(
                    *(home, token, boot.host, boot.port, inventory, name, _ENROLL_SECONDS),
                    stop=self._ending,
                    others=others,
                    pinned=self._pin,
                )
                if place is not None:
                    return name
                why = "no answer came"
            except (EdgeError, OSError) as error:  # the broker has not heard of the token yet, or has just died
                why = str(error)
            self._ending.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(10.0, pause * 2)
        self._failed[name] = why
        return None

    def _begin(self, name: str, after: float) -> None:
        task = self._task
        faulty = random.Random(f"fault {name}").random() < task.faulty  # noqa: S311
        try:
            device = SimulatedDevice(
                Home(self._folder / name),
                simulated_inventory(name, task.labels),
                self._around,
                lambda agent: SimulatedUpdates(agent, self._folder / "bundles", self._working, faulty),
            )
        except EdgeError as error:
            self._failed[name] = str(error)
            return
        self._devices.append(device)
        running = asyncio.get_running_loop().create_task(device.run(after))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            for number, device in enumerate(list(self._devices)):
                device.tend(time.monotonic())
                if number % 100 == 99:
                    await asyncio.sleep(0)

    async def _report(self) -> None:
        while True:
            self._tell(self._counts())
            await asyncio.sleep(_TELL_SECONDS)

    def _counts(self) -> dict[str, Any]:
        counts = vars(self._around.counts)
        models: Counter[str] = Counter()
        waiting = dropped = online = 0
        for device in self._devices:
            online += device.online
            waiting += len(device.outbox.waiting)
            dropped += device.outbox.dropped
            for one in device.models:
                if one.active:
                    models[f"{one.name}:{one.version}"] += 1
        return {
            **counts,
            "devices": len(self._devices),
            "connected": online,
            "unacknowledged": waiting,
            "quiet": self._around.draining and not waiting and not any(device.busy for device in self._devices),
            "dropped": dropped,
            "enrolled": self._enrolled,
            "models": dict(models),
            "failed": dict(list(self._failed.items())[:5]),
            "failures": len(self._failed),
        }


def main() -> None:
    """The process, from its task to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which says "stop"
    task = Task.read(sys.stdin.readline())
    log_to_stderr(task.log)
    raise_open_files(len(task.devices))

    def tell(said: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        asyncio.run(Worker(task, tell).run())
        sys.stdout.flush()


if __name__ == "__main__":
    main()
    os._exit(0)  # threads that still wait for a broker must not keep the process
