"""A whole fleet: server, mosquitto, devices; enrollment, renewal, revocation, jobs, acknowledgements, attacks."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa

from edge.fleet import topics
from edge.fleet.device.agent import Agent
from edge.fleet.device.enroll import enroll
from edge.fleet.device.gateway import Gateway
from edge.fleet.device.home import Home, Place
from edge.fleet.errors import FleetError, Refused
from edge.fleet.identity import ClaimToken, claim_proof
from edge.fleet.inventory import Inventory
from edge.fleet.messages import CertificateRequest, JobReport, Sender
from edge.fleet.server import enrollment, ingest, registry, tables
from edge.fleet.server.audit import entries
from edge.fleet.server.authority import Authority
from edge.fleet.server.broker import Listeners, Mosquitto
from edge.fleet.server.database import setting
from edge.fleet.server.running import running_pid
from edge.fleet.server.services import Server
from edge.fleet.server.state import State
from tests.fleet.keys import new_key, request_for
from tests.fleet.lab import Client, free_ports, identity, needs_mosquitto, until

pytestmark = needs_mosquitto

INVENTORY = Inventory(arch="aarch64", cores=4, sensors=("microphone",))


class Fleet:
    """A server in this process, and devices in threads."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder = folder
        self.state = State.create(folder / "fleet")
        port, boot_port = free_ports(2)
        settings = dataclasses.replace(
            self.state.settings(), host="127.0.0.1", port=port, boot_port=boot_port, database=database
        )
        self.state.save(settings)
        self.server = self.start()
        self._agents: list[tuple[Agent, threading.Thread]] = []

    def start(self) -> Server:
        self.server = Server(self.state, self.state.settings())
        self.server.start()
        return self.server

    def stop(self) -> None:
        for agent, _ in self._agents:
            agent.stop()
        for _, thread in self._agents:
            thread.join(10)
        self.server.stop()

    @property
    def database(self) -> Any:
        return self.server.database

    def token(self, **options: Any) -> ClaimToken:
        with self.database.transaction() as connection:
            key = setting(connection, "broker_key")
            return enrollment.create_token(connection, key, "ana@desk", options.pop("seconds", 60.0), **options)

    def home(self, name: str) -> Home:
        return Home(self.folder / name)

    def enroll(self, home: Home, token: ClaimToken, device: str = "", wait: float | None = 20) -> Place | None:
        boot_port = self.server.address.boot_port
        return enroll(home, token, "127.0.0.1", boot_port, INVENTORY, device, wait)

    def member(self, name: str) -> Home:
        """A device that is in."""
        home = self.home(name)
        assert self.enroll(home, self.token(approve=True), name) is not None
        return home

    def run(self, home: Home, **options: Any) -> Agent:
        agent = Agent(home, lambda: INVENTORY, **{"heartbeat": 0.2, **options})
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        self._agents.append((agent, thread))
        return agent

    def approve(self, name: str, **options: Any) -> None:
        with self.database.transaction() as connection:
            key = enrollment.find_pending(connection, name)["key"]
            enrollment.approve_request(connection, key, "ana@desk", **options)

    def revoke(self, name: str) -> None:
        with self.database.transaction() as connection:
            enrollment.revoke(connection, name, "ana@desk")

    def device(self, name: str) -> dict[str, Any]:
        with self.database.reading() as connection:
            return registry.describe(connection, name)

    def devices(self) -> list[str]:
        with self.database.reading() as connection:
            return list(connection.scalars(sa.select(tables.devices.c.id)))

    def is_online(self, name: str) -> bool:
        return bool(self.device(name)["online"])

    def reports(self, device: str, kind: str = "tel") -> int:
        table = tables.reports
        query = sa.select(sa.func.count()).where(table.c.device == device, table.c.kind == kind)
        with self.database.reading() as connection:
            return connection.scalar(query) or 0

    def pending(self) -> list[str]:
        with self.database.reading() as connection:
            return [row["device"] for row in enrollment.pending(connection)]

    def client(self, home: Home, name: str = "") -> Client:
        return Client(self.server.address.port, self.server.authority.root_pem, home.identity, name)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def test_from_nothing_to_a_device_that_reports(fleet: Fleet) -> None:
    home = fleet.home("attic")
    thread, results = in_background(lambda: fleet.enroll(home, fleet.token(labels={"building": "7"}), "attic", None))
    until(lambda: fleet.pending() == ["attic"])
    assert not home.identity.exists()
    fleet.approve("attic")
    thread.join(10)
    assert results == [Place("attic", "127.0.0.1", fleet.server.address.port)]
    assert home.identity.stat().st_mode & 0o777 == 0o600
    agent = fleet.run(home)
    until(lambda: fleet.reports("attic") >= 3)
    until(lambda: len(agent.outbox) <= 1, what="what was acknowledged is forgotten")
    device = fleet.device("attic")
    assert device["online"] and device["labels"] == {"building": "7"}
    assert Inventory.read(device["inventory"]) == INVENTORY
    agent.stop()
    until(lambda: not fleet.is_online("attic"))
    events = fleet.database.follow(0, ["device.changed"])
    assert events[-1].subject == "attic" and events[-1].body["inventory"]["sensors"] == ["microphone"]


