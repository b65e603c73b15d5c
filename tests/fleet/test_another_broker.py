"""A broker that the fleet does not run itself: several addresses, the command that has it read files, the doctor."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edge.fleet import messages
from edge.fleet.addresses import MOST, Address, parse_list, parse_url, read_address
from edge.fleet.device.enroll import enroll
from edge.fleet.device.home import Home, Place
from edge.fleet.errors import BadMessage, FleetError
from edge.fleet.server.broker import Listeners, Mosquitto
from edge.fleet.server.doctor import examine
from edge.fleet.server.nats import nodes_of
from edge.fleet.server.reload_command import parse_command
from edge.fleet.server.state import Settings, State
from edge.runtime.errors import BadFile, EdgeError
from edge.sdk.cli import cli
from tests.fleet.lab import free_ports, needs_mosquitto, until
from tests.fleet.test_fleet import INVENTORY, Fleet

_ADDRESSES = st.builds(
    Address,
    st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9](\.[a-z]{2,5})?", fullmatch=True) | st.ip_addresses().map(str),
    st.integers(1, 65535),
)


@given(st.lists(_ADDRESSES, min_size=1, max_size=MOST, unique=True))
def test_addresses_survive(addresses: list[Address]) -> None:
    listed = ",".join(map(str, addresses))
    assert parse_list(listed, 1, "x") == parse_url(f"mqtts://{listed}", 1, "x") == tuple(addresses)
    assert [read_address(str(one), "x") for one in addresses] == list(map(str, addresses))


@given(st.text() | st.integers() | st.none())
def test_any_address_is_read_or_refused(given: object) -> None:
    try:
        found = read_address(given, "x")
    except BadFile as error:
        assert "\n" not in str(error)
    else:
        assert read_address(found, "x") == found


@pytest.mark.parametrize(
    "url",
    ["", "host:8883", "mqtt://a", "mqtts://", "mqtts://a,", "mqtts://a:0", "mqtts://a:65536", "mqtts://u:p@a", "mqtts://a/b",
     "mqtts://a,a:8883", "mqtts://" + ",".join(f"a{n}" for n in range(MOST + 1)), "mqtts://a b", "mqtts://a?x", "mqtts://-a"],
)  # fmt: skip
def test_bad_urls_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(FleetError, match=r"^--broker") as caught:
        parse_url(url, 8883, "--broker")
    assert "\n" not in str(caught.value)


def test_an_answer_with_too_many_or_bad_addresses_is_refused() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    answer = messages.CertificateAnswer("issued", "ab" * 32, "attic", pem + pem, pem, 8883, "", ("a:1", "[::1]:2"))
    assert messages.CertificateAnswer.read(json.loads(json.dumps(answer.json()))) == answer
    for addresses in (["a:1"] * (MOST + 1), ["a b:1"], [7], "a:1", ["a:99999"]):
        with pytest.raises(BadMessage, match="addresses"):
            messages.CertificateAnswer.read({**answer.json(), "addresses": addresses})


def test_an_older_home_has_one_broker(tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text('{"id": "attic", "host": "fleet.example.org", "port": 8883}')
    assert Home(tmp_path).place() == Place("attic", "fleet.example.org", 8883)
    (tmp_path / "device.json").write_text('{"id": "attic", "host": "a", "port": 1, "others": ["b:2", "c"]}')
    place = Home(tmp_path).place()
    assert place is not None and list(map(str, place.brokers)) == ["a:1", "b:2", "c:8883"]
    (tmp_path / "device.json").write_text('{"id": "attic", "host": "a", "port": 1, "others": ["b:2\\n"]}')
    with pytest.raises(FleetError, match="damaged"):
        Home(tmp_path).place()


def test_nodes_that_cannot_be_a_cluster_are_refused() -> None:
    for listed in ("a,b", "a:1,a:3,b", "a:65533,b,c", "a,b,c,d"):
        with pytest.raises(FleetError):
            nodes_of(parse_list(listed, 8883, "--nodes"))


def test_commands_that_are_none_are_refused() -> None:
    assert parse_command("ssh a 'kill -HUP 1'") == ["ssh", "a", "kill -HUP 1"]
    for command in ("", "  ", "kill '"):
        with pytest.raises(FleetError, match="--broker-reload"):
            parse_command(command)


class Elsewhere:
    """A fleet whose mosquitto runs "on another machine": in a folder of its own, with copies of the files."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder)
        self.settings = self.fleet.state.settings()
        self.fleet.server.stop()
        self.folder = folder / "elsewhere"
        shutil.copytree(self.fleet.state.broker, self.folder)
        listeners = Listeners("127.0.0.1", self.settings.port, self.settings.boot_port)
        authority = self.fleet.server.authority
        self.broker = Mosquitto(self.folder, listeners, authority.root_pem + authority.issuing_pem)
        self.broker.start()

    def start(self, **settings: Any) -> None:
        url = f"mqtts://127.0.0.1:{self.settings.port}"
        self.fleet.state.save(dataclasses.replace(self.settings, **{"broker": url, **settings}))
        self.fleet.start()

    @property
    def reload(self) -> str:
        """Brings the two files that change, and sends a SIGHUP: what a keeper's script would do."""
        program = (
            f"import os, shutil; [shutil.copy(n, {str(self.folder)!r}) for n in ('revoked.pem', 'tokens')]; "
            f"os.kill({self.broker.pid}, {int(signal.SIGHUP)})"
        )
        return f'{sys.executable} -c "{program}"'


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    made = Elsewhere(tmp_path)
    yield made
    try:
        made.fleet.stop()
    finally:
        made.broker.stop()


