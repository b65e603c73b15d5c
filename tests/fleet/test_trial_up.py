"""What `edge fleet` says where an option, the disk or a port is wrong: one line, and nothing half-made."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from edge.fleet.errors import cause
from edge.fleet.server import registry
from edge.fleet.server.broker import leftovers
from edge.fleet.server.database import Database
from edge.fleet.server.follower import Follower
from edge.fleet.server.state import State
from edge.sdk import failure
from edge.sdk.cli import cli
from tests.fleet.lab import free_ports, needs_mosquitto, until


def fleet(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["fleet", *words], prog_name="edge", input=typed)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A fleet with a device that never ran."""
    place = State.create(tmp_path / "fleet")
    database = place.database()
    with database.transaction() as connection:
        registry.add(connection, "attic", {"kind": "linux"})
    database.close()
    return place.folder


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--db", "foo"], "--db foo: expected postgresql://user@host/name"),
        (["--db", "mysql://u:secret@h/x"], "expected postgresql://"),
        (["--sparql", "foo"], "--sparql foo: expected http://host/path"),
        (["--name", "a b"], "--name 'a b': expected a host name"),
        (["--host", "a b"], "--host 'a b'"),
        (["--broker", "foo"], "--broker foo"),
        (["--port", "8884"], "--port and --boot-port: both are 8884"),
        (["--port", "9464"], "--port and --metrics-port: both are 9464"),
    ],
)
def test_up_refuses_what_cannot_be_meant_and_remembers_nothing(words: list[str], part: str, state: Path) -> None:
    before = (state / "fleet.json").read_bytes()
    for folder in (state, state.parent / "new"):
        result = fleet("up", *words, "--state", str(folder))
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert part in result.stderr and "secret" not in result.stderr
    assert (state / "fleet.json").read_bytes() == before
    assert not (state.parent / "new").exists()


def test_a_first_start_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    port, boot_port, metrics_port, nobody = free_ports(4)
    ports = ("--host", "127.0.0.1", "--port", str(port), "--boot-port", str(boot_port))
    for option, taken in (("--port", port), ("--boot-port", boot_port), ("--metrics-port", metrics_port)):
        with socket.create_server(("127.0.0.1", taken)):
            result = fleet("up", *ports, "--metrics-port", str(metrics_port), "--state", str(folder))
        assert result.exit_code == 1 and f"choose another with {option}\n" in result.stderr
    away = (
        ("--broker", f"mqtts://127.0.0.1:{nobody}", "nobody answers (127.0.0.1:"),
        ("--db", f"postgresql://ana@127.0.0.1:{nobody}/x", "cannot be opened"),
    )
    for option, url, part in away:
        result = fleet("up", *ports, "--metrics-port", "0", option, url, "--state", str(folder))
        assert result.exit_code == 1 and part in result.stderr and result.stderr.count("\n") == 1
    assert not folder.exists()


def test_a_metrics_port_that_is_taken_is_told_before_the_broker_starts(state: Path) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        result = fleet("up", "--metrics-port", str(port), "--state", str(state))
    assert result.exit_code == 1 and "choose another with --metrics-port" in result.stderr
    assert not (state / "broker" / "mosquitto.conf").exists()