def test_the_last_will_tells_that_a_device_is_gone(fleet: Fleet) -> None:
    agent = fleet.run(fleet.member("attic"))
    until(lambda: fleet.is_online("attic"))
    agent._stop.set()  # no goodbye: as if its power were cut
    client = agent._client
    assert client is not None
    client._sock_close()  # type: ignore[attr-defined,unused-ignore]
    until(lambda: not fleet.is_online("attic"))


def test_a_token_is_good_once_and_in_time_and_for_its_device(fleet: Fleet) -> None:
    token = fleet.token(approve=True)
    assert fleet.enroll(fleet.home("one"), token, "one") is not None
    with pytest.raises(Refused, match="another device"):
        fleet.enroll(fleet.home("two"), token, "two")
    # Whoever has both, key and token, gets the same answer until the certificate was used; then nobody does.
    assert fleet.enroll(Home(fleet.folder / "three"), fleet.token(approve=True, device="three")) is not None
    fleet.run(fleet.home("one"))
    until(lambda: fleet.is_online("one"))
    until(lambda: token.id not in (fleet.state.broker / "tokens").read_text())
    with pytest.raises(Refused, match="done its work"):
        fleet.enroll(fleet.home("four"), token, "four")
    expired = fleet.token(seconds=-1.0)
    with pytest.raises(Refused, match="has expired"):
        fleet.enroll(fleet.home("five"), expired)
    named = fleet.enroll(fleet.home("six"), fleet.token(approve=True, device="sixth"), "six")
    assert named is not None and named.id == "sixth", "the operator's word counts, not the device's"
    invented = ClaimToken.new("ab" * 32)
    with pytest.raises(FleetError, match="not the broker"):
        fleet.enroll(fleet.home("seven"), invented)
    stolen_id = dataclasses.replace(fleet.token(), secret=invented.secret)
    with pytest.raises(Refused):
        fleet.enroll(fleet.home("eight"), stolen_id)
    assert any(row["action"] == "enrollment.refuse" for row in entries(fleet.database, 100, token.id))


def test_a_token_that_expires_while_the_broker_lets_it_in_is_refused_by_the_database(fleet: Fleet) -> None:
    token = fleet.token(seconds=60.0)
    with fleet.database.transaction() as connection:
        connection.execute(tables.tokens.update().values(expires_at=time.time() - 1))
    message = CertificateRequest(request_for(new_key()), "x", "0" * 64)
    with fleet.database.transaction() as connection, pytest.raises(Refused, match="not one of this fleet"):
        enrollment.request(connection, token.id, message)
    pem, der, _ = fleet.home("late").next_request()
    request = CertificateRequest(pem, "late", claim_proof(token.key, der))
    with fleet.database.transaction() as connection, pytest.raises(Refused, match="expired"):
        enrollment.request(connection, token.id, request)


def test_an_interrupted_enrollment_goes_on_with_the_same_key(fleet: Fleet) -> None:
    home, token = fleet.home("attic"), fleet.token()
    assert fleet.enroll(home, token, "attic", wait=1.5) is None
    assert fleet.pending() == ["attic"]
    fleet.server.stop()
    with State.existing(fleet.folder / "fleet").database().transaction() as connection:
        key = enrollment.find_pending(connection, "attic")["key"]
        assert key == home.waits_for()
        enrollment.approve_request(connection, key, "ana@desk")  # while nothing runs
    fleet.start()
    assert fleet.enroll(home, token, "attic") is not None
    assert fleet.enroll(Home(fleet.folder / "other"), fleet.token(), "attic", wait=1) is None  # the name is taken


