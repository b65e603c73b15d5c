"""Fixtures of the protocol's tests: a key, slot images of small programs, the firmware built for this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.port import EmulatedPort
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.slot_image import slot_image
from edge.firmware_bridge.storage import Identity, first_storage_image
from tests.firmware_bridge import emulated
from tests.firmware_bridge.cuts import Bench, count_units
from tests.firmware_bridge.host_board import HostBoard, build, write_storage
from tests.runtime.programs import program_folder


@pytest.fixture(scope="session")
def owner() -> FirmwareKey:
    """The key of the devices."""
    return FirmwareKey.generate()


@pytest.fixture(scope="session")
def old_image(owner: FirmwareKey) -> bytes:
    """Sequence 3: an MLP of two classes' worth of bytes."""
    return slot_image((program_folder() / "mlp.pte").read_bytes(), owner, sequence=3, name="old", target="host")


@pytest.fixture(scope="session")
def new_image(owner: FirmwareKey) -> bytes:
    """Sequence 4: a CNN."""
    return slot_image((program_folder() / "cnn.pte").read_bytes(), owner, sequence=4, name="new", board="host")


@pytest.fixture(scope="session")
def board_program() -> Path:
    """The firmware for this machine."""
    return build()


@pytest.fixture
def start(board_program: Path, owner: FirmwareKey, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """Function that makes a new device with the images given, or starts an old one on its storage."""
    devices: list[Device] = []

    def make(
        *images: bytes, storage: Path | None = None, key: FirmwareKey | None = owner, program: Path = board_program
    ) -> Device:
        place = storage or write_storage(tmp_path / "storage.bin", owner, *images)
        devices.append(Device(HostBoard(program, place), "host", key))
        return devices[-1]

    yield make
    for device in devices:
        device.close()


@pytest.fixture
def emulated_bench(owner: FirmwareKey) -> Bench:
    """An emulated Cortex-M4 with sectors of 1 KiB, from unicorn."""
    elf, layout = emulated.firmware(), emulated.layout()
    old, new = (
        slot_image((program_folder() / f"{name}.pte").read_bytes(), owner, sequence=sequence, target="cortex-m4")
        for name, sequence in (("mlp", 3), ("cnn", 4))
    )
    first = first_storage_image(layout, Identity.of(owner, b"0123456789abcdef"), [old])

    def start(place: Path, cut: int | None, seed: int) -> EmulatedPort:
        return emulated.port(elf, place, cut, seed)

    fresh = first + b"\xff" * (layout.storage_bytes - len(first))
    return Bench(start, layout, fresh, old, new, owner, count_units(new, layout, 4))
