"""Simulated devices with everything real: mosquitto, server, enrollment, TUF, models; and a broker that dies."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("tuf")

from edge.fleet.errors import BadMessage, FleetError
from edge.fleet.inventory import Inventory
from edge.fleet.server.state import State
from edge.fleet.server.updates.plan import Plan, parse_steps
from edge.fleet.simulate.inventories import simulated_inventory
from edge.fleet.simulate.limits import raise_open_files
from edge.fleet.simulate.models import share
from edge.fleet.simulate.outbox import MOST, MemoryOutbox
from edge.sdk.cli import cli
from tests.fleet.lab import needs_mosquitto, until
from tests.fleet.remade import remade
from tests.fleet.simulated import SimulatedFleet

DEVICES = 30


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SimulatedFleet]:
    made = SimulatedFleet(tmp_path)
    yield made
    made.stop()


@needs_mosquitto
def test_devices_enroll_report_update_survive_their_broker_and_go(
    fleet: SimulatedFleet, digits_bundle: Path, tmp_path: Path
) -> None:
    fleet.edge("fleet", "publish", str(remade(digits_bundle, tmp_path / "old.edge", name="kws", version="1.0")))
    simulation = fleet.simulate(DEVICES, "--every", "1", "--processes", "2", "--label", "site=lab")
    until(lambda: fleet.online() == DEVICES, 60)

    rollout = fleet.rollouts.create(Plan("kws", "1.0", steps=parse_steps("100%", canary=2)), "ana@desk")
    until(lambda: fleet.rollouts.show(rollout)["state"] == "done", 60)
    assert fleet.rollouts.show(rollout)["devices"] == {"active": DEVICES}

    fleet.kill_broker()
    killed = time.time()

    until(lambda: fleet.heard_of(killed) == DEVICES, 60, "not all came back to the new broker")
    told = fleet.end(simulation)
    assert told["devices"] == told["connected"] == told["enrolled"] == DEVICES
    assert told["reconnects"] >= DEVICES and told["refused"] == told["failures"] == told["dropped"] == 0
    assert told["models"] == {"kws:1.0": DEVICES}
    # Ctrl-C does not wait for acknowledgements; what was acknowledged is in the registry, once each.
    assert told["sent"] == told["acknowledged"] + told["unacknowledged"]
    assert fleet.versions("kws") == {"1.0": DEVICES}
    bundles = list((tmp_path / "fleet/simulated").glob("*/models/files/*.edge"))
    assert len(bundles) == DEVICES and len({path.stat().st_ino for path in bundles}) == 1, "one copy on the disk"

    # The same devices again, on all of which the next version is found broken. What they send is acknowledged.
    fleet.edge("fleet", "publish", str(remade(digits_bundle, tmp_path / "new.edge", name="kws", version="2.0")))
    simulation = fleet.simulate(DEVICES, "--every", "1", "--fail-share", "100%", "--for", "6s")
    until(lambda: fleet.online() == DEVICES, 60)
    rollout = fleet.rollouts.create(Plan("kws", "2.0", steps=parse_steps("100%", canary=2)), "ana@desk")
    until(lambda: fleet.rollouts.show(rollout)["state"] == "aborted", 30)
    told = fleet.ended(simulation)
    assert told["enrolled"] == told["unacknowledged"] == 0 and told["acknowledged"] == told["sent"]
    assert "simulated fault" in fleet.rollouts.show(rollout)["problems"][0]["detail"]
    assert fleet.versions("kws") == {"1.0": DEVICES}, "who finds the new model broken keeps the old one"

    assert f"{DEVICES} simulated devices removed" in fleet.edge("fleet", "simulate", "--remove", "--yes")
    assert fleet.edge("fleet", "devices", "--json").strip() == "[]"
    assert not list((tmp_path / "fleet/simulated").glob("sim-*"))


def test_a_made_up_machine_is_plausible_and_always_the_same() -> None:
    ids = [f"sim-{number:05}" for number in range(1, 301)]
    made = [simulated_inventory(one, {"site": "lab"}) for one in ids]
    assert made == [simulated_inventory(one, {"site": "lab"}) for one in ids]
    assert [Inventory.read(json.loads(json.dumps(one.json()))) for one in made] == made
    for values in ({one.cpu for one in made}, {one.labels["building"] for one in made}, {one.sensors for one in made}):
        assert len(values) > 4
    assert {one.labels["site"] for one in made} == {"lab"}
    assert simulated_inventory("sim-00001", {"building": "7"}).labels["building"] == "7"


def test_the_outbox_keeps_what_must_arrive_and_drops_the_oldest_telemetry() -> None:
    outbox = MemoryOutbox()
    outbox.put("hello", {})
    for number in range(MOST + 5):
        outbox.put("tel", {"values": {"n": number}})
    assert len(outbox.waiting) == MOST and outbox.dropped == 6 and outbox.waiting[1].kind == "hello"
    assert not outbox.acknowledged("0" * 16, 1), "of another start"
    with pytest.raises(BadMessage):
        outbox.put("tel", {"values": {"x": "y" * 70_000}})
    for number in range(100):
        outbox.note_job(f"j{number}", "done")
    assert outbox.job_state("j99") == "done" and outbox.job_state("j0") is None


def test_bundles_are_shared_only_where_their_contents_are_right(tmp_path: Path) -> None:
    content = b"bundle" * 1000
    name = f"{hashlib.sha256(content).hexdigest()}.edge"
    paths = [tmp_path / one / name for one in ("a", "b", "c")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(content)
    shared = tmp_path / "bundles"
    share(paths[0], shared)
    share(paths[1], shared)
    assert paths[0].samefile(paths[1]) and paths[0].samefile(shared / name)
    # A damaged copy is not spread: a good one takes its place.
    (shared / name).unlink()
    (shared / name).write_bytes(content[:-1] + b"x")
    share(paths[2], shared)
    assert paths[2].read_bytes() == content and paths[2].samefile(shared / name)
    assert not paths[2].samefile(paths[0])
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [name], "nothing is left behind"


def test_a_system_that_allows_too_few_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    raise_open_files(500)
    with pytest.raises(FleetError, match="this system allows 4096: take more --processes"):
        raise_open_files(4000)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([], 2, "say how many"),
        (["0"], 2, "N"),
        (["10", "--every", "0"], 2, "--every"),
        (["10", "--fail-share", "2"], 2, "a share"),
        (["10", "--remove"], 2, "leave N away"),
        (["10", "--prefix", "Bad Name"], 1, "--prefix"),
        (["10"], 1, "start it with 'edge fleet up'"),
    ],
)
def test_what_is_refused_is_told_in_a_line(words: list[str], code: int, part: str, tmp_path: Path) -> None:
    State.create(tmp_path / "fleet")
    result = CliRunner(env={"EDGE_FLEET": str(tmp_path / "fleet")}).invoke(
        cli, ["fleet", "simulate", *words], prog_name="edge"
    )
    assert result.exit_code == code and part in result.stderr and result.stderr.count("\n") == 1, result.stderr
