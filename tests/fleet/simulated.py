"""A fleet of processes for simulated devices: a server with its broker, and `edge fleet simulate`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from edge.fleet.device.home import Home
from edge.fleet.device.models import ModelStore
from edge.fleet.messages import CertificateAnswer
from edge.fleet.server import enrollment, registry, tables
from edge.fleet.server.authority import Authority, read_request
from edge.fleet.server.state import State
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.simulate.simulation import Options, folder_of
from edge.runtime.bundle import Bundle
from tests.fleet.lab import free_ports, until


class SimulatedFleet:
    """A server in a process of its own, and what is simulated with it.

    Args:
        folder: where all is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.boot_port = free_ports(2)
        self._environment = {**os.environ, "EDGE_FLEET": str(folder / "fleet")}
        self._simulations: list[subprocess.Popen[str]] = []
        self.start_server()
        self.database = State.existing(folder / "fleet").database()
        self.rollouts = Rollouts(self.database)

    def start_server(self) -> None:
        """Starts the server, and returns when devices can connect."""
        ports = ["--port", str(self.port), "--boot-port", str(self.boot_port), "--metrics-port", "0"]
        log = self.folder / "server.log"
        begun = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            command = self._command("fleet", "up", "--host", "127.0.0.1", *ports, "--log", "warning")
            self.server = subprocess.Popen(command, stdout=file, stderr=file, env=self._environment)
        until(lambda: b"The fleet is up" in log.read_bytes()[begun:], 120, "the server did not come up")

    def kill_server(self) -> None:
        """SIGKILL; its broker goes on until the next server ends it."""
        self.server.kill()
        self.server.wait()

    @property
    def broker_pid(self) -> int:
        return int((self.folder / "fleet/broker/mosquitto.pid").read_text())

    def kill_broker(self) -> None:
        """SIGKILL; its server starts it again."""
        os.kill(self.broker_pid, signal.SIGKILL)

    def edge(self, *words: str) -> str:
        """Runs a command and returns what it says."""
        command = self._command(*words)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=self._environment).stdout

    def simulate(self, count: int, *words: str) -> subprocess.Popen[str]:
        """Begins `edge fleet simulate COUNT --json`."""
        with (self.folder / "simulation.log").open("ab") as log:
            process = subprocess.Popen(
                self._command("fleet", "simulate", str(count), "--json", *words),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        self._simulations.append(process)
        return process

    def end(self, simulation: subprocess.Popen[str]) -> dict[str, Any]:
        """Ctrl-C, and what the simulation tells at its end."""
        simulation.send_signal(signal.SIGINT)
        return self.ended(simulation)

    def ended(self, simulation: subprocess.Popen[str], seconds: float = 120) -> dict[str, Any]:
        """What a simulation tells at its end."""
        said, _ = simulation.communicate(timeout=seconds)
        log = (self.folder / "simulation.log").read_text()
        assert simulation.returncode == 0, log[-4000:]
        return json.loads(said)  # type: ignore[no-any-return]

    def provision(self, count: int) -> None:
        """Gives simulated devices their identities without asking for them, as enrollment would: in less time."""
        state = State.existing(self.folder / "fleet")
        authority = Authority(state.authority)
        names = Options(count).names()
        homes = folder_of(state)
        homes.mkdir(exist_ok=True, mode=0o700)
        for begin in range(0, count, 100):  # the server writes too, and does not wait for ever
            with self.database.transaction() as connection:
                for name in names[begin : begin + 100]:
                    home = Home(homes / name)
                    csr, _, key = home.next_request()
                    issued = authority.sign(read_request(csr), name)
                    registry.add(connection, name, {})
                    connection.execute(tables.labels.insert(), {"device": name, "name": "simulated", "value": "yes"})
                    enrollment._record(connection, issued)
                    chain = issued.pem + authority.issuing_pem
                    answer = CertificateAnswer("issued", key, name, chain, authority.root_pem, self.port)
                    home.accept(answer, "127.0.0.1")

    def online(self) -> int:
        """Devices that are there, as the registry knows."""
        with self.database.reading() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).where(tables.devices.c.online)) or 0)

    def heard_of(self, moment: float) -> int:
        """Devices that are there, and have said something since a moment, in seconds since 1970."""
        table = tables.devices
        query = sa.select(sa.func.count()).where(table.c.online, table.c.last_seen > moment)
        with self.database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def reports(self, kind: str = "tel") -> int:
        """Messages of a kind in the registry."""
        query = sa.select(sa.func.count()).where(tables.reports.c.kind == kind)
        with self.database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def versions(self, model: str) -> Counter[str]:
        """Versions of `model` on the simulated devices, "" where there is none: each opened and verified."""
        found: Counter[str] = Counter()
        verified: dict[tuple[int, int], str] = {}  # by inode: hard links are one file
        for home in sorted((self.folder / "fleet/simulated").glob("*-*")):
            link = ModelStore(home / "models").link(model)
            if not link.exists():
                found[""] += 1
                continue
            status = link.stat()
            key = (status.st_ino, status.st_mtime_ns)
            if key not in verified:
                with Bundle.open(link) as bundle:
                    bundle.verify()
                    assert bundle.manifest.name == model
                    verified[key] = bundle.manifest.version
            found[verified[key]] += 1
        return found

    def stop(self) -> None:
        for simulation in self._simulations:
            if simulation.poll() is None:
                simulation.terminate()
                simulation.communicate(timeout=60)
        self.database.close()
        self.server.terminate()
        self.server.wait(60)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "edge.sdk.cli", *words]
