"""A device whose operator makes mistakes: a second enrollment that fails, a second agent, a copied folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.fleet.device.home import Home
from edge.fleet.device.outbox import Outbox
from edge.sdk.cli import cli
from tests.fleet.lab import free_ports, needs_mosquitto, until
from tests.fleet.test_fleet import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.stop()


def device(*words: str) -> Result:
    return CliRunner().invoke(cli, ["device", *words], prog_name="edge")


def again(home: Home, token: str, port: int, *more: str) -> Result:
    url = f"mqtts://127.0.0.1:{port}"
    return device("enroll", "--again", "--token", token, "--home", str(home.folder), *more, url)


def kept(home: Home) -> dict[str, bytes]:
    names = ("device.json", "identity.pem", "root.pem", "outbox.sqlite")
    return {name: (home.folder / name).read_bytes() for name in names}


@needs_mosquitto
def test_an_enrollment_anew_that_fails_leaves_the_device_as_it_was(fleet: Fleet) -> None:
    home, used = fleet.home("shed"), fleet.token(approve=True)
    assert fleet.enroll(home, used, "shed") is not None
    box = Outbox(home.outbox)
    box.put("tel", {"values": {"load": 1}})
    box.close()
    before, address = kept(home), fleet.server.address
    (nobody,) = free_ports(1)
    fresh = str(fleet.token())
    for token, port, exit_code, told in (
        (str(used), address.boot_port, 1, "used"),
        (fresh, nobody, 1, "no broker answers"),
        (fresh, address.port, 1, "asks for a certificate: devices enroll at its other port, 8884 by default"),
        (fresh, address.boot_port, 3, "not approved yet"),
    ):
        result = again(home, token, port, "--wait", "2", "--name", "shed")
        assert (result.exit_code, told in result.stderr) == (exit_code, True), result.stderr
        assert kept(home) == before
    agent = fleet.run(home)
    until(lambda: agent.connected.is_set() and fleet.is_online("shed"))
    agent.stop()


@needs_mosquitto
def test_an_enrollment_anew_keeps_what_the_same_fleet_has_not_acknowledged(fleet: Fleet, tmp_path: Path) -> None:
    other = fleet.member("coop")
    box = Outbox(other.outbox)
    box.put("tel", {"values": {"load": 7}})
    box.close()
    old = other.identity.read_bytes()
    result = again(other, str(fleet.token(approve=True)), fleet.server.address.boot_port, "--name", "coop2")
    assert result.exit_code == 0, result.stderr
    place = other.place()
    assert place is not None and place.id == "coop2" and not (other.folder / "joining").exists()
    assert other.identity.read_bytes() != old
    box = Outbox(other.outbox)
    assert len(box) == 1
    box.close()
    agent = fleet.run(other)
    until(lambda: agent.connected.is_set() and fleet.reports("coop2") >= 1)
    agent.stop()
    # Of another fleet's, nothing is kept.
    foreign = Home(tmp_path / "foreign")
    shutil.copytree(other.folder, foreign.folder, dirs_exist_ok=True)
    foreign.root.write_bytes(b"of another fleet")
    box = Outbox(foreign.outbox)
    box.put("tel", {"values": {"load": 8}})
    box.close()
    result = again(foreign, str(fleet.token(approve=True)), fleet.server.address.boot_port, "--name", "coop3")
    assert result.exit_code == 0, result.stderr
    assert not foreign.outbox.exists()
    assert foreign.root.read_text() == fleet.server.authority.root_pem


@needs_mosquitto
def test_an_agent_that_runs_goes_on_with_its_next_enrollment(fleet: Fleet) -> None:
    home, port = fleet.member("barn"), fleet.server.address.boot_port
    old, token = home.identity.read_bytes(), str(fleet.token())
    agent = fleet.run(home)
    with home.only_agent():  # as 'edge device run' does
        until(agent.connected.is_set)
        assert again(home, token, port, "--name", "barn", "--wait", "1").exit_code == 3
        assert home.identity.read_bytes() == old and agent.connected.is_set()
        fleet.approve("barn", replace=True)  # revokes the old certificate
        result = again(home, token, port, "--name", "barn")
        assert result.exit_code == 0 and "start that anew" in result.stdout, result.output
        until(lambda: home.identity.read_bytes() != old and agent.connected.is_set(), 40)
    agent.stop()


@needs_mosquitto
def test_a_crash_in_the_middle_of_the_change_is_ended_at_the_next_start(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fleet.member("mill")
    assert fleet.enroll(home.joining(), fleet.token(approve=True), "mill2") is not None
    real, moved = Path.replace, 0

    def replace(path: Path, target: Path) -> Path:
        nonlocal moved
        moved += 1
        if moved == 2:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        home.adopt()
    monkeypatch.undo()
    home.adopt()
    place = home.place()
    assert place is not None and place.id == "mill2" and not home.has_joined
    agent = fleet.run(home)
    until(lambda: agent.connected.is_set() and fleet.is_online("mill2"))
    agent.stop()


@needs_mosquitto
def test_a_second_agent_on_one_home_is_refused_until_the_first_is_gone(fleet: Fleet) -> None:
    home = fleet.member("d3")
    words = [sys.executable, "-m", "edge.sdk.cli", "device", "run", "--home", str(home.folder)]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: fleet.is_online("d3"), 30)
        second = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert f"this device's agent runs already (process {first.pid})" in second.stderr
        status = json.loads(device("status", "--json", "--home", str(home.folder)).stdout)
        assert status["agent"] == first.pid and status["connected"] is True
        assert "connected since" in device("status", "--home", str(home.folder)).stdout
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait(30)
    status = json.loads(device("status", "--json", "--home", str(home.folder)).stdout)
    assert status["agent"] is None and status["connected"] is False and status["connected_at"]
    with home.only_agent():
        pass


@needs_mosquitto
def test_two_machines_with_one_identity_are_told(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    home = fleet.member("twin")
    copy = Home(fleet.folder / "copy")
    shutil.copytree(home.folder, copy.folder, dirs_exist_ok=True)
    with caplog.at_level(logging.WARNING, "edge.fleet"):
        agents = [fleet.run(home), fleet.run(copy)]
        until(lambda: "another machine uses this identity" in caplog.text, 40)
        until(lambda: "twin: two machines use its identity in turn" in caplog.text)
        for agent in agents:
            agent.stop()


@needs_mosquitto
def test_a_revoked_device_knows_that_it_is(fleet: Fleet) -> None:
    home = fleet.member("thief")
    agent = fleet.run(home)
    until(lambda: fleet.is_online("thief"))
    fleet.revoke("thief")
    until(lambda: "revoked by the operator" in device("status", "--home", str(home.folder)).stdout, 30)
    agent.stop()


def test_commands_without_a_device_leave_no_folder(tmp_path: Path) -> None:
    for name in ("run", "status"):
        result = device(name, "--home", str(tmp_path / "d9"))
        assert result.exit_code == 1
        assert f"edge device enroll --home {tmp_path / 'd9'} --token" in result.stderr
        assert not (tmp_path / "d9").exists()
