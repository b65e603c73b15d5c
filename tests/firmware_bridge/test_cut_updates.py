"""500 updates, each cut at random points: a device that starts, always, with a model that is signed and not older."""

from __future__ import annotations

import os
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


def run_updates(bench: Bench, folder: Path, seeds: range) -> None:
    tally, updates = Tally(), len(seeds)
    for seed in seeds:
        try:
            bench.try_update(folder / "storage.bin", seed, tally)
        except BaseException as error:
            print(f"seed {seed}: {error!r}")
            raise
    print(tally)
    assert tally.power > updates * 0.4 and tally.line > updates * 0.2
    assert tally.old > updates * 0.4 and tally.new > updates * 0.1
    assert tally.resumed > updates * 0.3


def test_on_this_machine(host_bench: Bench, tmp_path: Path) -> None:
    run_updates(host_bench, tmp_path, range(UPDATES))


# Each takes most of a second: the suite makes a part of them, EDGE_ALL_CUTS=1 all. In pieces, for several processes.
@pytest.mark.parametrize("part", range(10 if os.environ.get("EDGE_ALL_CUTS") else 2))
def test_on_an_emulated_board(emulated_bench: Bench, tmp_path: Path, part: int) -> None:
    share = UPDATES // 10
    run_updates(emulated_bench, tmp_path, range(part * share, (part + 1) * share))