def test_rejected_and_approved_ahead_and_under_another_name(fleet: Fleet) -> None:
    home = fleet.home("bad")
    thread, results = in_background(lambda: fleet.enroll(home, fleet.token(), "bad", None))
    until(lambda: fleet.pending() == ["bad"])
    with fleet.database.transaction() as connection:
        key = enrollment.find_pending(connection, "bad")["key"]
        enrollment.reject_request(connection, key, "ana@desk", "who are you?")
        with pytest.raises(Refused):
            enrollment.approve_request(connection, key, "ana@desk")
    thread.join(10)
    assert isinstance(results[0], Refused) and str(results[0]).startswith(
        "the operator turned the request down: who are you?: enroll again with a new claim token"
    )
    assert fleet.enroll(home, fleet.token(approve=True), "bad") is not None, "another token, another key"
    by_key = fleet.home("by-key")
    with fleet.database.transaction() as connection:
        enrollment.preapprove(connection, ["listed", by_key.next_request()[2]], "ana@desk")
    assert fleet.enroll(fleet.home("listed"), fleet.token(), "listed") is not None
    assert fleet.enroll(by_key, fleet.token(), "anything") is not None
    assert fleet.enroll(fleet.home("again"), fleet.token(), "listed", wait=1) is None, "a list is good once a device"
    fleet.approve("listed", device="listed-2")
    until(lambda: "listed-2" in fleet.devices())


def test_a_wiped_device_comes_back_only_by_the_operators_decision(fleet: Fleet) -> None:
    old = fleet.member("attic")
    wiped = fleet.home("wiped")
    # A token that needs no approval, and a list, do not help: it could be anybody.
    with fleet.database.transaction() as connection:
        enrollment.preapprove(connection, ["attic"], "ana@desk")
    token = fleet.token(approve=True)
    assert fleet.enroll(wiped, token, "attic", wait=1) is None
    with pytest.raises(Refused, match="--replace"):
        fleet.approve("attic")
    fleet.approve("attic", replace=True)
    assert fleet.enroll(wiped, token, "attic") is not None
    until(lambda: not fleet.client(old).got_in(), what="the old key is void")
    assert fleet.client(wiped).got_in()


