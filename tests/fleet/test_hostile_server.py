"""A server, or a broker, in the wrong hands: what it can make a device do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.fleet.device import agent as agent_module
from edge.fleet.device.updates import MqttSource
from edge.fleet.errors import BadMessage
from edge.fleet.messages import JobReport
from edge.fleet.server.ingest import Publication
from tests.fleet.lab import needs_mosquitto, until
from tests.fleet.test_fleet import Fleet

pytestmark = needs_mosquitto


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


def test_a_server_that_floods_and_takes_nothing_fills_no_device(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "_MOST_JOBS", 50)
    home = fleet.member("attic")
    agent = fleet.run(home)
    source = MqttSource(agent)
    until(lambda: fleet.reports("attic") > 0)
    agent.outbox._most = 100
    monkeypatch.setattr(fleet.server.ingest, "offer", lambda topic, payload: None)
    for number in range(1000):
        fleet.server.send(f"f/v1/attic/down/job/j{number}", {"kind": "nothing", "arguments": {"x": "y" * 1000}})
        fleet.server.publish(Publication(f"f/v1/attic/down/blob/{'0' * 64}/{number}", b"z" * 1000))
    until(lambda: agent.outbox.job_state("j0") == "failed")
    until(lambda: "a job is not taken now" in caplog.text)
    until(lambda: not agent._queued_jobs)
    assert len(agent.outbox) <= 100 + 2 * 50 + 2 and source._came.qsize() == 0

    # Nor does its word reach the terminal as it is.
    ack = json.dumps({"boot": "0" * 16, "error": "\x1b]0;owned\x07\nall is well"}).encode()
    with caplog.at_level(logging.ERROR, "edge.fleet.agent"):
        fleet.server.publish(Publication("f/v1/attic/down/ack/77", ack))
        until(lambda: "refuses message 77: ?]0;owned??all is well" in caplog.text)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\u202eb", "x" * 101, "\udc00"])
def test_figures_have_names_that_can_be_shown(name: str) -> None:
    with pytest.raises(BadMessage, match=r"job\.metrics"):
        JobReport.read({"state": "done", "metrics": {name: 1.0}})
