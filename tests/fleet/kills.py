"""Kills the server, its broker and its devices at random moments, and then counts what arrived.

    python -m tests.fleet.kills 200 [SEED]

Whatever a device's outbox had taken must in the end be in the registry: messages that were acknowledged, and those that
were not. Every process is killed with SIGKILL and started again at once, as a service manager does.
"""

from __future__ import annotations

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

import sqlalchemy as sa

from edge.fleet.server import tables
from edge.fleet.server.database import Database
from edge.fleet.server.state import State
from tests.fleet.counting_agent import promised
from tests.fleet.lab import free_ports, until


class Processes:
    """A fleet of processes: one server, whose broker is its child, and agents."""

    def __init__(self, folder: Path, agents: int) -> None:
        self.folder = folder
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
        command = [sys.executable, "-m", "edge.sdk.cli", "fleet", "up", *self.server_options(), *place]
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

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


def missing_numbers(database: Database, homes: Sequence[Path], counts: Sequence[int]) -> int:
    """How many of the numbers that devices promised are not in the registry, after two minutes a device at most."""

    def numbers(home: Path) -> set[int]:
        query = sa.select(tables.reports.c.body).where(
            tables.reports.c.device == home.name, tables.reports.c.kind == "tel"
        )
        with database.reading() as connection:
            values = [json.loads(body)["values"] for body in connection.scalars(query)]
        return {value["number"] for value in values if "number" in value}

    missing = 0
    for home, count in zip(homes, counts, strict=True):
        wanted = set(range(1, count + 1))
        deadline = time.monotonic() + 120
        while (lacking := wanted - numbers(home)) and time.monotonic() < deadline:
            time.sleep(0.5)
        missing += len(lacking)
    return missing


def run(folder: Path, kills: int, seed: int, agents: int = 3, pause: float = 1.0) -> dict[str, int]:
    """Kills so often, waits until all is quiet, and counts.

    Returns:
        Kills by victim, messages promised, and those of them that are missing: 0, or the test has found a bug.
    """
    random.seed(seed)
    fleet = Processes(folder, agents)
    done: Counter[str] = Counter()
    try:
        while done.total() < kills:
            time.sleep(random.uniform(0.05, 2 * pause))
            victim = random.choice(("server", "broker", "agent"))
            done[victim] += fleet.kill(victim)
        for agent in fleet.agents:
            agent.kill()
            agent.wait()
        counts = [promised(home) for home in fleet.homes]
        fleet.agents = [fleet.start_agent(home) for home in fleet.homes]
        database = State.existing(folder / "fleet").database()
        missing = missing_numbers(database, fleet.homes, counts)
        database.close()
    finally:
        fleet.stop()
    return {**done, "promised": sum(counts), "missing": missing}


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory(prefix="edge-kills-") as scratch:
        print(f"seed {seed}:", run(Path(scratch), int(sys.argv[1]), seed))
