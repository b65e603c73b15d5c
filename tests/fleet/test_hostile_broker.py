"""The broker as a target: its memory, and those who only stand near its files."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.fleet.server import broker
from tests.fleet.lab import needs_mosquitto, until
from tests.fleet.test_broker import Lab

pytestmark = needs_mosquitto


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.broker.stop()


def test_who_fills_the_brokers_memory_fills_no_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "most_memory", lambda: 40_000_000)
    monkeypatch.setattr(broker, "_LOOK_SECONDS", 0.1)
    before, hostile = lab.broker.pid, lab.device("attic")
    assert hostile.got_in()
    deadline, number = time.monotonic() + 20, 0
    while not hostile.disconnected.is_set() and time.monotonic() < deadline:
        hostile.mqtt.subscribe([(f"f/v1/attic/down/{number + n}/x", 0) for n in range(1000)])
        number += 1000
        time.sleep(0.02)
    until(lambda: lab.broker.pid not in (None, before))
    until(lambda: lab.device("cellar").got_in())


def test_who_reads_the_brokers_configuration_lives_on(lab: Lab) -> None:
    lab.broker.stop()
    configuration = lab.folder / "broker/mosquitto.conf"
    reader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", configuration])
    try:
        until(lambda: str(configuration).encode() in Path(f"/proc/{reader.pid}/cmdline").read_bytes())
        heir = lab.another_broker()
        heir.start()
        heir.stop()
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()
