"""Kills the server, its broker and its devices while rollouts go on, and looks at what is on the devices' disks.

    python -m tests.fleet.rollout_kills 200 [SEED] [DATABASE URL]

Versions are published and deployed with the commands that an operator types, one after the other; some of them are bad,
some rollouts are paused, aborted or taken back. All the while processes get SIGKILL: at random moments, and at moments
that are waited for, in a download, a trial, an activation, a change of a rollout. What must hold:

- each device has, at every moment, an active model that opens, verifies and answers its reference inputs, and never a
  bad one: this is looked at from outside, on the disk, also between a kill and the next start;
- what a rollout says of a device when it has ended is what is on the device's disk;
- a bad version's rollout aborts, and every rollout ends;
- in the end the registry believes of each device what is there, and has every message that an outbox ever held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from edge.fleet.device.models import ModelState, ModelStore
from edge.fleet.device.trial import health_of
from edge.fleet.server import tables
from edge.fleet.server.state import State
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.server.updates.tables import rollout_devices, rollouts
from edge.runtime.bundle import Bundle, file_entry, write_bundle
from tests.conftest import CACHE, run_edge
from tests.fleet.kills import Processes
from tests.fleet.lab import until
from tests.fleet.remade import remade

ENDED = ("done", "aborted", "rolled-back")
FINAL = ("done", "failed", "active", "rolled-back", "cancelled")
MODEL = "kws"
_PADDING = 1_500_000  # bytes, so that a download takes long enough to be hit


class UpdatingProcesses(Processes):
    """A fleet of processes whose devices update themselves."""

    def __init__(self, folder: Path, agents: int, database: str = "") -> None:
        state = State.create(folder / "fleet")
        state.save(dataclasses.replace(state.settings(), database=database))
        self.bad: set[str] = set()  # versions that no device may keep
        self.wrong: list[str] = []  # what must not have been
        super().__init__(folder, agents)
        self.stores = [ModelStore(home / "models") for home in self.homes]
        self.database = State.existing(folder / "fleet").database()
        self.rollouts = Rollouts(self.database)

    def start_agent(self, home: Path) -> subprocess.Popen[bytes]:
        with (self.folder / "agents.log").open("ab") as log:
            words = ["--home", str(home), "--heartbeat", "0.2", "--log", "warning"]
            return subprocess.Popen([sys.executable, "-m", "tests.fleet.hasty_device", *words], stdout=log, stderr=log)

    def kill_agent(self, number: int, down: float = 0.0) -> None:
        self.agents[number].kill()
        self.agents[number].wait()
        time.sleep(down)
        self.agents[number] = self.start_agent(self.homes[number])

    def device_state(self, number: int) -> ModelState:
        return self.stores[number].state(MODEL)

    def stop(self) -> None:
        self.database.close()
        super().stop()

    def restart_server(self) -> float:
        """Starts the server that was killed; returns when devices can connect, with the time of it."""
        log = self.folder / "server.log"
        starts = log.read_bytes().count(b"The fleet is up")
        self.server = self.start_server()
        until(lambda: log.read_bytes().count(b"The fleet is up") > starts, 60)
        return time.time()

    def kill_server(self) -> None:
        self.server.kill()
        self.server.wait()

    def open_jobs(self) -> int:
        table = tables.jobs
        query = sa.select(sa.func.count()).where(table.c.state.not_in(FINAL))
        with self.database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def rows(self, rollout: str) -> list[dict[str, Any]]:
        query = sa.select(rollout_devices).where(rollout_devices.c.rollout == rollout)
        with self.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


class Watcher:
    """Looks at the devices' disks for as long as the test runs, and writes down what must not be."""

    def __init__(self, fleet: UpdatingProcesses) -> None:
        self.fleet = fleet
        self.looked = 0
        self.promised: list[set[tuple[str, int]]] = [set() for _ in fleet.homes]
        self._scratch = fleet.folder / "seen.edge"
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for number in range(len(self.fleet.homes)):
                self.look(number)

    def look(self, number: int) -> None:
        """What an application would find now, and what the outbox holds."""
        with self._lock:
            self.looked += 1
            store, home = self.fleet.stores[number], self.fleet.homes[number]
            try:
                # One open: the link may lead elsewhere a moment later.
                self._scratch.write_bytes(store.link(MODEL).read_bytes())
                with Bundle.open(self._scratch) as bundle:
                    bundle.verify()
                    version = bundle.manifest.version
                health_of(self._scratch)
                if version in self.fleet.bad:
                    self.fleet.wrong.append(f"{home.name}: runs {version}, which is bad")
            except Exception as error:
                self.fleet.wrong.append(f"{home.name}: no working model: {error!r}")
            self.promised[number] |= waiting(home)


