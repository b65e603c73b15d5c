"""Kills the server, its broker and its devices at random moments, and then counts what arrived.

    python -m tests.fleet.kills 200 [SEED] [--workers 2] [--database postgresql://… | --postgres]

Whatever a device's outbox had taken must in the end be in the registry: messages that were acknowledged, and those that
were not. Every process is killed with SIGKILL and started again at once, as a service manager does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from edge.fleet.server import tables
from edge.fleet.server.state import State
from tests.fleet.counting_agent import promised
from tests.fleet.lab import free_ports, until
from tests.fleet.postgres import postgres_server


class Processes:
    """A fleet of processes: one server, whose broker and workers are its children, and agents.

    Args:
        options: more of `edge fleet up`: "--workers", "2".
    """

    def __init__(self, folder: Path, agents: int, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self.options = options
        self.port, self.boot_port = free_ports(2)
        self.server = self.start_server()
        self.wait_up()
        self.homes = [folder / f"device-{number}" for number in range(agents)]
        answer = self.edge("fleet", "token", "--approve", "--count", str(agents), "--json")
        for home, token in zip(self.homes, json.loads(answer), strict=True):
            name = ("--name", home.name, "--home", str(home))
            self.edge("device", "enroll", "--token", token["token"], *name, "--wait", "60", self.enroll_url)
        self.agents = [self.start_agent(home) for home in self.homes]

    @property
    def enroll_url(self) -> str:
        return f"mqtts://127.0.0.1:{self.boot_port}"

    def server_options(self) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.port), "--boot-port", str(self.boot_port)]

    def edge(self, *words: str) -> str:
        environment = {**os.environ, "EDGE_FLEET": str(self.folder / "fleet")}
        command = [sys.executable, "-m", "edge.sdk.cli", *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout

    def start_server(self) -> subprocess.Popen[bytes]:
        place = ["--metrics-port", "0", "--state", str(self.folder / "fleet"), "--log", "warning"]
        command = [sys.executable, "-m", "edge.sdk.cli", "fleet", "up", *self.server_options(), *place, *self.options]
        environment = {**os.environ, "EDGE_FLEET_KILLS": str(self.folder)}
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def start_agent(self, home: Path) -> subprocess.Popen[bytes]:
        with (self.folder / "agents.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.fleet.counting_agent", str(home), "0.05"]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def wait_up(self) -> None:
        log = self.folder / "server.log"
        until(lambda: b"The fleet is up" in log.read_bytes(), 60)

    def broker_pid(self) -> int | None:
        try:
            return int((self.folder / "fleet/broker/mosquitto.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def worker_pids(self) -> list[int]:
        """Of all workers of the fleet, an earlier server's too if they have not ended."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if b"edge.fleet.server.worker" in (entry / "cmdline").read_bytes():
                    mark = f"EDGE_FLEET_KILLS={self.folder}".encode()
                    found += [int(entry.name)] if mark in (entry / "environ").read_bytes().split(b"\0") else []
            except OSError:  # it has ended meanwhile
                continue
        return found

    def kill(self, victim: str) -> bool:
        """Kills one process and, unless its server does that, starts it again; returns whether there was one."""
        if victim == "server":
            self.server.kill()
            self.server.wait()
            self.server = self.start_server()
        elif victim == "broker":
            pid = self.broker_pid()
            try:
                os.kill(pid or 0, signal.SIGKILL) if pid else None
            except ProcessLookupError:
                return False
            return pid is not None
        elif victim == "worker":
            pids = self.worker_pids()
            try:
                os.kill(random.choice(pids), signal.SIGKILL) if pids else None
            except ProcessLookupError:
                return False
            return bool(pids)
        else:
            number = random.randrange(len(self.agents))
            self.agents[number].kill()
            self.agents[number].wait()
            self.agents[number] = self.start_agent(self.homes[number])
        return True

    def stop(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        self.server.terminate()
        self.server.wait(30)


def run(
    folder: Path,
    kills: int,
    seed: int,
    agents: int = 3,
    pause: float = 1.0,
    workers: int = 0,
    database: str = "",
    processes: type[Processes] = Processes,
) -> dict[str, int]:
    """Kills so often, waits until all is quiet, and counts.

    Args:
        workers: of the server; they are killed too.
        database: URL of an empty PostgreSQL database; SQLite, if "".
        processes: with which broker.

    Returns:
        Kills by victim, messages promised, and those of them that are missing: 0, or the test has found a bug.
    """
    random.seed(seed)
    options = [*(["--workers", str(workers)] if workers else []), *(["--db", database] if database else [])]
    victims = ("server", "broker", "agent", *(["worker"] if workers else []))
    fleet = processes(folder, agents, options)
    done: Counter[str] = Counter()
    try:
        while done.total() < kills:
            time.sleep(random.uniform(0.05, 2 * pause))
            victim = random.choice(victims)
            if workers and done["worker"] < 2 and done.total() >= kills - 2:
                victim = "worker"  # of few kills, two are theirs all the same
            done[victim] += fleet.kill(victim)
        for agent in fleet.agents:
            agent.kill()
            agent.wait()
        counts = [promised(home) for home in fleet.homes]
        fleet.agents = [fleet.start_agent(home) for home in fleet.homes]
        registry = State.existing(folder / "fleet").database()

        def numbers(home: Path) -> set[int]:
            query = sa.select(tables.reports.c.body).where(
                tables.reports.c.device == home.name, tables.reports.c.kind == "tel"
            )
            with registry.reading() as connection:
                values = [json.loads(body)["values"] for body in connection.scalars(query)]
            return {value["number"] for value in values if "number" in value}

        missing: list[int] = []
        for home, count in zip(fleet.homes, counts, strict=True):
            wanted = set(range(1, count + 1))
            deadline = time.monotonic() + 120
            while (lacking := wanted - numbers(home)) and time.monotonic() < deadline:
                time.sleep(0.5)
            missing.extend(lacking)
        registry.close()
        # A killed server's workers end by themselves, within ten seconds.
        until(lambda: len(fleet.worker_pids()) <= workers, 15, "a killed server's workers go on")
    finally:
        fleet.stop()
    until(lambda: not fleet.worker_pids(), 15, "workers outlived their server")
    return {**done, "promised": sum(counts), "missing": len(missing)}


def arguments(description: str) -> argparse.Namespace:
    """The command line of a script that kills."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=int(time.time()))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--database", default="", help="URL of an empty PostgreSQL database")
    parser.add_argument("--postgres", action="store_true", help="use a PostgreSQL server of its own")
    return parser.parse_args()


def main(description: str, **options: Any) -> None:
    """What such a script does; `options` are of `run`."""
    given = arguments(description)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-kills-"))
        if given.postgres:
            given.database = stack.enter_context(postgres_server(durable=True))
        outcome = run(Path(scratch), given.kills, given.seed, workers=given.workers, database=given.database, **options)
        print(json.dumps({"seed": given.seed, **outcome}))
    sys.exit(outcome["missing"] > 0)


if __name__ == "__main__":
    main(__doc__ or "")