def test_a_device_renews_its_certificate_by_itself(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fleet.member("attic")
    before = home.identity.read_bytes()
    monkeypatch.setattr(home, "renewal_due", lambda: 0.0 if home.identity.read_bytes() == before else 1e12)
    fleet.run(home)
    until(lambda: home.identity.read_bytes() != before)
    reports = fleet.reports("attic")
    until(lambda: fleet.reports("attic") > reports + 1, what="it reports with its new certificate")
    assert home.waits_for() is None
    with fleet.database.reading() as connection:
        query = sa.select(tables.certificates).where(tables.certificates.c.device == "attic")
        assert len(connection.execute(query).all()) == 2
    assert any(row["action"] == "certificate.renew" for row in entries(fleet.database, 10, "attic"))


def test_a_lost_answer_to_a_renewal_is_given_again(fleet: Fleet) -> None:
    csr, der, _ = Home(fleet.folder / "next").next_request()
    request = CertificateRequest(csr, vouched=fleet.member("attic").vouch(der))
    with fleet.database.transaction() as connection:
        first = enrollment.renew(connection, fleet.server.authority, "attic", request)
        assert enrollment.renew(connection, fleet.server.authority, "attic", request) == first
    fleet.member("cellar")
    with fleet.database.transaction() as connection, pytest.raises(Refused):
        enrollment.renew(connection, fleet.server.authority, "cellar", request)


def test_who_is_revoked_is_out_within_five_seconds_and_stays_out(fleet: Fleet) -> None:
    homes = [fleet.member(name) for name in ("attic", "cellar", "garden")]
    clients = [fleet.client(home) for home in homes]
    assert all(client.got_in() for client in clients)
    started = time.monotonic()
    fleet.revoke("attic")
    assert clients[0].disconnected.wait(5)
    assert time.monotonic() - started < 5
    fleet.revoke("cellar")
    assert clients[1].disconnected.wait(5)
    for home in homes[:2]:
        assert not fleet.client(home).got_in()
    assert not clients[2].disconnected.is_set()
    # Not after a restart of the server either, and a revoked device's own request does not help it.
    fleet.server.stop()
    fleet.start()
    assert not fleet.client(homes[0]).got_in()
    assert fleet.client(homes[2]).got_in()
    with fleet.database.transaction() as connection, pytest.raises(Refused, match="not an active device"):
        enrollment.renew(connection, fleet.server.authority, "attic", CertificateRequest(request_for(new_key())))


def test_jobs_are_done_once_and_wait_for_their_device(fleet: Fleet) -> None:
    home = fleet.member("attic")
    with fleet.database.transaction() as connection:
        early = registry.create_job(connection, "attic", "count", {}, "ana@desk")
    agent = fleet.run(home)
    done: list[str] = []

    def count(job: str, arguments: dict[str, Any], report: Any) -> None:
        done.append(job)
        report(JobReport("done"))

    agent.on_job("count", count)

    def state(job: str) -> str:
        with fleet.database.reading() as connection:
            return str(connection.scalar(sa.select(tables.jobs.c.state).where(tables.jobs.c.id == job)))

    until(lambda: state(early) == "done")
    with fleet.database.transaction() as connection:
        unknown = registry.create_job(connection, "attic", "dance", {}, "ana@desk")
        version = registry.set_desired(connection, "attic", {"rate": 5}, "ana@desk")
    until(lambda: state(unknown) == "failed")
    until(lambda: fleet.device("attic")["reported_version"] == version)
    assert fleet.device("attic")["reported"] == {"rate": 5}
    for _ in range(3):  # the same job again, as after a lost acknowledgement
        fleet.server.jobs.send(early)
    time.sleep(0.5)
    assert done == [early]


def test_a_job_that_came_while_its_device_was_away_is_sent_when_it_connects(fleet: Fleet) -> None:
    agent = fleet.run(fleet.member("attic"))
    until(lambda: fleet.is_online("attic"))
    client = agent._client
    assert client is not None
    client.disconnect()  # a connection that breaks, not a restart
    with fleet.database.transaction() as connection:
        registry.create_job(connection, "attic", "ping", {}, "ana@desk")
    query = sa.select(tables.jobs.c.state)

    def state() -> str:
        with fleet.database.reading() as connection:
            return str(connection.scalar(query))

    until(lambda: state() == "done")


def test_what_is_acknowledged_is_kept_once(fleet: Fleet) -> None:
    home = fleet.member("attic")
    client = fleet.client(home)
    assert client.got_in() and client.subscribe("f/v1/attic/down/#")
    sender = Sender()
    first, second = sender.wrap({"values": {"t": 1}}), sender.wrap({"values": {"t": 2}})
    wrong = sender.wrap({"values": {"t": []}})
    for envelope in (first, second, first, wrong, first):
        client.publish("f/v1/attic/up/tel", envelope.encode())
    answers = [client.messages.get(timeout=5) for _ in range(5)]
    assert [int(m.topic.rsplit("/")[-1]) for m in answers] == [1, 2, 1, 3, 1]
    errors = [json.loads(m.payload).get("error") for m in answers]
    assert "tel.values['t']" in errors[3] and not any(errors[:3])
    assert fleet.reports("attic") == 2
    fleet.server.stop()
    fleet.start()
    client = fleet.client(home)
    assert client.got_in() and client.subscribe("f/v1/attic/down/#")
    client.publish("f/v1/attic/up/tel", first.encode())
    assert client.messages.get(timeout=5).topic == topics.down("attic", "ack", "1")
    assert fleet.reports("attic") == 2


def test_a_failing_disk_acknowledges_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = fleet.run(fleet.member("attic"))
    until(lambda: fleet.reports("attic") > 0)
    broken = threading.Event()
    commit = fleet.server.ingest._keep

    def fail(*arguments: Any) -> Any:
        broken.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fleet.server.ingest, "_keep", fail)
    assert broken.wait(5)
    agent.telemetry({"precious": 1})
    time.sleep(0.5)
    assert len(agent.outbox) > 0
    monkeypatch.setattr(fleet.server.ingest, "_keep", commit)
    monkeypatch.setattr("edge.fleet.device.agent._RESEND_SECONDS", 0.2)

    def precious() -> bool:
        query = sa.select(tables.reports.c.body).where(tables.reports.c.body.contains("precious"))
        with fleet.database.reading() as connection:
            return len(connection.execute(query).all()) == 1

    until(precious)