def waiting(home: Path) -> set[tuple[str, int]]:
    """(boot, seq) of the messages in a device's outbox."""
    with contextlib.closing(sqlite3.connect(f"file:{home}/outbox.sqlite?mode=ro", uri=True, timeout=10)) as outbox:
        return set(outbox.execute("SELECT boot, seq FROM messages"))


class Killer:
    """Kills processes, so and so often, most of them at moments that it waits for, six times the pause at most."""

    def __init__(self, fleet: UpdatingProcesses, watcher: Watcher, kills: int, seed: int, pause: float) -> None:
        self.done: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._fleet, self._watcher, self._kills, self._pause = fleet, watcher, kills, pause
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            while self.done.total() < self._kills:
                time.sleep(self._random.uniform(0.05, 2 * self._pause))
                self._kill(self._random.choice(("server", "broker", "agent", "agent")))
        except BaseException as error:
            self.error = error

    def _kill(self, victim: str) -> None:
        aimed, draw = self._random.random() < 0.7, self._random
        if victim == "agent":
            number = draw.randrange(len(self._fleet.agents))
            if aimed:
                moments = draw.choice((("download",), ("trial",), ("activation",), ("download", "trial", "activation")))
                self._wait(lambda: self._moment(number) in moments)
            self.moments[self._moment(number)] += 1
            self._fleet.kill_agent(number, draw.choice((0.0, 0.0, 0.5)))
            self._watcher.look(number)
        else:
            if aimed:
                before = self._changes()
                self.moments["transition"] += self._wait(lambda: self._changes() != before)
                time.sleep(draw.choice((0.0, 0.05, 0.2)))
            if not self._fleet.kill(victim):
                return
        self.done[victim] += 1

    def _moment(self, number: int) -> str:
        """What a device is about, as far as its disk tells."""
        candidate = self._fleet.device_state(number).candidate
        if candidate is not None:
            return "activation" if candidate.trial else "trial"
        parts = self._fleet.stores[number].parts
        return "download" if any(parts.iterdir()) else "idle"

    def _changes(self) -> object:
        with self._fleet.database.reading() as connection:
            rows = connection.execute(sa.select(rollouts.c.id, rollouts.c.state, rollouts.c.phase))
            return sorted(tuple(row) for row in rows)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 6 * self._pause
        while not (there := condition()) and time.monotonic() < deadline:
            time.sleep(0.005)
        return there