@needs_mosquitto
def test_a_command_tells_another_broker_of_tokens_and_revocations(elsewhere: Elsewhere) -> None:
    elsewhere.start(broker_reload=elsewhere.reload)
    fleet = elsewhere.fleet
    home = fleet.member("attic")  # its token is newer than the broker
    agent = fleet.run(home)
    until(lambda: fleet.is_online("attic"))
    fleet.revoke("attic")
    until(lambda: not agent.connected.is_set(), 5)
    until(lambda: not fleet.client(home).got_in(), 5)
    finding = next(found for found in examine(fleet.state.folder) if found.what == "broker reload")
    assert finding.ok, finding


@needs_mosquitto
def test_a_command_that_fails_is_told_and_tried_again(elsewhere: Elsewhere, tmp_path: Path) -> None:
    mark = tmp_path / "reloaded"
    program = f"import sys, pathlib; p = pathlib.Path({str(mark)!r}); p.exists() or sys.exit('the host is away')"
    elsewhere.start(broker_reload=f'{sys.executable} -c "{program}"')
    fleet = elsewhere.fleet
    finding = next(found for found in examine(fleet.state.folder) if found.what == "broker reload")
    assert not finding.ok and "the host is away" in finding.detail and "\n" not in finding.detail
    mark.touch()
    fleet.token()
    until(lambda: next(one for one in examine(fleet.state.folder) if one.what == "broker reload").ok, 10)


