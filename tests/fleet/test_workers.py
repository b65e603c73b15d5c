"""Workers: processes that share a registry, and a server that divides its devices among them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

pytest.importorskip("tuf", reason="workers take in reports of rollouts: edge-deploy[fleet]")

from edge.fleet.identity import MOST_WORKERS, WORKER_IDS
from edge.fleet.logs import ForPeople, JsonLines
from edge.fleet.server import registry, tables
from edge.fleet.server.audit import entries
from edge.fleet.server.database import Database, claim
from edge.fleet.server.metrics import serve
from edge.fleet.server.services import Server
from edge.fleet.server.shard import shard_of
from edge.fleet.server.updates.plan import Plan, parse_steps
from edge.fleet.server.updates.record import JOB_CANCEL
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.server.updates.service import Updates
from edge.sdk.cli import cli
from tests.fleet.fleets import add_devices, publish_kws, queued
from tests.fleet.lab import Client, free_ports, identity, needs_mosquitto, until
from tests.fleet.sharing import fail, in_processes, keep
from tests.fleet.test_fleet import Fleet

# Which device is whose.


def test_a_shard_is_for_ever() -> None:
    """Another answer after an update, or in another process, would leave devices to nobody for as long as both run."""
    assert [shard_of(f"device-{number}", 4) for number in range(8)] == [3, 4, 2, 2, 4, 3, 4, 1]


@pytest.mark.parametrize("shards", [2, 3, 8, MOST_WORKERS])
def test_names_that_differ_in_a_digit_fall_into_all_shards(shards: int) -> None:
    shares = Counter(shard_of(f"hall-b.mic{number}", shards) for number in range(100 * shards))
    assert sorted(shares) == list(range(1, shards + 1))
    assert max(shares.values()) < 140


# Processes that share a registry.


def _row(seq: int, device: str = "attic") -> dict[str, object]:
    return {"device": device, "boot": "b", "seq": seq, "kind": "tel", "at": 1.0, "received_at": 1.0, "body": "{}"}


def test_claim_gives_a_key_once(any_database: Database) -> None:
    with any_database.transaction() as connection:
        assert claim(connection, tables.reports, [_row(2), _row(1)]) == {("attic", "b", 1), ("attic", "b", 2)}
    with any_database.transaction() as connection:
        rows = [_row(3), _row(2), _row(1, "cellar")]
        assert claim(connection, tables.reports, rows) == {("attic", "b", 3), ("cellar", "b", 1)}
        assert claim(connection, tables.reports, rows) == set()
    with any_database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.reports)) == 4


def test_two_processes_that_commit_the_same_reports_keep_each_once(any_database: Database) -> None:
    add_devices(any_database, ["attic"])
    url = any_database.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    url = url.removeprefix("sqlite:///") if any_database.is_sqlite else url
    numbers = list(range(1, 401))
    found = in_processes(keep, [(url, "ab" * 8, numbers), (url, "ab" * 8, numbers[::-1])])
    answers = sorted(f"f/v1/attic/down/ack/{number}" for number in numbers)
    for counts, answered in found:
        assert answered == answers, "what another process has kept is acknowledged all the same"
        assert counts.committed + counts.repeated == len(numbers)
    assert sum(counts.committed for counts, _ in found) == len(numbers)
    with any_database.reading() as connection:
        kept = connection.scalars(sa.select(tables.reports.c.seq).order_by(tables.reports.c.seq)).all()
        seen = connection.scalars(sa.select(tables.events.c.subject).where(tables.events.c.kind == "seen")).all()
    assert kept == numbers
    assert sorted(seen) == sorted(f"attic {number}" for number in numbers if number % 2), "handled once each"


def test_two_processes_that_take_failures_in_abort_a_rollout_once(any_database: Database) -> None:
    names = [f"device-{number}" for number in range(60)]
    add_devices(any_database, names)
    publish_kws(any_database)
    rollouts = Rollouts(any_database)
    id = rollouts.create(Plan("kws", "2.0", steps=parse_steps("100%"), abort_over=0.1), "root")
    jobs = queued(any_database)
    assert len(jobs) == len(names)
    url = any_database.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    url = url.removeprefix("sqlite:///") if any_database.is_sqlite else url
    halves = [{name: jobs[name] for name in part} for part in (names[:30], names[:29:-1])]
    found = in_processes(fail, [(url, half) for half in halves])
    assert [counts.committed for counts, _ in found] == [30, 30]
    assert rollouts.show(id)["state"] == "aborted"
    with any_database.reading() as connection:
        aborts = sa.select(sa.func.count()).where(tables.audit.c.action == "rollout.abort")
        cancels = sa.select(tables.jobs.c.device).where(tables.jobs.c.kind == JOB_CANCEL)
        assert connection.scalar(aborts) == 1
        told = connection.scalars(cancels).all()
    assert len(told) == len(set(told)) < len(names)


# A server with workers.


class SharedFleet(Fleet):
    """A server with three workers, and devices in threads."""

    def start(self) -> Server:
        settings = dataclasses.replace(self.state.settings(), workers=3)
        self.state.save(settings)
        self.server = Server(self.state, settings)
        self.server.extensions = (Updates,)
        self.server.start()
        return self.server

    def counts(self) -> Counter[str]:
        assert self.server.workers is not None
        return sum((Counter(dataclasses.asdict(one)) for one in self.server.workers.reports()), Counter[str]())


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFleet]:
    fleet = SharedFleet(tmp_path_factory.mktemp("shared"))
    yield fleet
    fleet.stop()


NAMES = ("attic", "cellar", "shed", "roof")


@needs_mosquitto
def test_workers_take_in_what_their_own_devices_say(fleet: SharedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """From enrollment by the server to telemetry, jobs and renewal, devices notice nothing of the workers."""
    assert {shard_of(name, 3) for name in NAMES} == {1, 2, 3}
    agents = {name: fleet.run(fleet.member(name)) for name in NAMES}
    until(lambda: all(fleet.is_online(name) and fleet.reports(name) >= 2 for name in NAMES), 30)
    assert fleet.server.ingest.counts.committed == 0, "nothing of it is the server's"
    workers = fleet.server.workers
    assert workers is not None
    shares = {each.worker: each.devices for each in workers.reports()}
    until(lambda: {each.worker: each.devices for each in workers.reports()} == Counter(shard_of(n, 3) for n in NAMES))
    assert sum(shares.values()) <= len(NAMES)
    with fleet.database.transaction() as connection:
        for name in NAMES:
            registry.set_desired(connection, name, {"rate": 5}, "ana@desk")
    until(lambda: all(fleet.device(name)["reported"] == {"rate": 5} for name in NAMES))
    home = fleet.member("renewed")
    before = home.identity.read_bytes()
    monkeypatch.setattr(home, "renewal_due", lambda: 0.0 if home.identity.read_bytes() == before else 1e12)
    fleet.run(home)
    until(lambda: home.identity.read_bytes() != before)
    assert fleet.server.ingest.counts.committed >= 1, "requests for certificates are"
    agents["roof"].stop()
    until(lambda: not fleet.is_online("roof"))


@needs_mosquitto
def test_a_worker_that_is_killed_comes_back_and_loses_nothing(
    fleet: SharedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.fleet.device.agent._RESEND_SECONDS", 1.0)
    agent = fleet.run(fleet.member("killed"))
    number = shard_of("killed", 3)
    workers = fleet.server.workers
    assert workers is not None
    until(lambda: fleet.reports("killed") >= 1)
    before = workers.reports()[number - 1]
    os.kill(before.pid, signal.SIGKILL)
    for value in range(50):
        agent.telemetry({"value": value})
    until(lambda: workers.reports()[number - 1].restarts == 1 and workers.reports()[number - 1].up)
    after = workers.reports()[number - 1]
    assert after.pid != before.pid and after.committed >= before.committed, "counts go on"
    query = sa.select(tables.reports.c.body).where(tables.reports.c.device == "killed")

    def values() -> set[int]:
        with fleet.database.reading() as connection:
            return {json.loads(body).get("values", {}).get("value") for body in connection.scalars(query)} - {None}

    until(lambda: values() == set(range(50)), 30)
    until(lambda: fleet.is_online("killed"))


@needs_mosquitto
def test_a_flood_and_a_revocation_are_seen_by_the_server(fleet: SharedFleet) -> None:
    home = fleet.member("flood")
    client = fleet.client(home, "flood")
    assert client.got_in()
    payload = b"x" * 60_000  # more than 20 MB in two seconds is no agent of ours
    deadline = time.monotonic() + 20
    while not client.disconnected.is_set() and time.monotonic() < deadline:
        client.mqtt.publish("f/v1/flood/up/tel", payload, 0)
        time.sleep(0.001)
    assert client.disconnected.is_set(), "it is shut out"
    assert any(row["action"] == "device.suspend" for row in entries(fleet.database, 20, "flood"))
    until(lambda: fleet.counts()["dropped"] > 0)
    client.close()
    fleet.run(fleet.member("thief"))
    until(lambda: fleet.reports("thief") >= 1)
    fleet.revoke("thief")
    until(lambda: not fleet.is_online("thief"))
    until(lambda: not fleet.client(fleet.home("thief")).got_in())


@needs_mosquitto
def test_how_workers_do_is_shown(fleet: SharedFleet) -> None:
    fleet.run(fleet.member("shown"))
    until(lambda: fleet.reports("shown") >= 1)
    port = free_ports(1)[0]
    stop = serve(fleet.server, port)
    try:
        until(lambda: fleet.counts()["committed"] > 0)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    finally:
        stop()
    for name in ("up", "devices", "restarts_total", "committed_total", "refused_total", "dropped_total"):
        assert len(re.findall(rf'^edge_fleet_worker_{name}{{worker="[123]"}} \d', text, re.M)) == 3, name
    total = re.search(r"^edge_fleet_messages_committed_total (\S+)", text, re.M)
    shares = re.findall(r"^edge_fleet_worker_committed_total{.*} (\S+)", text, re.M)
    assert total and float(total[1]) == sum(map(float, shares)) + fleet.server.ingest.counts.committed

    def shown(*words: str) -> str:
        result = CliRunner().invoke(cli, ["fleet", *words, "--state", str(fleet.state.folder)], prog_name="edge")
        assert result.exit_code == 0, result.output
        return result.output

    def reported() -> bool:
        return bool(sum(each["committed"] for each in json.loads(shown("status", "--json"))["workers"]))

    until(reported)
    assert len(re.findall(r"^worker [123]: runs, process \d+, \d+ devices", shown("status"), re.M)) == 3
    workers = [each for each in json.loads(shown("doctor", "--json")) if each["what"] == "workers"]
    assert workers[0]["ok"] and workers[0]["detail"].startswith("3 run")


@needs_mosquitto
def test_a_worker_s_name_is_good_for_nothing_else(fleet: SharedFleet) -> None:
    """Least privilege: what it does, and no enrollment, no roll call of all, no device's own topics."""
    name = WORKER_IDS[-1]
    port, root = fleet.server.address.port, fleet.server.authority.root_pem
    path = fleet.folder / "worker.pem"
    path.write_bytes(fleet.server.authority.service(name)[0])
    worker, device = Client(port, root, path, name), fleet.client(fleet.member("heard"), "heard")
    server_path = fleet.state.broker / "server.pem"
    assert worker.got_in() and device.got_in() and server_path.exists()
    for topic in ("boot/#", "f/v1/heard/down/#", "f/v1/all/#", "$SYS/#", "#"):
        worker.subscribe(topic)
    assert worker.publish("f/v1/heard/down/x")
    for topic in ("f/v1/heard/up/tel", "f/v1/all/roll", "boot/tabcdefghijk2/down", "boot/tabcdefghijk2/up"):
        assert not worker.publish(topic), topic
    with contextlib.suppress(Exception):
        while True:
            assert worker.messages.get(timeout=0.5).topic.startswith("f/v1/heard/up/")
    borrowed, _ = identity(fleet.server.authority, fleet.folder, "borrower")
    assert Client(port, root, borrowed, name).got_in(), "the broker takes the name from the certificate"
    worker.close()
    device.close()


@needs_mosquitto
def test_fewer_workers_after_a_restart(fleet: SharedFleet) -> None:
    agent = fleet.run(fleet.member("mover"))
    until(lambda: fleet.reports("mover") >= 1)
    fleet.server.stop()
    assert not fleet.state.workers.exists()
    agent.telemetry({"meanwhile": 1})
    settings = dataclasses.replace(fleet.state.settings(), workers=0)
    fleet.server = Server(fleet.state, settings)
    fleet.server.extensions = (Updates,)
    fleet.server.start()
    before = time.time()
    until(lambda: len(agent.outbox) <= 2 and fleet.device("mover")["last_seen"] > before, 30)
    assert fleet.server.workers is None and fleet.server.ingest.counts.committed > 0


# Logs.


def test_a_worker_s_log_names_it() -> None:
    import logging

    record = logging.LogRecord("edge.fleet.ingest", logging.WARNING, "", 1, "dropped", (), None)
    assert json.loads(JsonLines(2).format(record))["worker"] == 2
    assert "worker" not in json.loads(JsonLines().format(record))
    assert ForPeople(2).format(record).endswith("warning worker 2 ingest: dropped")
