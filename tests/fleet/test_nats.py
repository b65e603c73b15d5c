"""A fleet on a NATS cluster: who gets in, what each may say and hear, revocation, and a node that dies in a rollout."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
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

import nats

from edge.fleet.device.agent import Agent
from edge.fleet.identity import SERVER_ID, client_id
from edge.fleet.server import enrollment, tables
from edge.fleet.server.authority import Authority
from edge.fleet.server.database import Database
from edge.fleet.server.link import trust
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

    def token(self) -> tuple[str, str]:
        """User name and password of a new claim token."""
        with self.database.transaction() as connection:
            made = enrollment.create_token(connection, "00" * 32, "ana@desk", 600)
        return made.id, made.secret

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.cluster.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsFleet]:
    """One fleet for all tests that break nothing: a cluster takes seconds to find its leaders."""
    made = NatsFleet(tmp_path_factory.mktemp("nats"))
    yield made
    made.stop()


class Ear:
    """A second service of the fleet, on a node: hears what arrives, and says what devices may hear."""

    def __init__(self, fleet: NatsFleet, node: Node) -> None:
        path = fleet.folder / "ear.pem"
        path.write_bytes(fleet.server.authority.service()[0])
        # The server itself has the session of its name; any other name that begins so is a service too.
        fleet.server.link.stop()
        self.client = Client(node.at.port, fleet.server.authority.root_pem, path, SERVER_ID, protocol=mqtt.MQTTv311)
        assert self.client.got_in()
        assert self.client.subscribe("f/v1/+/up/#") and self.client.subscribe("boot/+/up")


@pytest.fixture
def ear(fleet: NatsFleet) -> Iterator[Client]:
    """What the server hears and says, in its place."""
    made = Ear(fleet, fleet.cluster.nodes[2])
    yield made.client
    made.client.close()
    fleet.server.link.start()


def test_a_device_speaks_and_hears_as_itself_alone(fleet: NatsFleet, ear: Client) -> None:
    one, two, _ = fleet.cluster.nodes
    attic, cellar = fleet.client(one, "attic"), fleet.client(two, "cellar")
    board = fleet.client(two, "attic.mic1")
    assert attic.got_in() and cellar.got_in() and board.got_in()
    # MQTT 3.1.1 has no word for a publication that is refused: it is acknowledged and goes nowhere.
    for topic in ("f/v1/cellar/up/tel", "f/v1/attic/down/cert", "f/v1/all/fl/1", "boot/tabcdefghijk2/up", "other"):
        attic.publish(topic)
    for topic in ("f/v1/attic/mic1/up/tel", "f/v1/attic.mic1/up/tel", "f/v1/attic/up/other", "f/v1/attic/up/tel/x"):
        attic.publish(topic)
    attic.publish("f/v1/attic/up/tel")
    refused = ("#", "f/#", "f/v1/+/down/#", "f/v1/cellar/down/#", "f/v1/+/up/#", "boot/#", "$SYS/#", "$MQTT/#", "+/#")
    for topic in (*refused, "f/v1/attic.mic1/down/#", "$JS/#", "_INBOX/#", "$SYS/REQ/USER/AUTH"):
        assert not attic.subscribe(topic), topic
    for client, name in ((attic, "attic"), (cellar, "cellar"), (board, "attic.mic1")):
        assert client.subscribe(f"f/v1/{name}/down/#") and client.subscribe("f/v1/all/#")
    board.publish("f/v1/attic.mic1/up/job/7f.3a")
    for topic in ("f/v1/cellar/down/cert", "f/v1/attic/down/cert", "f/v1/attic.mic1/down/ack/1", "f/v1/all/fl/1"):
        ear.publish(topic)
    assert set(heard(attic)) == {"f/v1/attic/down/cert", "f/v1/all/fl/1"}
    assert set(heard(board)) == {"f/v1/attic.mic1/down/ack/1", "f/v1/all/fl/1"}
    assert set(heard(ear)) == {"f/v1/attic/up/tel", "f/v1/attic.mic1/up/job/7f.3a"}
    for client in (attic, cellar, board):
        client.close()


def test_a_client_id_cannot_be_borrowed(fleet: NatsFleet, ear: Client) -> None:
    """NATS gives a session to whoever names it: the server refuses a name that is not the certificate's."""
    one, two, _ = fleet.cluster.nodes
    cellar = fleet.client(one, "cellar")
    assert cellar.got_in() and cellar.subscribe("f/v1/cellar/down/#")
    for says in ("cellar", "@server", "x", "attic:x"):
        assert not fleet.client(two, "attic", says).got_in(3), says
    for node in (one, two):
        assert not Client(
            node.boot.port, fleet.server.authority.root_pem, None, "cellar", fleet.token(), protocol=mqtt.MQTTv311
        ).got_in(3)
    ear.publish("f/v1/cellar/down/cert")
    assert heard(cellar) == ["f/v1/cellar/down/cert"] and not cellar.disconnected.is_set()
    cellar.close()


