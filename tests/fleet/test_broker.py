"""The supervised mosquitto: who gets in, what each may say and hear, and that it comes back when it is killed."""

from __future__ import annotations

import os
import queue
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.fleet.errors import FleetError
from edge.fleet.server.authority import Authority
from edge.fleet.server.broker import BrokerFiles, Listeners, Mosquitto, password_hash
from tests.fleet.lab import Client, free_ports, identity, needs_mosquitto, until

pytestmark = needs_mosquitto


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ca", "broker", "foreign"):
            (folder / name).mkdir()
        self.authority = Authority(folder / "ca")
        self.authority.broker_certificate(folder / "broker/broker.key", folder / "broker/broker.pem")
        self.port, self.boot_port = free_ports(2)
        self.files = BrokerFiles(folder / "broker")
        self.broker = self.another_broker()
        self.began = time.time() - 3000
        self.revoke()
        self.files.write_tokens([("tabcdefghijk2", password_hash("secret"))])
        self.broker.start()
        server = folder / "server.pem"
        server.write_bytes(self.authority.service()[0])
        self.server = self.client(server)
        assert self.server.got_in()
        assert self.server.subscribe("f/v1/+/up/#") and self.server.subscribe("boot/+/up")

    def another_broker(self) -> Mosquitto:
        authorities = self.authority.root_pem + self.authority.issuing_pem
        return Mosquitto(self.folder / "broker", Listeners("127.0.0.1", self.port, self.boot_port), authorities)

    def revoke(self, *serials: str) -> None:
        self.began += 1
        self.files.write_revocations(self.authority.revocation_list([(one, self.began) for one in serials], self.began))
        self.broker.reload()

    def client(self, certificate: Path | None, name: str = "", **more: object) -> Client:
        return Client(self.port, self.authority.root_pem, certificate, name, **more)  # type: ignore[arg-type]

    def device(self, name: str, **signing: float) -> Client:
        return self.client(identity(self.authority, self.folder, name, **signing)[0], name)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.broker.stop()


def heard(client: Client) -> list[str]:
    topics = []
    while True:
        try:
            topics.append(client.messages.get(timeout=0.3).topic)
        except queue.Empty:
            return topics


def test_a_device_speaks_and_hears_as_itself_alone(lab: Lab) -> None:
    attic, cellar = lab.device("attic"), lab.device("cellar")
    assert attic.got_in() and cellar.got_in()
    assert attic.publish("f/v1/attic/up/tel")
    for topic in ("f/v1/cellar/up/tel", "f/v1/attic/down/cert", "f/v1/all/fl/1", "boot/x/up", "$SYS/x", "other"):
        assert not attic.publish(topic), topic
    filters = (
        "#",
        "f/#",
        "f/v1/+/down/#",
        "f/v1/cellar/down/#",
        "f/v1/+/up/#",
        "boot/#",
        "$SYS/#",
        "f/v1/attic/down/#",
    )
    for topic in filters:
        attic.subscribe(topic)  # a filter may be granted and still bring nothing
    assert cellar.publish("f/v1/cellar/up/tel")
    for topic in ("f/v1/cellar/down/cert", "boot/tabcdefghijk2/down", "f/v1/attic/down/cert", "f/v1/all/fl/1"):
        assert lab.server.publish(topic)
    assert set(heard(attic)) == {"f/v1/attic/down/cert", "f/v1/all/fl/1"}
    assert heard(lab.server) == ["f/v1/attic/up/tel", "f/v1/cellar/up/tel"]


def test_a_client_id_cannot_be_borrowed(lab: Lab) -> None:
    """Under another's client id a session could be taken over, and messages read that wait in it."""
    cellar = lab.device("cellar")
    assert cellar.got_in() and cellar.subscribe("f/v1/cellar/down/#")
    thief = lab.client(identity(lab.authority, lab.folder, "attic")[0], "cellar")
    assert thief.got_in()
    boot = Client(lab.boot_port, lab.authority.root_pem, None, "cellar", ("tabcdefghijk2", "secret"))
    assert boot.got_in()
    assert lab.server.publish("f/v1/cellar/down/cert")
    assert heard(cellar) == ["f/v1/cellar/down/cert"]
    assert not cellar.disconnected.is_set() and not heard(thief) and not heard(boot)


def test_who_does_not_get_in(lab: Lab) -> None:
    foreign = Authority(lab.folder / "foreign")
    revoked, issued = identity(lab.authority, lab.folder, "revoked")
    lab.revoke(issued.serial)
    in_the_names = {
        "expired": identity(lab.authority, lab.folder, "attic", days=-0.0001)[0],
        "foreign": identity(foreign, lab.folder, "attic")[0],
        "none": None,
        "revoked": revoked,
    }
    for label, certificate in in_the_names.items():
        assert not lab.client(certificate, "attic").got_in(), label
    assert not lab.client(None, "@server", login=("@server", "")).got_in()
    for login in (None, ("tabcdefghijk2", "wrong"), ("tabcdefghijk3", "secret"), ("@server", "")):
        assert not Client(lab.boot_port, lab.authority.root_pem, None, "x", login).got_in(), str(login)
    assert lab.device("attic").got_in()


