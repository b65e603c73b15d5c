"""Kills nodes of a NATS cluster, the server and devices at random moments, and then counts what arrived.

    python -m tests.fleet.cluster_kills 100 [SEED] [--workers 2] [--database postgresql://… | --postgres]

As `kills.py` does with one broker. A node that was killed comes back after some seconds, before another is killed: a
cluster of three bears the loss of one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fleet.kills import Processes, main
from tests.fleet.nats_lab import Cluster, free_nodes

# How long a cluster gets to bring a node up to date again.
_BACK_SECONDS = 6.0


class ClusterProcesses(Processes):
    """A fleet of processes whose broker is a cluster of three."""

    def __init__(self, folder: Path, agents: int, options: Sequence[str] = ()) -> None:
        nodes = free_nodes()
        self.cluster = Cluster(folder / "cluster", nodes)
        self.folder = folder
        listed = ",".join(str(node.at) for node in nodes)
        self.edge("fleet", "broker-config", "nats", "--nodes", listed, "-o", str(folder / "cluster"))
        self.cluster.start()
        self._calm_at = 0.0
        super().__init__(folder, agents, options)

    @property
    def enroll_url(self) -> str:
        return self.cluster.url("boot")

    def server_options(self) -> list[str]:
        urls = ["--broker", self.cluster.url("at"), "--boot", self.cluster.url("boot")]
        return [*urls, "--nats", self.cluster.url("server")]

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


if __name__ == "__main__":
    main(__doc__ or "", agents=4, pause=2.0, processes=ClusterProcesses)