class Operator:
    """Publishes versions and rolls them out, one after the other."""

    def __init__(self, fleet: UpdatingProcesses, bundle: Path, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.abort_seconds: list[float] = []
        self._fleet, self._bundle = fleet, bundle
        self._random = random.Random(seed + 1)
        self._version = 0

    def publish(self, bad: str = "") -> str:
        """Publishes the next version; a bad one fails its gate ("gate") or its own reference ("health")."""
        self._version += 1
        version = f"{self._version}.0"
        path = self._fleet.folder / f"{version}.edge"
        if bad:
            self._fleet.bad.add(version)
            remade(self._bundle, path, name=MODEL, spoil=True, lie=bad == "gate", license=version)
        else:
            remade(self._bundle, path, name=MODEL, license=version)
        _pad(path, self._version)
        gate = ("--gate", "agreement>=0.9") if bad == "gate" else ()
        self._fleet.edge("fleet", "publish", str(path), "--version", version, *gate)
        path.unlink()
        return version

    def deploy(self, version: str, *options: str) -> str:
        shown = self._fleet.edge("fleet", "deploy", f"{MODEL}:{version}", "--json", *options)
        return str(json.loads(shown)["id"])

    def state(self, rollout: str) -> str:
        return str(self._fleet.rollouts.show(rollout)["state"])

    def ended(self, rollout: str, seconds: float, states: tuple[str, ...] = ENDED) -> bool:
        deadline = time.monotonic() + seconds
        while self.state(rollout) not in states:
            if time.monotonic() > deadline:
                shown = self._fleet.rollouts.show(rollout)
                how = f"{shown['state']} {shown['devices']} {shown['problems']}"
                self._fleet.wrong.append(f"{rollout} has not ended: {how}")
                return False
            time.sleep(0.05)
        return True

    def round(self, seconds: float) -> None:
        """One version: published, rolled out, perhaps stopped or taken back."""
        draw = self._random
        bad = draw.choice(("", "", "", "gate", "health"))
        version = self.publish(bad)
        quiet = self._fleet.open_jobs() == 0
        before = {home.name: self._active(number) for number, home in enumerate(self._fleet.homes)}
        options = ["--canary", "1"] if draw.random() < 0.5 else []
        if draw.random() < 0.3:
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + draw.randrange(4, 9)))
            options += ["--activate-at", at]
        try:
            rollout = self.deploy(version, *options)
        except subprocess.CalledProcessError:
            if "--activate-at" not in options:
                raise
            rollout = self.deploy(version)  # the machine is busy, and the time lies in the past already
        meddles = draw.choice(("", "", "pause", "abort"))
        if meddles:
            time.sleep(draw.uniform(0.1, 5))
            self._command(meddles, rollout)
            if meddles == "pause":
                time.sleep(draw.uniform(0.1, 2))
                self._command("resume", rollout)
        if not self.ended(rollout, seconds):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._fleet.edge("fleet", "rollout", "abort", rollout, "--yes")
            return
        state = self.state(rollout)
        if bad and state != "aborted":
            self._fleet.wrong.append(f"{rollout} is bad, and {state}")
        if bad and meddles != "abort":
            self._time_abort(rollout)
        self._compare(rollout, before if quiet else {})
        if state == "done" and draw.random() < 0.5:
            self._fleet.edge("fleet", "rollout", "rollback", rollout, "--yes")
            if self.ended(rollout, seconds, ("rolled-back",)):
                self._compare(rollout, before if quiet else {})
                state = "rolled-back"
        self.outcomes[f"{'bad' if bad else 'good'} {state}"] += 1
        for row in self._fleet.rows(rollout):
            self.devices[row["state"]] += 1

    def _active(self, number: int) -> str:
        active = self._fleet.device_state(number).active
        return "" if active is None else active.path

    def _command(self, action: str, rollout: str) -> None:
        yes = ("--yes",) if action == "abort" else ()
        with contextlib.suppress(subprocess.CalledProcessError):  # it may have ended meanwhile
            self._fleet.edge("fleet", "rollout", action, rollout, *yes)

    def _compare(self, rollout: str, before: dict[str, str]) -> None:
        """What the rollout says of its devices against what lies there."""
        for row in self._fleet.rows(rollout):
            number = [home.name for home in self._fleet.homes].index(row["device"])
            active, held = self._active(number), before.get(row["device"])
            told = f"{rollout}: {row['device']} is {row['state']} and runs {active}"
            if row["state"] == "active" and active != row["target"]:
                self._fleet.wrong.append(f"{told}, not {row['target']}")
            if row["state"] == "reverted" and active != row["before"]:
                self._fleet.wrong.append(f"{told}, not {row['before']}")
            if row["state"] in ("failed", "rolled-back", "unfit") and held is not None and active != held:
                self._fleet.wrong.append(f"{told}, not {held}")
            if held is not None and row["before"] != held:
                self._fleet.wrong.append(f"{told}; it had {held} before, the registry says {row['before']}")

    def _time_abort(self, rollout: str) -> None:
        """Seconds from the moment at which the registry had the report that was one too many."""
        jobs = [f"job/{row['job']}" for row in self._fleet.rows(rollout) if row["job"]]
        reports, audit = tables.reports, tables.audit
        with self._fleet.database.reading() as connection:
            query = sa.select(reports.c.received_at, reports.c.body).where(reports.c.kind.in_(jobs))
            times = [row.received_at for row in connection.execute(query) if json.loads(row.body)["state"] == "failed"]
            at = connection.scalar(
                sa.select(audit.c.at).where(audit.c.subject == rollout, audit.c.action == "rollout.abort")
            )
        if times and at is not None:
            self.abort_seconds.append(at - min(times))


def _pad(bundle: Path, seed: int) -> None:
    """Adds a file that no engine runs, so that the bundle is large."""
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        files = {name: opened.read(name) for name in manifest.files}
    files["padding.bin"] = np.random.default_rng(seed).bytes(_PADDING)
    entries = {**manifest.files, "padding.bin": file_entry(files["padding.bin"])}
    write_bundle(bundle, dataclasses.replace(manifest, files=entries), files)


