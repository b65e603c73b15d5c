"""Rollouts while the server, its broker and its devices are killed (`rollout_kills.py` does it two hundred times)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tuf")

from edge.fleet.device.inputs import InputRing
from edge.runtime import load
from tests.fleet.lab import needs_mosquitto, until
from tests.fleet.rollout_kills import MODEL, Operator, UpdatingProcesses, Watcher, kill, updating_fleet

pytestmark = needs_mosquitto

Fleet = tuple[UpdatingProcesses, Watcher, Operator]


@pytest.fixture(scope="module")
def fleet(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with updating_fleet(tmp_path_factory.mktemp("kills"), digits_bundle, agents=2, seed=10) as made:
        yield made


def _label_inputs(fleet: UpdatingProcesses, bundle: Path) -> None:
    """Gives the first device inputs on which every model is wrong, the second ones on which it is right."""
    with load(bundle) as model:
        for home, pick in zip(fleet.homes, (np.argmin, np.argmax), strict=True):
            ring = InputRing(home / "inputs" / MODEL)
            for index in range(8):
                x = np.random.default_rng(index).standard_normal(model.inputs[0].shape).astype(np.float32)
                ring.put(x, label=model.labels[int(pick(model(x)))])


@pytest.mark.parametrize("when", ["once it is decided", "before it can be"])
def test_an_abort_survives_the_server(fleet: Fleet, digits_bundle: Path, when: str) -> None:
    """The server dies between the abort and what it has to send, or before it hears of the failure."""
    processes, _, operator = fleet
    _label_inputs(processes, digits_bundle)
    later = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3600))
    version = operator.publish()
    held = [processes.device_state(number).active for number in (0, 1)]
    rollout = operator.deploy(version, "--gate", "accuracy>=0.9", "--activate-at", later)
    if when == "once it is decided":
        until(lambda: operator.state(rollout) == "aborted", 60)
    else:
        until(lambda: all(processes.device_state(number).candidate for number in (0, 1)), 60)
    processes.kill_server()
    until(lambda: processes.device_state(0).candidate is None, 60)
    until(lambda: (there := processes.device_state(1).candidate) is not None and there.checked, 60)
    up = processes.restart_server()
    until(lambda: operator.state(rollout) == "aborted", 5)
    until(lambda: processes.device_state(1).candidate is None, 5)
    assert time.time() - up < 5
    for number in (0, 1):
        last = processes.device_state(number).last
        assert processes.device_state(number).active == held[number] and last is not None and last.state == "failed"
        shutil.rmtree(processes.homes[number] / "inputs")


def test_rollouts_end_rightly_whatever_is_killed(fleet: Fleet) -> None:
    outcome = kill(*fleet, kills=6, seed=10, pause=0.25)
    assert outcome["wrong"] == [] and outcome["open"] == 0, outcome
    assert outcome["looked"] > 100 and outcome["promised"] > 20, outcome
