"""Nothing that a device's outbox took is lost, whatever is killed (`kills.py` does it two hundred times)."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.kills import run
from tests.fleet.lab import needs_mosquitto


@needs_mosquitto
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    outcome = run(tmp_path, kills=20, seed=20, agents=2, pause=0.7)
    assert outcome["promised"] > 50
    assert outcome["missing"] == 0, outcome


@needs_mosquitto
def test_kills_of_workers_lose_nothing(tmp_path: Path) -> None:
    outcome = run(tmp_path, kills=8, seed=9, agents=2, pause=0.5, workers=2)
    assert outcome["worker"] >= 2 and outcome["promised"] > 20
    assert outcome["missing"] == 0, outcome
