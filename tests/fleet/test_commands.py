"""The commands of both groups where nothing runs: wrong command lines, missing fleets, JSON, what must be confirmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.fleet.server import registry
from edge.fleet.server.state import State
from edge.sdk.cli import cli


def invoke(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="edge", input=typed)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A fleet with two devices that never ran."""
    fleet = State.create(tmp_path / "fleet")
    database = fleet.database()
    with database.transaction() as connection:
        registry.add(connection, "attic", {"kind": "linux", "ram_kb": 1024, "labels": {"floor": "1"}})
        registry.add(connection, "cellar", {"kind": "linux"})
    database.close()
    return tmp_path / "fleet"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fleet", "tokn"], "tokn"),
        (["fleet", "token", "--expires", "soon"], "like 24h"),
        (["fleet", "token", "--count", "2", "--device", "a"], "exclude"),
        (["fleet", "devices", "--watch", "--json"], "exclude"),
        (["fleet", "approve"], "--all"),
        (["fleet", "approve", "a", "b", "--as", "c"], "one device"),
        (["fleet", "label", "attic", "floor"], "building=7"),
        (["fleet", "job", "attic", "ping", "--arguments", "[]"], "not an object"),
        (["fleet", "up", "--port", "0"], "--port"),
        (["fleet", "up", "--nats", "nats://a"], "go with --broker"),
        (["device", "enroll", "mqtt://x", "--token", "y"], "mqtts://"),
        (["device", "run", "--heartbeat", "0"], "--heartbeat"),
    ],
)
def test_a_wrong_command_line(words: list[str], part: str, state: Path) -> None:
    result = CliRunner(env={"EDGE_FLEET": str(state)}).invoke(cli, words, prog_name="edge")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and part in result.stderr


@pytest.mark.parametrize("name", ["status", "devices", "pending", "token", "audit"])
def test_where_there_is_no_fleet(name: str, tmp_path: Path) -> None:
    result = invoke("fleet", name, "--state", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "edge fleet up" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_token_needs_a_broker(state: Path) -> None:
    result = invoke("fleet", "token", "--state", str(state))
    assert result.exit_code == 1 and "has not been up yet" in result.stderr


def test_devices_are_listed_and_labelled(state: Path) -> None:
    at = ("--state", str(state))
    assert invoke("fleet", "label", "attic", "building=7", "floor=2", "--group", "sensors", *at).exit_code == 0
    devices = json.loads(invoke("fleet", "devices", "--json", *at).stdout)
    assert [device["id"] for device in devices] == ["attic", "cellar"]
    assert devices[0]["labels"] == {"building": "7", "floor": "2"} and devices[0]["groups"] == ["sensors"]
    assert "building=7" in invoke("fleet", "devices", *at).stdout
    invoke("fleet", "label", "attic", "floor=", "--ungroup", "sensors", *at)
    device = json.loads(invoke("fleet", "devices", "attic", "--json", *at).stdout)[0]
    assert device["labels"] == {"building": "7", "floor": "1"} and device["groups"] == []
    assert invoke("fleet", "label", "attic", "x=\x1b[31m", *at).exit_code == 1
    assert invoke("fleet", "devices", "garden", *at).exit_code == 1
    status = json.loads(invoke("fleet", "status", "--json", *at).stdout)
    assert status["devices"] == 2 and status["running"] is None


def test_what_cannot_be_undone_is_asked_about(state: Path) -> None:
    at = ("--state", str(state))
    assert invoke("fleet", "revoke", "attic", *at, typed="n\n").exit_code == 130
    assert invoke("fleet", "remove", "attic", "--yes", *at).exit_code == 1, "revoke it first"
    assert invoke("fleet", "revoke", "attic", *at, typed="y\n").exit_code == 0
    assert invoke("fleet", "remove", "attic", *at, typed="y\n").exit_code == 0
    actions = [row["action"] for row in json.loads(invoke("fleet", "audit", "--json", *at).stdout)]
    assert actions == ["device.remove", "device.revoke"]


def test_an_export_finds_what_was_changed(state: Path, tmp_path: Path) -> None:
    at, out = ("--state", str(state)), str(tmp_path / "audit.jsonl")
    for floor in ("1", "2", "3"):
        invoke("fleet", "label", "attic", f"floor={floor}", *at)
    assert invoke("fleet", "audit", "--export", out, *at).exit_code == 0
    database = State.existing(state).database()
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")  # by somebody who may write the file
        connection.exec_driver_sql("UPDATE audit SET actor = 'nobody' WHERE id = 2")
    database.close()
    result = invoke("fleet", "audit", "--export", out, *at)
    assert result.exit_code == 1 and "audit entry 2" in result.stderr


def test_a_folder_that_others_may_read_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    (folder / "letters.txt").write_text("mine")
    result = invoke("fleet", "up", "--state", str(folder))
    assert result.exit_code == 1 and "name a new folder" in result.stderr
    assert folder.stat().st_mode & 0o777 == 0o755
