"""What devices should be: set by the operator, obeyed and kept by the device, refused where it cannot be."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.fleet.device.shadow import DeviceShadow
from edge.fleet.errors import BadMessage, FleetError
from edge.fleet.messages import Desired
from edge.fleet.server import registry
from edge.fleet.settings import heartbeat_of, log_level_of
from edge.sdk.cli import cli
from tests.fleet.lab import needs_mosquitto, until
from tests.fleet.test_fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.stop()


_settings = st.dictionaries(
    st.sampled_from(("rate", "night", "heartbeat")),
    st.one_of(st.integers(-5, 5), st.booleans(), st.text("ab", min_size=1), st.floats(0.2, 9)),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), _settings)))
def test_the_newest_that_is_not_refused_holds(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[tuple[int, dict[str, Any]]]
) -> None:
    """In whatever order versions come; and what is obeyed is what is on the disk, after a restart too."""
    folder = tmp_path_factory.mktemp("home")
    obeyed: list[float] = [30.0]
    shadow = DeviceShadow(folder)
    shadow.obey("heartbeat", heartbeat_of, obeyed.append, 30.0)
    holds = Desired()
    for version, wanted in jobs:
        beat = wanted.get("heartbeat", 30.0)
        bad = isinstance(beat, bool | str) or not 0.1 <= beat <= 86_400
        arguments = {"version": version, "desired": wanted}
        if version < holds.version:
            assert not shadow.apply(arguments)
        elif bad:
            with pytest.raises(FleetError, match="heartbeat"):
                shadow.apply(arguments)
        else:
            assert shadow.apply(arguments)
            holds = Desired(version, wanted)
        assert shadow.read() == holds
        assert obeyed[-1] == holds.settings.get("heartbeat", 30.0)
    again: list[float] = [30.0]
    DeviceShadow(folder).obey("heartbeat", heartbeat_of, again.append, 30.0)
    assert again[-1] == obeyed[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        {"version": 1},
        {"version": -1, "desired": {}},
        {"version": 1, "desired": {"Rate!": 1}},
        {"version": 1, "desired": {"rate": [1]}},
        {"version": 1, "desired": {"rate": "x" * 1001}},
        {"version": 1, "desired": {f"n{i}": i for i in range(65)}},
        {"version": 1, "desired": {"log": "loud"}},
    ],
)
def test_what_is_no_shadow_changes_nothing(tmp_path: Path, arguments: object) -> None:
    shadow = DeviceShadow(tmp_path)
    shadow.obey("log", log_level_of, lambda level: None, logging.INFO)
    shadow.apply({"version": 1, "desired": {"rate": 5}})
    with pytest.raises((BadMessage, FleetError)):
        shadow.apply(arguments)
    assert shadow.read() == Desired(1, {"rate": 5})
    (tmp_path / "shadow.json").write_text("{")  # a disk that lost something: the device runs with its defaults
    assert shadow.read() == Desired()


@needs_mosquitto
def test_a_device_obeys_refuses_and_is_told_again_when_it_was_wiped(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fleet.member("attic")
    agent = fleet.run(home, heartbeat=3600.0)
    until(lambda: fleet.is_online("attic"))

    def edge(*words: str, code: int = 0) -> list[dict[str, Any]]:
        done = CliRunner().invoke(
            cli, ["fleet", *words, "--json", "--state", str(fleet.state.folder)], prog_name="edge"
        )
        assert done.exit_code == code, done.output
        return list(json.loads(done.stdout))

    shown = edge("shadow", "attic", "heartbeat=0.1", "night=true", "place=loft", "--wait", "20s")[0]
    assert shown["reached"] and shown["reported"] == {"heartbeat": 0.1, "night": True, "place": "loft"}
    until(lambda: fleet.reports("attic") > 5)
    values = edge("telemetry", "attic", "--name", "uptime")
    assert len(values) > 5 and all(list(row["values"]) == ["uptime"] for row in values)
    assert DeviceShadow(home.folder).read().settings["place"] == "loft"

    monkeypatch.setattr(registry, "OBEYED", {})  # a server that knows less than its devices
    refused = edge("shadow", "attic", "heartbeat=0", "--wait", "3s", code=1)[0]
    assert "expected 0.1 to 86400 seconds" in refused["refused"] and refused["reported"]["heartbeat"] == 0.1
    back = edge("shadow", "attic", "heartbeat=", "place=", "--wait", "20s")[0]
    assert back["reported"] == {"night": True} and agent._heartbeat == 3600.0

    wiped = fleet.home("wiped")
    agent.stop()
    token = fleet.token()
    assert fleet.enroll(wiped, token, "attic", wait=2) is None
    until(lambda: fleet.pending() == ["attic"])
    fleet.approve("attic", replace=True)
    assert fleet.enroll(wiped, token, "attic") is not None
    assert fleet.device("attic")["reported"] == {}
    fleet.run(wiped)
    until(lambda: fleet.device("attic")["reported"] == {"night": True})


def test_many_devices_by_a_filter(tmp_path: Path) -> None:
    from edge.fleet.server.state import State

    database = State.create(tmp_path / "fleet").database()
    with database.transaction() as connection:
        for number in range(4):
            labels = {"building": str(number % 2)}
            registry.add(connection, f"d{number}", {"kind": "linux", "ram_kb": 1024, "labels": labels})
    database.close()

    def edge(*words: str) -> Any:
        return CliRunner().invoke(cli, ["fleet", *words, "--state", str(tmp_path / "fleet")], prog_name="edge")

    assert edge("label", "--where", "building=1", "floor=2", "--group", "west").exit_code == 0
    assert [line.split(":")[0] for line in edge("shadow", "--where", "group=west", "rate=5").stdout.splitlines()]
    rows = json.loads(edge("shadow", "--where", "building=9 or label.floor=2", "--json").stdout)
    assert [(row["device"], row["desired"], row["reached"]) for row in rows] == [
        ("d1", {"rate": 5}, False),
        ("d3", {"rate": 5}, False),
    ]
    queued = json.loads(edge("job", "--where", "building=0", "ping", "--json").stdout)
    assert [row["device"] for row in queued] == ["d0", "d2"]
    for words, part in (
        (("label", "--where", "building=9", "floor=2"), "no device is found"),
        (("label", "--where", "building", "floor=2"), "building"),
        (("shadow", "d0", "--where", "building=1"), "name a device, or"),
        (("shadow", "rate=5"), "name a device, or"),
        (("shadow", "d0", "Rate=5"), "Rate"),
        (("shadow", "d0", "heartbeat=0"), "expected 0.1 to 86400 seconds"),
        (("shadow", "d0", "log=loud"), "debug, info"),
        (("job", "d0"), "what it is to do"),
        (("telemetry", "d9"), "no such device"),
    ):
        done = edge(*words)
        assert done.exit_code and part in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)

    def offered(*words: str) -> list[str]:
        completion = ShellComplete(cli, {}, "edge", "_EDGE_COMPLETE")
        state = ["--state", str(tmp_path / "fleet")]
        return [item.value for item in completion.get_completions(["fleet", words[0], *state, *words[1:-1]], words[-1])]

    assert offered("devices", "d") == ["d0", "d1", "d2", "d3"] == offered("shadow", "")
    assert offered("revoke", "d%") == [] == offered("approve", "")