@contextlib.contextmanager
def updating_fleet(
    folder: Path, bundle: Path, agents: int, seed: int, database: str = ""
) -> Iterator[tuple[UpdatingProcesses, Watcher, Operator]]:
    """A fleet whose devices all run a first version: the processes, who watches them, who operates them."""
    fleet = UpdatingProcesses(folder, agents, database)
    try:
        operator = Operator(fleet, bundle, seed)
        first = operator.deploy(operator.publish())
        until(lambda: operator.state(first) == "done", 60, "the first rollout")
        watcher = Watcher(fleet)
        try:
            yield fleet, watcher, operator
        finally:
            watcher.stop()
    finally:
        fleet.stop()


def run(
    folder: Path, bundle: Path, kills: int, seed: int, agents: int = 3, pause: float = 1.0, database: str = ""
) -> dict[str, Any]:
    """Kills so often while versions are rolled out, then waits until all is quiet, and compares.

    Returns:
        Figures, and under "wrong" what must not have been: empty, or the test has found a bug.
    """
    with updating_fleet(folder, bundle, agents, seed, database) as (fleet, watcher, operator):
        return kill(fleet, watcher, operator, kills, seed, pause)


def kill(
    fleet: UpdatingProcesses, watcher: Watcher, operator: Operator, kills: int, seed: int, pause: float
) -> dict[str, Any]:
    """As `run`, on a fleet that is there."""
    killer = Killer(fleet, watcher, kills, seed, pause)
    while killer.busy:
        operator.round(seconds=300)
    if killer.error is not None:
        raise killer.error
    settle(fleet, watcher)
    return {
        **killer.done,
        "moments": dict(killer.moments),
        "rollouts": dict(operator.outcomes),
        "devices": dict(operator.devices),
        "looked": watcher.looked,
        "promised": sum(map(len, watcher.promised)),
        "abort_seconds": round(max(operator.abort_seconds, default=0.0), 3),
        "open": sum(row["state"] not in ENDED for row in fleet.rollouts.all()),
        "wrong": fleet.wrong,
    }


def settle(fleet: UpdatingProcesses, watcher: Watcher, seconds: float = 90.0) -> None:
    """Waits until nothing is under way, and compares the registry with the devices."""
    deadline = time.monotonic() + seconds

    def missing() -> list[str]:
        found = []
        with fleet.database.reading() as connection:
            for number, home in enumerate(fleet.homes):
                watcher.promised[number] |= (still := waiting(home))
                table = tables.reports
                keys = connection.execute(sa.select(table.c.boot, table.c.seq).where(table.c.device == home.name))
                lost = watcher.promised[number] - {(row.boot, row.seq) for row in keys} - still
                found += [f"{home.name}: message {key} was lost" for key in sorted(lost)]
                devices = tables.devices
                query = sa.select(devices.c.inventory).where(devices.c.id == home.name)
                believed = (connection.scalar(query) or {}).get("models", [])
                there = fleet.stores[number].inventory()
                if believed != there:
                    found.append(f"{home.name}: the registry believes {believed}, there is {there}")
        if count := fleet.open_jobs():
            found.append(f"{count} jobs are open")
        return found

    while (left := missing()) and time.monotonic() < deadline:
        time.sleep(0.5)
    fleet.wrong.extend(left)


def _digits_bundle(scratch: Path) -> Path:
    """The bundle that the tests made last, or a new one."""
    made = sorted(CACHE.glob("digits-export-*/digits.edge"))
    if made:
        return made[-1]
    run_edge("export", "--bits", "1.58", "-o", scratch / "digits.edge")
    return scratch / "digits.edge"


if __name__ == "__main__":
    seed_ = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory(prefix="edge-rollouts-", dir=os.environ.get("TMPDIR")) as scratch_:
        there = Path(scratch_)
        began = time.monotonic()
        outcome = run(there, _digits_bundle(there), int(sys.argv[1]), seed_, database=(sys.argv[3:] or [""])[0])
        print(json.dumps({"seed": seed_, "seconds": round(time.monotonic() - began), **outcome}, indent=1))
        sys.exit(bool(outcome["wrong"] or outcome["open"]))
