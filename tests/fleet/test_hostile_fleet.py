"""A fleet under attack: by members, by thieves of a device, by a server in the wrong hands, and by its own clock."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from edge.fleet.device import agent as agent_module
from edge.fleet.device.agent import Agent
from edge.fleet.device.home import Home
from edge.fleet.device.updates import MqttSource
from edge.fleet.errors import BadMessage
from edge.fleet.identity import renewal_statement
from edge.fleet.messages import CertificateRequest, JobReport, Sender
from edge.fleet.server import access, ingest, tables
from edge.fleet.server.audit import entries
from edge.fleet.server.broker import BrokerFiles
from edge.fleet.server.database import set_setting, setting
from edge.fleet.server.ingest import Publication
from edge.runtime.errors import EdgeError
from tests.fleet.keys import new_key, request_for
from tests.fleet.lab import Client, needs_mosquitto, until
from tests.fleet.test_fleet import Fleet

pytestmark = needs_mosquitto


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for all attacks: what one of them breaks, the next finds broken."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def honest(fleet: Fleet) -> Agent:
    """A device that goes on reporting whatever happens to the others."""
    return fleet.run(fleet.member("honest"))


@pytest.fixture(autouse=True)
def _honest_goes_on(fleet: Fleet, honest: Agent) -> Iterator[None]:
    yield
    before = fleet.reports("honest")
    until(lambda: fleet.reports("honest") > before, 30)


# Members.


def test_a_disk_is_not_filled_below_the_speed_of_a_flood(
    fleet: Fleet, honest: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "HOUR_BYTES", 300_000)
    greedy, sender = fleet.client(fleet.member("greedy")), Sender()
    assert greedy.got_in()
    for number in range(40):  # 2.4 MB, of kinds that have a handler and kinds that have none
        kind = ("td", "tel", "fl/1/1", "job/none")[number % 4]
        body = {"values": {"x": "y" * 900}, "state": "done", "rest": "z" * 60_000}
        greedy.mqtt.publish(f"f/v1/greedy/up/{kind}", sender.wrap(body).encode(), 0)
    until(lambda: fleet.server.ingest.counts.dropped >= 36)
    until(lambda: len(honest.outbox) == 0 and fleet.reports("honest") > 1)

    def kept() -> int:
        return sum(fleet.reports("greedy", kind) for kind in ("td", "tel", "fl/1/1", "job/none"))

    until(lambda: kept() >= 4)
    time.sleep(0.5)
    assert kept() == 4 and not greedy.disconnected.is_set()


def test_the_audit_log_is_not_filled_with_refusals(fleet: Fleet) -> None:
    token = fleet.token()
    until(lambda: token.id in (fleet.state.broker / "tokens").read_text())
    port, root, login = fleet.server.address.boot_port, fleet.server.authority.root_pem, (token.id, token.secret)

    def let_in() -> Client | None:
        client = Client(port, root, None, "", login)
        return client if client.got_in() else None

    client, sender = until(let_in), Sender()
    assert client.subscribe(f"boot/{token.id}/down")
    for _ in range(8):
        body = CertificateRequest(request_for(new_key()), "x", "0" * 64).json()
        client.mqtt.publish(f"boot/{token.id}/up", sender.wrap(body).encode(), 0)
    for _ in range(8):  # each is told
        assert b"rejected" in client.messages.get(timeout=10).payload
    assert [row["action"] for row in entries(fleet.database, 100, token.id)].count("enrollment.refuse") == 1


# Thieves.


def _good_certificates(fleet: Fleet, device: str) -> int:
    table = tables.certificates
    query = sa.select(sa.func.count()).where(table.c.device == device, table.c.revoked_at.is_(None))
    with fleet.database.reading() as connection:
        return connection.scalar(query) or 0


def _asks(client: Client, sender: Sender, device: str, identity: bytes) -> None:
    """Asks for a certificate for a new key, vouched for by the stolen one."""
    csr = request_for(new_key())
    der = x509.load_pem_x509_csr(csr.encode()).public_bytes(Encoding.DER)
    key = load_pem_private_key(identity, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    vouched = key.sign(renewal_statement(der), ec.ECDSA(hashes.SHA256())).hex()
    body = CertificateRequest(csr, vouched=vouched).json()
    client.mqtt.publish(f"f/v1/{device}/up/csr", sender.wrap(body).encode(), 0)


def test_a_thief_collects_no_certificates(fleet: Fleet) -> None:
    home, sender, refused = fleet.member("attic"), Sender(), fleet.server.ingest.counts.refused
    client = fleet.client(home)
    assert client.got_in()
    for _ in range(40):
        _asks(client, sender, "attic", home.identity.read_bytes())
    # Nor does a key of his own vouch for another: whoever holds a session, or the broker, has no certificate by it.
    stranger = CertificateRequest(request_for(new_key())).json()
    client.mqtt.publish("f/v1/attic/up/csr", sender.wrap(stranger).encode(), 0)
    until(lambda: fleet.server.ingest.counts.refused >= refused + 36)
    assert _good_certificates(fleet, "attic") <= 6
    fleet.revoke("attic")
    assert _good_certificates(fleet, "attic") == 0
    assert client.disconnected.wait(5)


def test_a_copy_is_out_once_the_device_is_replaced(fleet: Fleet) -> None:
    """The operator lets the wiped device in while the copy of its old folder asks for certificates all the time."""
    old = fleet.member("barn")
    identity, sender = old.identity.read_bytes(), Sender()
    copy = fleet.client(old)
    assert copy.got_in()
    stop = threading.Event()

    def asks_on() -> None:
        while not stop.wait(0.01):
            _asks(copy, sender, "barn", identity)

    thread = threading.Thread(target=asks_on, daemon=True)
    wiped = Home(fleet.folder / "wiped")
    token = fleet.token()
    assert fleet.enroll(wiped, token, "barn", wait=0.5) is None
    thread.start()
    time.sleep(0.1)
    fleet.approve("barn", replace=True)
    assert fleet.enroll(wiped, token, "barn") is not None
    until(copy.disconnected.is_set)
    stop.set()
    thread.join()
    assert _good_certificates(fleet, "barn") == 1
    assert not fleet.client(old).got_in() and fleet.client(wiped).got_in()


# A server in the wrong hands.


def test_a_server_that_floods_and_takes_nothing_fills_no_device(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "MOST_JOBS", 50)
    home = fleet.member("cellar")
    agent = fleet.run(home)
    source = MqttSource(agent)
    until(lambda: fleet.reports("cellar") > 0)
    agent.outbox._most = 100
    monkeypatch.setattr(fleet.server.ingest, "offer", lambda topic, payload: None)
    for number in range(1000):
        fleet.server.send(f"f/v1/cellar/down/job/j{number}", {"kind": "nothing", "arguments": {"x": "y" * 1000}})
        fleet.server.publish(Publication(f"f/v1/cellar/down/blob/{'0' * 64}/{number}", b"z" * 1000))
    until(lambda: agent.outbox.job_state("j0") == "failed")
    until(lambda: "a job is not taken now" in caplog.text)
    until(lambda: not agent._queued_jobs)
    assert len(agent.outbox) <= 100 + 2 * 50 + 2 and source._came.qsize() == 0

    # Nor does its word reach the terminal as it is.
    ack = json.dumps({"boot": "0" * 16, "error": "\x1b]0;owned\x07\nall is well"}).encode()
    with caplog.at_level(logging.ERROR, "edge.fleet.agent"):
        fleet.server.publish(Publication("f/v1/cellar/down/ack/77", ack))
        until(lambda: "refuses message 77: ?]0;owned??all is well" in caplog.text)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\u202eb", "x" * 101, "\udc00"])
def test_figures_have_names_that_can_be_shown(name: str) -> None:
    with pytest.raises(BadMessage, match=r"job\.metrics"):
        JobReport.read({"state": "done", "metrics": {name: 1.0}})


# Chance.


class Clock:
    """The clock of one module, some seconds ahead of ours."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.monotonic = time.monotonic

    def time(self) -> float:
        return time.time() + self.ahead


