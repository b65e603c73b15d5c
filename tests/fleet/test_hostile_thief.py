"""A copy of a device's folder in the wrong hands: what it may do until it is revoked or replaced, and nothing after."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from edge.fleet.device.home import Home
from edge.fleet.identity import renewal_statement
from edge.fleet.messages import CertificateRequest, Sender
from edge.fleet.server import tables
from tests.fleet.keys import new_key, request_for
from tests.fleet.lab import Client, needs_mosquitto, until
from tests.fleet.test_fleet import Fleet

pytestmark = needs_mosquitto


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


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
    home, sender = fleet.member("attic"), Sender()
    client = fleet.client(home)
    assert client.got_in()
    for _ in range(40):
        _asks(client, sender, "attic", home.identity.read_bytes())
    # Nor does a key of his own vouch for another: whoever holds a session, or the broker, has no certificate by it.
    stranger = CertificateRequest(request_for(new_key())).json()
    client.mqtt.publish("f/v1/attic/up/csr", sender.wrap(stranger).encode(), 0)
    until(lambda: fleet.server.ingest.counts.refused >= 36)
    assert _good_certificates(fleet, "attic") <= 6
    fleet.revoke("attic")
    assert _good_certificates(fleet, "attic") == 0
    assert client.disconnected.wait(5)


def test_a_copy_is_out_once_the_device_is_replaced(fleet: Fleet) -> None:
    """The operator lets the wiped device in while the copy of its old folder asks for certificates all the time."""
    old = fleet.member("attic")
    identity, sender = old.identity.read_bytes(), Sender()
    copy = fleet.client(old)
    assert copy.got_in()
    stop = threading.Event()

    def asks_on() -> None:
        while not stop.wait(0.01):
            _asks(copy, sender, "attic", identity)

    thread = threading.Thread(target=asks_on, daemon=True)
    wiped = Home(fleet.folder / "wiped")
    token = fleet.token()
    assert fleet.enroll(wiped, token, "attic", wait=0.5) is None
    thread.start()
    time.sleep(0.1)
    fleet.approve("attic", replace=True)
    assert fleet.enroll(wiped, token, "attic") is not None
    until(copy.disconnected.is_set)
    stop.set()
    thread.join()
    assert _good_certificates(fleet, "attic") == 1
    assert not fleet.client(old).got_in() and fleet.client(wiped).got_in()