def test_a_registry_that_fails_is_no_bug(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real full disk, of SQLite's own making: the file may grow no more."""

    def full(dbapi: object, record: object) -> None:
        dbapi.execute("PRAGMA max_page_count=1")  # type: ignore[attr-defined]  # SQLite raises it to what there is

    real = Database.__init__

    def opened(self: Database, url: str | Path) -> None:
        real(self, url)
        self.engine.dispose()
        sa.event.listen(self.engine, "connect", full)

    monkeypatch.setattr(Database, "__init__", opened)
    big = {"text": "x" * 100_000}
    result = fleet("job", "attic", "ping", "--arguments", json.dumps(big), "--state", str(state))
    assert result.exit_code == 1, result.stderr
    assert result.stderr == f"edge: error: {state}/registry.sqlite: registry: database or disk is full\n"


def test_a_registry_whose_file_may_not_be_written_is_no_bug(state: Path) -> None:
    database = State.existing(state).database()
    with pytest.raises(sa.exc.OperationalError) as caught, database.reading() as connection:
        connection.exec_driver_sql("PRAGMA query_only=1")
        connection.exec_driver_sql("DELETE FROM devices")
    database.close()
    assert failure.message(caught.value) == "registry: attempt to write a readonly database"
    assert failure.is_outage(caught.value)
    with pytest.raises(sa.exc.OperationalError, match="near") as ours, database.reading() as connection:
        connection.exec_driver_sql("SELEC 1")
    assert cause(ours.value).startswith('near "SELEC"')
    database.close()


def test_a_list_that_is_no_text(state: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00\x80")
    result = fleet("approve", "--list", str(tmp_path / "list"), "--state", str(state))
    assert result.exit_code == 2 and "not a text file" in result.stderr and result.stderr.count("\n") == 1


def test_the_log_says_the_cause(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = State.existing(state).database()
    follower = Follower(database)
    follower.every(0.1, lambda: (state / "gone" / "tokens").write_text(""))  # type: ignore[func-returns-value]
    follower.every(0.1, lambda: _full(database))
    with caplog.at_level(logging.ERROR, "edge.fleet.server"):
        follower.start(0)
        until(lambda: len(caplog.messages) >= 2)
        follower.stop()
    database.close()
    assert any(f"(No such file or directory: {state}/gone/tokens)" in message for message in caplog.messages)
    assert any("(database or disk is full)" in message for message in caplog.messages)


def _full(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        connection.exec_driver_sql("CREATE TABLE large AS SELECT randomblob(1000000) AS x")


def test_nobody_is_asked_where_nobody_is(state: Path) -> None:
    result = fleet("revoke", "attic", "--state", str(state), typed="")
    assert result.exit_code == 2 and "not a terminal: give --yes" in result.stderr
    assert fleet("revoke", "attic", "--state", str(state), typed="n\n").exit_code == 130
    assert fleet("revoke", "attic", "--state", str(state), typed="y\n").exit_code == 0


def test_a_job_that_nobody_answers(state: Path) -> None:
    result = fleet("job", "attic", "ping", "--wait", "1s", "--state", str(state))
    assert result.exit_code == 3 and ": queued" in result.stdout
    assert fleet("job", "attic", "ping", "--state", str(state)).exit_code == 0


def test_ids_that_are_none_are_wrong_command_lines(state: Path, tmp_path: Path) -> None:
    at = ("--state", str(state))
    assert fleet("token", "--device", "a b", *at).exit_code == 2
    assert fleet("approve", "x", "--as", "a b", *at).exit_code == 2
    home = ("--home", str(tmp_path / "d"), "mqtts://localhost")
    for words in (("--token", "edge-x"), ("--token", "edge-x", "--name", "a b")):
        result = CliRunner().invoke(cli, ["device", "enroll", *words, *home], prog_name="edge")
        assert result.exit_code == 2 and not (tmp_path / "d").exists()


@needs_mosquitto
def test_a_killed_servers_broker_is_seen_and_watching_ends_well(state: Path) -> None:
    port, boot_port = free_ports(2)
    edge = [sys.executable, "-m", "edge.sdk.cli", "fleet"]
    ports = ["--host", "127.0.0.1", "--metrics-port", "0", "--port", str(port), "--boot-port", str(boot_port)]
    with (state / "log").open("w") as log:
        server = subprocess.Popen([*edge, "up", *ports, "--state", str(state)], stdout=log, stderr=log)
    watch = subprocess.Popen([*edge, "devices", "--watch", "--state", str(state)], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: "The fleet is up" in (state / "log").read_text(), 60)
        shown = fleet("status", "--state", str(state)).stdout
        assert f"edge device enroll --token … mqtts://{socket.gethostname()}:{boot_port}" in shown
        assert watch.stdout is not None and watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0
        server.kill()
        server.wait(30)
        (process,) = leftovers(state / "broker")
        rows = json.loads(fleet("doctor", "--json", "--state", str(state)).stdout)
        (found,) = [row for row in rows if row["what"] == "broker"]
        assert not found["ok"] and f"process {process}" in found["detail"]
    finally:
        for one in (watch, server):
            one.kill()
            one.wait(30)
        for process in leftovers(state / "broker"):
            os.kill(process, signal.SIGTERM)