def _listed(fleet: Fleet) -> float:
    with fleet.database.reading() as connection:
        return float(setting(connection, "revocation_list"))


def _let_follower(fleet: Fleet, name: str) -> None:
    """Does now what the follower does twice a minute."""
    (action,) = (timer for _, timer in fleet.server._follower._timers if getattr(timer, "__name__", "") == name)
    action()


def test_a_clock_that_was_a_year_ahead_shuts_nobody_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    home, thief, other = Home(fleet.folder / "honest"), fleet.member("thief"), fleet.member("other")
    clock = Clock()
    monkeypatch.setattr(access, "time", clock)
    clock.ahead = 400 * 86400.0
    fleet.revoke("thief")
    until(lambda: _listed(fleet) > time.time() + 86400)
    # The broker's own clock is right, as after the jump back.
    until(lambda: not fleet.client(home).got_in())
    clock.ahead = 0.0
    _let_follower(fleet, "watch_clock")
    until(lambda: fleet.client(home).got_in(), what="the clock is right again")
    assert not fleet.client(thief).got_in() and _listed(fleet) <= time.time()

    # As after an hour of revocations without a pause: the next list waits for its second.
    with fleet.database.transaction() as connection:
        set_setting(connection, "revocation_list", time.time() - 0.5)
    fleet.revoke("other")
    until(lambda: not fleet.client(other).got_in())
    assert fleet.client(home).got_in() and _listed(fleet) <= time.time()


def test_who_is_revoked_while_the_disk_is_full_is_out_once_it_is_not(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fleet.client(fleet.member("stolen"))
    assert client.got_in()
    tried = threading.Event()

    def full(self: BrokerFiles, revocation_list: bytes) -> None:
        tried.set()
        raise EdgeError("revoked.pem: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(BrokerFiles, "write_revocations", full)
        fleet.revoke("stolen")
        assert tried.wait(10)
    _let_follower(fleet, "shut_out")
    assert client.disconnected.wait(10)
    assert not fleet.client(Home(fleet.folder / "stolen")).got_in()
