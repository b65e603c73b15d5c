"""Fixtures of the protocol's tests: a key, slot images of small programs, the firmware built for this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.slot_image import slot_image
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