# Attacks.


def test_garbage_from_a_member_reaches_nobody(fleet: Fleet) -> None:
    hostile, honest = fleet.client(fleet.member("hostile")), fleet.run(fleet.member("honest"))
    assert hostile.got_in()
    for topic in ("tel", "hello", "csr", "job/x", "status", "blob", "nonsense", "fl/1/2", "td", "job/../../x"):
        for payload in (b"", b"{", b"\xff" * 100, b"[" * 60_000, Sender().wrap({"values": 1}).encode()):
            hostile.publish(f"f/v1/hostile/up/{topic}", payload)
    before = fleet.reports("honest")
    until(lambda: fleet.reports("honest") > before + 1)
    assert fleet.device("hostile")["inventory"] == INVENTORY.json() | {
        "features": [], "sensors": ["microphone"], "boards": [], "models": [], "operators": [], "dtypes": []
    }  # fmt: skip
    assert honest.connected.is_set()
    hostile.mqtt.publish("f/v1/hostile/up/job/x", b"x" * 60_000, 1, retain=True)
    assert hostile.disconnected.wait(5), "the broker's memory is not for keeping things in"


def test_who_left_while_the_server_was_away_is_found_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.fleet.server.services.ROLL_CALL_OVER_SECONDS", 2.0)
    monkeypatch.setattr("edge.fleet.device.agent.ROLL_CALL_SECONDS", 0.5)
    stays, leaves = (fleet.run(fleet.member(name), heartbeat=60) for name in ("stays", "leaves"))
    until(lambda: fleet.is_online("stays") and fleet.is_online("leaves"))
    fleet.server.link._client.loop_stop()  # the broker and the devices go on, nobody listens
    fleet.server.ingest.offer = lambda topic, payload: None  # type: ignore[method-assign]
    leaves.stop()
    until(lambda: not leaves.connected.is_set())
    time.sleep(0.2)
    assert fleet.is_online("leaves")
    del fleet.server.ingest.offer
    fleet.server.link._client.reconnect()
    fleet.server.link._client.loop_start()
    until(lambda: not fleet.is_online("leaves"))
    time.sleep(0.5)
    assert fleet.is_online("stays") and stays.connected.is_set()


def test_a_foreign_or_borrowed_identity(fleet: Fleet) -> None:
    fleet.member("attic")
    (fleet.folder / "foreign").mkdir()
    foreign, _ = identity(Authority(fleet.folder / "foreign"), fleet.folder, "attic")
    assert not Client(fleet.server.address.port, fleet.server.authority.root_pem, foreign).got_in()
    # A certificate of ours for a device that the registry does not know is let in by the broker, and not listened to.
    ghost, _ = identity(fleet.server.authority, fleet.folder, "ghost")
    client = Client(fleet.server.address.port, fleet.server.authority.root_pem, ghost)
    assert client.got_in()
    client.publish("f/v1/ghost/up/tel", Sender().wrap({"values": {"t": 1}}).encode())
    until(lambda: fleet.server.ingest.counts.refused > 0)
    assert fleet.reports("ghost") == 0


def test_a_gateway_speaks_for_its_own_boards_only(fleet: Fleet) -> None:
    gateway = fleet.client(fleet.member("attic"))
    fleet.member("cellar")
    assert gateway.got_in() and gateway.subscribe("f/v1/attic/down/#")
    for board in ("cellar", "cellar.mic", "attic", "atticx", "@server"):
        body = {"csr": request_for(new_key()), "device": board}
        gateway.publish("f/v1/attic/up/csr", Sender().wrap(body).encode())
    until(lambda: fleet.server.ingest.counts.refused >= 3)
    assert fleet.pending() == []
    body = {"csr": request_for(new_key()), "device": "attic.mic"}
    gateway.publish("f/v1/attic/up/csr", Sender().wrap(body).encode())
    until(lambda: fleet.pending() == ["attic.mic"])
    fleet.approve("attic.mic")
    until(lambda: "attic.mic" in fleet.devices())
    assert fleet.device("attic.mic")["gateway"] == "attic"
    fleet.revoke("attic")
    assert fleet.device("attic.mic")["state"] == "revoked"


