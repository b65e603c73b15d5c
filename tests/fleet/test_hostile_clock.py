"""Clocks that jump, and what they must not do to those who come in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.fleet.server import access
from edge.fleet.server.database import set_setting, setting
from tests.fleet.lab import needs_mosquitto, until
from tests.fleet.test_fleet import Fleet

pytestmark = needs_mosquitto


class Clock:
    """The clock of one module, some seconds ahead of ours."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.monotonic = time.monotonic

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


def _listed(fleet: Fleet) -> float:
    with fleet.database.reading() as connection:
        return float(setting(connection, "revocation_list"))


def _let_follower(fleet: Fleet, name: str) -> None:
    """Does now what the follower does twice a minute."""
    (action,) = (timer for _, timer in fleet.server._follower._timers if getattr(timer, "__name__", "") == name)
    action()


def test_a_clock_that_was_a_year_ahead_shuts_nobody_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, thief = fleet.member("honest"), fleet.member("thief")
    clock = Clock()
    monkeypatch.setattr(access, "time", clock)
    clock.ahead = 400 * 86400.0
    fleet.revoke("thief")
    until(lambda: _listed(fleet) > time.time() + 86400)
    # The broker's own clock is right, as after the jump back.
    until(lambda: not fleet.client(honest).got_in())
    clock.ahead = 0.0
    _let_follower(fleet, "watch_clock")
    until(lambda: fleet.client(honest).got_in(), what="the clock is right again")
    assert not fleet.client(thief).got_in() and _listed(fleet) <= time.time()

    # As after an hour of revocations without a pause: the next list waits for its second.
    other = fleet.member("other")
    with fleet.database.transaction() as connection:
        set_setting(connection, "revocation_list", time.time() - 0.5)
    fleet.revoke("other")
    until(lambda: not fleet.client(other).got_in())
    assert fleet.client(honest).got_in() and _listed(fleet) <= time.time()