def test_who_does_not_get_in(fleet: NatsFleet) -> None:
    node, root = fleet.cluster.nodes[0], fleet.server.authority.root_pem
    (fleet.folder / "foreign").mkdir()
    foreign = identity(Authority(fleet.folder / "foreign"), fleet.folder, "attic")[0]
    expired = identity(fleet.server.authority, fleet.folder, "attic", days=-0.0001)[0]
    member = fleet.folder / "member.pem"  # the certificate by which nodes know each other
    place = fleet.folder / "cluster" / node.name
    member.write_bytes((place / "route.key").read_bytes() + (place / "route.pem").read_bytes())

    def gets_in(port: int, certificate: Path | None, name: str, login: tuple[str, str] | None = None) -> bool:
        client = Client(port, root, certificate, name, login, protocol=mqtt.MQTTv311)
        found = client.got_in(5)
        client.mqtt.disconnect()
        return found

    for certificate in (foreign, expired, None):
        assert not gets_in(node.at.port, certificate, "attic"), certificate
    assert not gets_in(node.at.port, member, "@broker")
    good, service = fleet.token(), ("CN=@server", "")
    for login in (service, ("@server", ""), ("edge", "x"), (good[0], "x"), ("tabcdefghijk3", good[1]), None):
        assert not gets_in(node.boot.port, None, login[0] if login else "x", login), login
        assert not gets_in(node.at.port, None, "attic", login), login
    attic = identity(fleet.server.authority, fleet.folder, "attic")[0]
    assert not gets_in(node.at.port, attic, "@server", service)
    assert gets_in(node.boot.port, None, good[0], good)
    with fleet.database.transaction() as connection:
        enrollment.close_token(connection, good[0], "ana@desk")
    assert not gets_in(node.boot.port, None, good[0], good)


def test_a_device_reaches_neither_the_servers_port_nor_the_clusters(fleet: NatsFleet) -> None:
    node = fleet.cluster.nodes[0]
    path, _ = identity(fleet.server.authority, fleet.folder, "attic")
    context = trust(fleet.server.authority.root_pem, path)

    async def connect(**login: str) -> None:
        client = await nats.connect(
            f"tls://{node.server}", tls=context, allow_reconnect=False, connect_timeout=3, **login
        )
        await client.close()

    for login in ({}, {"user": "CN=@server", "password": ""}, {"user": "@server", "password": "x"}):
        with pytest.raises(Exception, match="(?i)authorization violation|timeout|EOF"):
            asyncio.run(connect(**login))
    for secret in ("", ',"user":"edge","pass":"guess"'):
        plain = socket.create_connection((node.at.host, node.at.port + 3), 5)
        with context.wrap_socket(plain) as tls:
            tls.sendall(b'CONNECT {"verbose":false,"name":"x"%s}\r\n' % secret.encode())
            tls.sendall(b'INFO {"server_id":"NX","server_name":"x","cluster":"edge"}\r\nPING\r\n')
            said = b""
            with contextlib.suppress(OSError):
                while data := tls.recv(65536):
                    said += data
            assert b"Authorization Violation" in said and b"PONG" not in said, said[:300]


def test_a_revoked_device_is_out_within_five_seconds(fleet: NatsFleet) -> None:
    updates = fleet.updating("thief")
    home = updates._agent.home
    began = time.monotonic()
    with fleet.database.transaction() as connection:
        enrollment.revoke(connection, "thief", "ana@desk")
    agent = updates._agent
    until(lambda: not agent.connected.is_set(), 5, "its session goes on")
    print(f"its session ended after {time.monotonic() - began:.2f} s")
    for node in fleet.cluster.nodes:
        client = Client(node.at.port, fleet.server.authority.root_pem, home.identity, "thief", protocol=mqtt.MQTTv311)
        assert not client.got_in(3)
        client.mqtt.disconnect()
    assert not agent.connected.is_set()


def test_an_oversized_message_ends_the_connection_and_nobody_elses(fleet: NatsFleet, ear: Client) -> None:
    node = fleet.cluster.nodes[1]
    attic, cellar = fleet.client(node, "attic"), fleet.client(node, "cellar")
    assert attic.got_in() and cellar.got_in()
    attic.mqtt.publish("f/v1/attic/up/tel", b"x" * (70 * 1024), 0)
    assert attic.disconnected.wait(10)
    cellar.publish("f/v1/cellar/up/tel", b"x" * (64 * 1024))
    assert heard(ear) == ["f/v1/cellar/up/tel"]
    for client in (attic, cellar):
        client.close()


def test_what_devices_retain_is_bounded(fleet: NatsFleet) -> None:
    """NATS cannot refuse retained messages: the server limits the stream that keeps them."""
    admission = fleet.server.admission
    assert admission is not None
    info = asyncio.run_coroutine_threadsafe(admission.retained(), admission._loop).result(10)
    assert 0 < info["config"]["max_bytes"] <= 64_000_000


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
        until(lambda: fleet.rollouts.show(rollout)["state"] == "done", 60)
        print(
            f"rollout done {time.monotonic() - began:.1f} s after the kill, {len(affected)} devices were on that node"
        )
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
