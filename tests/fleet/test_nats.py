"""A fleet on a NATS cluster: who gets in, what each may say and hear, revocation, and a node that dies in a rollout."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa

pytest.importorskip("nats")
pytest.importorskip("tuf")

from edge.fleet.device.agent import Agent
from edge.fleet.identity import client_id
from edge.fleet.server import tables
from edge.fleet.server.authority import Authority
from edge.fleet.server.database import Database
from edge.fleet.server.nats import Node, write_cluster
from edge.fleet.server.nats_admission import signing_key
from edge.fleet.server.updates.plan import Plan, parse_steps
from tests.fleet.lab import Client, identity, until
from tests.fleet.nats_lab import Cluster, free_nodes, needs_nats
from tests.fleet.remade import remade
from tests.fleet.test_broker import heard
from tests.fleet.test_updates_fleet import UpdatingFleet, _version

pytestmark = needs_nats


class NatsFleet(UpdatingFleet):
    """A fleet whose broker is a cluster of three."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.database_url = database
        self.cluster: Cluster
        super().__init__(folder)

    def start(self) -> None:
        if not hasattr(self, "cluster"):
            nodes = free_nodes()
            authority = Authority(self.state.authority)
            authority.broker_certificate(self.state.broker / "broker.key", self.state.broker / "broker.pem")
            write_cluster(self.folder / "cluster", authority, signing_key(self.state), self.state.broker, nodes)
            self.cluster = Cluster(self.folder / "cluster", nodes)
            self.cluster.start()
            settings = dataclasses.replace(
                self.state.settings(),
                broker=self.cluster.url("at"),
                boot=self.cluster.url("boot"),
                nats=self.cluster.url("server"),
                database=self.database_url,
            )
            self.state.save(settings)
        super().start()

    def client(self, node: Node, name: str, says: str = "", **more: Any) -> Client:
        """A client with a fresh certificate of the device `name`, that says to be `says`."""
        path, _ = identity(self.server.authority, self.folder, name)
        more.setdefault("protocol", mqtt.MQTTv311)
        return Client(node.at.port, self.server.authority.root_pem, path, says or client_id(name), **more)

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.cluster.stop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[NatsFleet]:
    made = NatsFleet(tmp_path)
    yield made
    made.stop()


class Counting:
    """Reports 1, 2, 3, … from a device, as fast as it is told to, and knows how far it has come."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.promised = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.agent.telemetry({"number": self.promised + 1})
            self.promised += 1

    def stop(self) -> int:
        self._stop.set()
        self._thread.join(10)
        return self.promised


def numbers(database: Database, device: str) -> set[int]:
    """The numbers of a device that are in the registry."""
    table = tables.reports
    query = sa.select(table.c.body).where(table.c.device == device, table.c.kind == "tel")
    with database.reading() as connection:
        values = [json.loads(body)["values"] for body in connection.scalars(query)]
    return {value["number"] for value in values if "number" in value}


def test_a_node_dies_in_a_rollout_and_nothing_is_lost(
    empty_postgres: str, digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL, three nodes, six devices that report all the time, a rollout in phases, SIGKILL for a node."""
    monkeypatch.setattr("edge.fleet.device.agent._RESEND_SECONDS", 4.0)
    monkeypatch.setattr("edge.fleet.server.jobs.RESEND_SECONDS", 8.0)
    fleet = NatsFleet(tmp_path, empty_postgres)
    try:
        names = ("attic", "barn", "cellar", "dairy", "east.wing", "forge")
        devices = {name: fleet.updating(name) for name in names}
        counting = {name: Counting(agent) for name, (agent, _) in zip(names, fleet._agents, strict=True)}
        fleet.publish(remade(digits_bundle, tmp_path / "new.edge", name="kws", version="2.0"))
        rollout = fleet.rollouts.create(Plan("kws", "2.0", steps=parse_steps("1,3,100%")), "ana@desk")
        until(lambda: fleet.rollouts.show(rollout)["devices"].get("active", 0) >= 1, 60)

        victim = next(node for node in fleet.cluster.nodes if node.at == fleet.server.link._broker)
        affected = [name for name, (agent, _) in zip(names, fleet._agents, strict=True) if agent._broker == victim.at]
        began = time.monotonic()
        fleet.cluster.kill(victim)
        assert fleet.rollouts.show(rollout)["state"] == "running"
        try:
            until(lambda: fleet.rollouts.show(rollout)["state"] == "done", 40)
        except AssertionError:
            print(fleet.rollouts.show(rollout))
            print({n: (len(a.outbox), a.connected.is_set(), max(numbers(fleet.database, n)), counting[n].promised) for n,(a,_) in zip(names, fleet._agents)})
            with fleet.database.reading() as c:
                for row in c.execute(sa.select(tables.jobs)): print(row)
            raise
        print(f"rollout done {time.monotonic() - began:.1f} s after the kill, {len(affected)} devices were on that node")
        assert fleet.rollouts.show(rollout)["devices"] == {"active": len(names)}
        assert {_version(updates) for updates in devices.values()} == {"2.0"}
        assert fleet.server.link._broker != victim.at

        fleet.cluster.start(victim)
        until(lambda: fleet.client(victim, "probe").got_in(5), 30, "the node that came back takes nobody in")
        promised = {name: one.stop() for name, one in counting.items()}
        assert min(promised.values()) > 50
        for name, count in promised.items():
            wanted = set(range(1, count + 1))
            until(lambda name=name, wanted=wanted: wanted <= numbers(fleet.database, name), 60, f"{name} lost some")
    finally:
        fleet.stop()
