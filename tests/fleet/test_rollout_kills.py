"""Rollouts while the server, its broker and its devices are killed (`rollout_kills.py` does it two hundred times)."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tuf")

from tests.fleet.lab import needs_mosquitto
from tests.fleet.rollout_kills import run

pytestmark = needs_mosquitto


def test_rollouts_end_rightly_whatever_is_killed(digits_bundle: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, digits_bundle, kills=10, seed=10, agents=2, pause=0.5)
    assert outcome["wrong"] == [] and outcome["open"] == 0, outcome
    assert outcome["looked"] > 100 and outcome["promised"] > 20, outcome