class Thermometer:
    """A board, as the firmware bridge's link presents one."""

    name = "thermo"

    def inventory(self) -> Inventory:
        return Inventory(kind="microcontroller", board="mps2-an386", ram_kb=4096, sensors=("thermometer",))

    def measure(self) -> dict[str, float | int | str | bool]:
        return {"celsius": 21.5}

    def seen(self, job: str, kind: str, arguments: dict[str, Any]) -> None:
        pass

    def do(self, job: str, kind: str, arguments: dict[str, Any], report: Any) -> None:
        report(JobReport("done", f"{kind} {arguments}"))


def test_a_board_behind_a_gateway_is_a_device_of_its_own(fleet: Fleet) -> None:
    agent = fleet.run(fleet.member("attic"))
    gateway = Gateway(agent, [Thermometer()], heartbeat=0.2)
    assert gateway.ids == ("attic.thermo",)
    gateway.start()
    until(lambda: fleet.pending() == ["attic.thermo"])
    fleet.approve("attic.thermo")
    until(lambda: fleet.reports("attic.thermo") >= 2)
    board = fleet.device("attic.thermo")
    assert board["gateway"] == "attic" and board["inventory"]["board"] == "mps2-an386" and board["online"]
    with fleet.database.transaction() as connection:
        job = registry.create_job(connection, "attic.thermo", "calibrate", {"at": 20}, "ana@desk")

    def detail() -> str:
        with fleet.database.reading() as connection:
            return str(connection.scalar(sa.select(tables.jobs.c.detail).where(tables.jobs.c.id == job)))

    until(lambda: detail() == "calibrate {'at': 20}")
    gateway.stop()
    until(lambda: not fleet.is_online("attic.thermo"))
    again = Gateway(agent, [Thermometer()], heartbeat=0.2)  # the key is there: nobody is asked again
    again.start()
    until(lambda: fleet.is_online("attic.thermo"))
    again.stop()
    assert fleet.pending() == []


def test_a_flood_from_one_device_does_not_stop_the_others(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "FLOOD_MESSAGES", 500)
    flooder, honest = fleet.client(fleet.member("flooder")), fleet.run(fleet.member("honest"))
    assert flooder.got_in()
    until(lambda: fleet.reports("honest") > 0)
    before, sender = fleet.reports("honest"), Sender()
    deadline = time.monotonic() + 20
    while not flooder.disconnected.is_set() and time.monotonic() < deadline:
        for _ in range(50):
            flooder.mqtt.publish("f/v1/flooder/up/tel", sender.wrap({"values": {"x": "y" * 900}}).encode(), 0)
    assert flooder.disconnected.is_set(), "it is shut out"
    assert not fleet.client(Home(fleet.folder / "flooder")).got_in()
    until(lambda: fleet.reports("honest") > before + 2)
    assert honest.connected.is_set()
    assert any(row["action"] == "device.suspend" for row in entries(fleet.database, 20, "flooder"))
    assert fleet.device("flooder")["state"] == "active", "for a while, not for good"


def test_a_flood_of_requests_with_a_token(fleet: Fleet) -> None:
    token, honest = fleet.token(), fleet.run(fleet.member("honest"))
    until(lambda: token.id in (fleet.state.broker / "tokens").read_text())
    login = (token.id, token.secret)
    client = until(
        lambda: (
            found
            if (
                found := Client(fleet.server.address.boot_port, fleet.server.authority.root_pem, None, "", login)
            ).got_in()
            else None
        )
    )
    before = fleet.reports("honest")
    sender = Sender()
    for _ in range(500):
        body = CertificateRequest(request_for(new_key()), "x", "0" * 64).json()
        client.mqtt.publish(f"boot/{token.id}/up", sender.wrap(body).encode(), 0)
    until(lambda: fleet.reports("honest") > before + 2)
    refused = [row for row in entries(fleet.database, 1000, token.id) if row["action"] == "enrollment.refuse"]
    assert 0 < len(refused) <= 40 and honest.connected.is_set()


# Starting and stopping.


