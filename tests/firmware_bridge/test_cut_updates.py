"""500 updates, each cut at random points: a device that starts, always, with a model that is signed and not older."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.storage import Identity, first_storage_image
from tests.firmware_bridge.cuts import Bench, Tally, count_units
from tests.firmware_bridge.host_board import LAYOUT, HostBoard

UPDATES = 500


@pytest.fixture
def host_bench(board_program: Path, owner: FirmwareKey, old_image: bytes, new_image: bytes) -> Bench:
    first = first_storage_image(LAYOUT, Identity.of(owner, b"0123456789abcdef"), [old_image])

    def start(place: Path, cut: int | None, seed: int) -> HostBoard:
        return HostBoard(board_program, place, cut=cut, seed=seed)

    fresh = first + b"\xff" * (LAYOUT.storage_bytes - len(first))
    units = count_units(new_image, LAYOUT, 4)
    return Bench(start, LAYOUT, fresh, old_image, new_image, owner, units)


def test_on_this_machine(host_bench: Bench, tmp_path: Path) -> None:
    tally = Tally()
    for seed in range(UPDATES):
        try:
            host_bench.try_update(tmp_path / "storage.bin", seed, tally)
        except BaseException as error:
            error.add_note(f"seed {seed}") if hasattr(error, "add_note") else None
            raise
    assert tally.power > UPDATES * 0.5 and tally.line > UPDATES * 0.3
    assert tally.old > UPDATES * 0.5 and tally.new > UPDATES * 0.1
    assert tally.resumed > UPDATES * 0.3