def test_a_device_cannot_pose_as_the_broker(lab: Lab) -> None:
    certificate, _ = identity(lab.authority, lab.folder, "attic")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pretender = Client.__new__(Client)

        def serve() -> None:
            connection, _ = server.accept()
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        pretender.__init__(server.getsockname()[1], lab.authority.root_pem)  # type: ignore[misc]
        thread.join()
        assert "purpose" in str(pretender.refused)


def test_revocations_count_at_once_and_can_be_taken_back(lab: Lab) -> None:
    one, first = identity(lab.authority, lab.folder, "one")
    two, second = identity(lab.authority, lab.folder, "two")
    lab.revoke(first.serial)
    until(lambda: not lab.client(one).got_in(), what="one is refused")
    assert lab.client(two).got_in()
    lab.revoke(first.serial, second.serial)
    until(lambda: not lab.client(two).got_in(), what="two is refused")
    lab.revoke(second.serial)
    until(lambda: lab.client(one).got_in(), what="one is let in again")


def test_a_tls_session_does_not_outlive_a_revocation(lab: Lab) -> None:
    """A resumed session skips the certificate: a broker that keeps tickets lets the revoked back in."""
    certificate, issued = identity(lab.authority, lab.folder, "attic")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=lab.authority.root_pem)
    context.load_cert_chain(certificate)
    connect = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05attic"

    def attempt(version: ssl.TLSVersion, session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        context.maximum_version = version
        with socket.create_connection(("127.0.0.1", lab.port)) as plain:
            plain.settimeout(10)
            try:
                with context.wrap_socket(plain, session=session) as tls:
                    tls.sendall(connect)
                    return tls.recv(4), tls.session
            except OSError:
                return b"", None

    sessions = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        answer, session = attempt(version, None)
        assert answer == b"\x20\x02\x00\x00"
        sessions.append((version, session))
    lab.revoke(issued.serial)
    until(lambda: not lab.client(certificate).got_in())
    for version, session in sessions:
        assert attempt(version, session)[0] == b"", version


def test_tokens_come_and_go(lab: Lab) -> None:
    def gets_in(name: str) -> bool:
        return Client(lab.boot_port, lab.authority.root_pem, None, "", (name, "secret")).got_in()

    assert gets_in("tabcdefghijk2")
    lab.files.write_tokens([("tnew222222222", password_hash("secret"))])
    lab.broker.reload()
    until(lambda: gets_in("tnew222222222"))
    assert not gets_in("tabcdefghijk2")
    for name in ("x:y", "attic", "tabcdefghijk2\nevil"):
        with pytest.raises(FleetError):
            lab.files.write_tokens([(name, "x")])


def test_an_oversized_message_ends_the_connection_and_nobody_elses(lab: Lab) -> None:
    attic, cellar = lab.device("attic"), lab.device("cellar")
    assert attic.got_in() and cellar.got_in()
    attic.mqtt.publish("f/v1/attic/up/tel", b"x" * (70 * 1024), 1)
    assert attic.disconnected.wait(10)
    assert cellar.publish("f/v1/cellar/up/tel", b"x" * (64 * 1024))
    assert heard(lab.server) == ["f/v1/cellar/up/tel"]


def test_it_comes_back_when_it_is_killed(lab: Lab) -> None:
    before = lab.broker.pid
    assert before
    os.kill(before, signal.SIGKILL)
    until(lambda: lab.broker.pid not in (None, before))
    until(lambda: lab.device("attic").got_in())
    until(lambda: lab.broker.restarts == 1)


def test_what_an_earlier_server_left_behind_is_ended(lab: Lab) -> None:
    lab.broker._stopping.set()  # as if its supervisor had been killed
    left = lab.broker.pid
    assert left
    # Its server was killed between starting it and writing its number down: 200 kills found that.
    (lab.folder / "broker/mosquitto.pid").unlink()
    heir = lab.another_broker()
    heir.start()
    assert heir.pid not in (None, left)
    heir.stop()
    assert not Path(f"/proc/{left}").exists() or b"Z" in Path(f"/proc/{left}/stat").read_bytes()


def test_a_port_that_is_taken_is_told(lab: Lab) -> None:
    lab.broker.stop()
    with socket.create_server(("127.0.0.1", lab.port)), pytest.raises(FleetError, match=f"port {lab.port}"):
        lab.another_broker().start()
    with pytest.raises(FleetError, match="did not start"):
        (lab.folder / "broker/broker.pem").write_bytes(b"")
        lab.another_broker().start()