def test_one_server_a_folder(fleet: Fleet) -> None:
    assert running_pid(fleet.state)
    with pytest.raises(FleetError, match="runs already"):
        Server(fleet.state, fleet.state.settings()).start()
    fleet.server.stop()
    assert running_pid(fleet.state) is None
    fleet.start()


def test_devices_come_back_after_a_restart_of_the_server(fleet: Fleet) -> None:
    agent = fleet.run(fleet.member("attic"))
    until(lambda: fleet.reports("attic") > 0)
    fleet.server.stop()
    agent.telemetry({"meanwhile": 1})
    fleet.start()
    until(lambda: fleet.reports("attic", "hello") >= 1 and len(agent.outbox) <= 2, 30)


def test_the_same_fleet_on_postgresql(tmp_path: Path, empty_postgres: str) -> None:
    fleet = Fleet(tmp_path, empty_postgres)
    try:
        home = fleet.member("attic")
        agent = fleet.run(home)
        until(lambda: fleet.reports("attic") >= 3 and fleet.is_online("attic"))
        with fleet.database.transaction() as connection:
            version = registry.set_desired(connection, "attic", {"rate": 5}, "ana@desk")
        until(lambda: fleet.device("attic")["reported_version"] == version)
        fleet.server.stop()
        agent.telemetry({"meanwhile": 1})
        fleet.start()
        until(lambda: len(agent.outbox) <= 2, 30)
        client = fleet.client(home, "attic")
        fleet.revoke("attic")
        until(lambda: not fleet.client(home).got_in())
        client.close()
        assert not (fleet.state.folder / "registry.sqlite").exists()
    finally:
        fleet.stop()


def test_another_broker_with_the_files_that_were_written_for_it(fleet: Fleet) -> None:
    """A mosquitto that the server did not start, as one on another machine."""
    home = fleet.member("attic")
    settings = fleet.state.settings()
    fleet.server.stop()
    other_folder = fleet.folder / "elsewhere"
    shutil.copytree(fleet.state.broker, other_folder)
    authority = fleet.server.authority
    listeners = Listeners("127.0.0.1", settings.port, settings.boot_port)
    other = Mosquitto(other_folder, listeners, authority.root_pem + authority.issuing_pem)
    other.start()
    try:
        fleet.state.save(dataclasses.replace(settings, broker=f"mqtts://localhost:{settings.port}"))
        fleet.start()
        assert fleet.server.broker_pid is None
        agent = fleet.run(home)
        until(lambda: fleet.reports("attic") >= 2)
        fleet.revoke("attic")
        # The list of revocations is the other broker's keeper's to bring; what the device says no longer counts.
        until(lambda: not fleet.is_online("attic"))
        reports, refused = fleet.reports("attic"), fleet.server.ingest.counts.refused
        until(lambda: fleet.server.ingest.counts.refused > refused)
        assert fleet.reports("attic") == reports
        agent.stop()
        fleet.server.stop()
        fleet.state.save(settings)
    finally:
        other.stop()
    fleet.start()


def test_without_mosquitto_a_first_try_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.fleet.server.services.find_mosquitto", lambda: None)
    fleet = Fleet(tmp_path)
    try:
        home = fleet.member("attic")
        fleet.run(home)
        until(lambda: fleet.reports("attic") >= 2 and fleet.is_online("attic"))
        root, port = fleet.server.authority.root_pem, fleet.server.address.port
        cellar = fleet.member("cellar")
        client = Client(port, root, cellar.identity, "cellar", protocol=mqtt.MQTTv311)
        assert client.got_in() and client.subscribe("f/v1/cellar/down/#")
        assert not client.subscribe("f/v1/attic/down/#")
        client.publish("f/v1/attic/up/tel", Sender().wrap({"values": {"forged": 1}}).encode())
        assert not Client(port, root, cellar.identity, "attic", protocol=mqtt.MQTTv311).got_in()
        assert not Client(port, root, None, "attic", protocol=mqtt.MQTTv311).got_in()
        fleet.revoke("cellar")
        until(lambda: not Client(port, root, cellar.identity, "cellar", protocol=mqtt.MQTTv311).got_in())
        query = sa.select(tables.reports.c.body).where(tables.reports.c.body.contains("forged"))
        with fleet.database.reading() as connection:
            assert connection.execute(query).all() == []
    finally:
        fleet.stop()