@needs_mosquitto
def test_server_and_devices_take_the_next_of_several_addresses(elsewhere: Elsewhere) -> None:
    dead, dead_boot = free_ports(2)
    port, boot_port = elsewhere.settings.port, elsewhere.settings.boot_port
    elsewhere.start(
        broker=f"mqtts://127.0.0.1:{dead},127.0.0.1:{port}",
        boot=f"mqtts://127.0.0.1:{dead_boot},127.0.0.1:{boot_port}",
        broker_reload=elsewhere.reload,
    )
    fleet = elsewhere.fleet
    home, live = fleet.home("attic"), Address("127.0.0.1", boot_port)
    place: list[Place | None] = []

    def join() -> None:
        token = fleet.token(approve=True)
        place.append(enroll(home, token, "127.0.0.1", dead_boot, INVENTORY, "attic", 20, others=[live]))

    thread = threading.Thread(target=join)
    thread.start()
    thread.join(30)
    assert place and place[0] is not None
    assert list(map(str, place[0].brokers)) == [f"127.0.0.1:{dead}", f"127.0.0.1:{port}"] and home.place() == place[0]
    for turn in (0, 1):
        agent = fleet.run(home)
        agent._turn = turn
        until(lambda agent=agent: agent.connected.is_set(), 20)
        agent.stop()
    with pytest.raises(EdgeError, match="no broker answers"):
        enroll(
            fleet.home("b"),
            fleet.token(),
            "127.0.0.1",
            dead_boot,
            INVENTORY,
            "b",
            5,
            others=[Address("127.0.0.1", dead)],
        )


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--broker", "mqtts://a:8883,b:x"], "--broker: 'b:x'"),
        (["--broker", "mqtts://a", "--boot", "mqtts://"], "--boot"),
        (["--broker", "mqtts://a", "--nats", "a:8885"], "--nats"),
        (["--broker", "mqtts://a", "--broker-reload", "kill '"], "--broker-reload"),
    ],
)
def test_a_start_that_cannot_be_is_told_in_one_line_and_not_remembered(
    options: list[str], part: str, tmp_path: Path
) -> None:
    words = ["fleet", "up", "--state", str(tmp_path / "fleet"), "--metrics-port", "0", *options]
    result = CliRunner().invoke(cli, words, prog_name="edge")
    assert result.exit_code == 2 and part in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "fleet").exists()
    before = State.create(tmp_path / "fleet").settings()
    assert CliRunner().invoke(cli, words, prog_name="edge").exit_code == 2
    assert State.existing(tmp_path / "fleet").settings() == before == Settings()


def test_the_configuration_of_a_cluster(tmp_path: Path) -> None:
    words = ["fleet", "broker-config", "nats", "--state", str(tmp_path / "fleet"), "-o", str(tmp_path / "cluster")]
    for nodes in ("a,b", "a,b,a", "a,b,c d"):
        result = CliRunner().invoke(cli, [*words, "--nodes", nodes], prog_name="edge")
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert not (tmp_path / "cluster").exists()
    result = CliRunner().invoke(cli, [*words, "--nodes", "a,b:7000,[fd00::1]"], prog_name="edge")
    assert result.exit_code == 0, result.stderr
    assert "--nats nats://a:8885,b:7002,[fd00::1]:8885" in result.stdout
    secret = (tmp_path / "cluster/cluster.secret").read_text()
    files = [path for path in (tmp_path / "cluster").rglob("*") if path.is_file()]
    assert len(files) == 1 + 3 * 7
    assert not [path for path in files if path.name != "route.pem" and path.stat().st_mode & 0o077]
    assert CliRunner().invoke(cli, [*words, "--nodes", "a,b:7000,[fd00::1]"], prog_name="edge").exit_code == 0
    assert (tmp_path / "cluster/cluster.secret").read_text() == secret
    if shutil.which("nats-server"):
        for path in files:
            if path.suffix == ".conf":
                check = ["nats-server", "-t", "-c", path.name]
                done = subprocess.run(check, cwd=path.parent, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr


def test_the_doctor_looks_at_postgresql_and_at_every_address(empty_postgres: str, tmp_path: Path) -> None:
    dead = free_ports(1)[0]
    state = State.create(tmp_path / "fleet")
    state.save(Settings(database=empty_postgres, broker=f"mqtts://127.0.0.1:{dead}", boot_port=dead))
    findings = {found.what: found for found in examine(state.folder)}
    assert findings["registry"].ok and "PostgreSQL 1" in findings["registry"].detail
    assert not findings["broker"].ok and f"127.0.0.1:{dead} does not answer" in findings["broker"].detail
    state.save(Settings(database=empty_postgres.replace("/t", "/none-t", 1)))
    finding = next(found for found in examine(state.folder) if found.what == "registry")
    assert not finding.ok and "\n" not in finding.detail
