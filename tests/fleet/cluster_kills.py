"""Kills nodes of a NATS cluster, the server and devices at random moments, and then counts what arrived.

    python -m tests.fleet.cluster_kills 100 [SEED] [postgresql://…]

As `kills.py` does with one broker. A node that was killed comes back after some seconds, before another is killed: a
cluster of three bears the loss of one. Without a URL the registry is in SQLite.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from edge.fleet.server.state import State
from tests.fleet.counting_agent import promised
from tests.fleet.kills import Processes, missing_numbers
from tests.fleet.nats_lab import Cluster, free_nodes

# How long a cluster gets to bring a node up to date again.
_BACK_SECONDS = 6.0


class ClusterProcesses(Processes):
    """A fleet of processes whose broker is a cluster of three."""

    def __init__(self, folder: Path, agents: int, database: str) -> None:
        nodes = free_nodes()
        self.cluster = Cluster(folder / "cluster", nodes)
        self._database = database
        self.folder = folder
        listed = ",".join(str(node.at) for node in nodes)
        self.edge("fleet", "broker-config", "nats", "--nodes", listed, "-o", str(folder / "cluster"))
        self.cluster.start()
        self._calm_at = 0.0
        super().__init__(folder, agents)

    @property
    def enroll_url(self) -> str:
        return self.cluster.url("boot")

    def server_options(self) -> list[str]:
        database = ["--db", self._database] if self._database else []
        urls = ["--broker", self.cluster.url("at"), "--boot", self.cluster.url("boot")]
        return [*urls, "--nats", self.cluster.url("server"), *database]

    def kill(self, victim: str) -> bool:
        if victim != "broker":
            return super().kill(victim)
        if time.monotonic() < self._calm_at:
            return False
        node = random.choice(self.cluster.nodes)
        self.cluster.kill(node)
        time.sleep(random.uniform(0, 8))
        self.cluster.start(node)
        self._calm_at = time.monotonic() + _BACK_SECONDS
        return True

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.cluster.stop()


def run(folder: Path, kills: int, seed: int, database: str = "", agents: int = 4, pause: float = 2.0) -> dict[str, int]:
    """Kills so often, waits until all is quiet, and counts.

    Returns:
        Kills by victim, messages promised, and those of them that are missing: 0, or the test has found a bug.
    """
    random.seed(seed)
    fleet = ClusterProcesses(folder, agents, database)
    done: Counter[str] = Counter()
    try:
        while done.total() < kills:
            time.sleep(random.uniform(0.05, 2 * pause))
            victim = random.choice(("server", "broker", "broker", "agent"))
            done["node" if victim == "broker" else victim] += fleet.kill(victim)
        for agent in fleet.agents:
            agent.kill()
            agent.wait()
        counts = [promised(home) for home in fleet.homes]
        fleet.agents = [fleet.start_agent(home) for home in fleet.homes]
        registry = State.existing(folder / "fleet").database()
        missing = missing_numbers(registry, fleet.homes, counts)
        registry.close()
    finally:
        fleet.stop()
    return {**done, "promised": sum(counts), "missing": missing}


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory(prefix="edge-cluster-kills-") as scratch:
        print(json.dumps({"seed": seed, **run(Path(scratch), int(sys.argv[1]), seed, *sys.argv[3:4])}))
