"""Updates that are cut: by the power in the middle of an operation on storage, or by the line at any byte.

The same trial serves the firmware built for this machine and the emulated boards.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.errors import LinkLost
from edge.firmware_bridge.messages import Info
from edge.firmware_bridge.port import Port
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.slot_image import MANIFEST_BYTES, check_image, read_manifest
from edge.firmware_bridge.storage import Layout, last_commit, slot_contents


class CutLine:
    """A port whose line is cut after so many bytes, in the middle of a frame; the board goes on."""

    def __init__(self, port: Port, after: int) -> None:
        self._port, self._left = port, after

    def write(self, data: bytes) -> None:
        if self._left < len(data):
            self._port.write(data[: self._left])
            self._left = 0
            raise LinkLost("the line was cut")
        self._left -= len(data)
        self._port.write(data)

    def read(self, size: int, timeout: float) -> bytes:
        return self._port.read(size, timeout)

    def close(self) -> None:
        self._port.close()


@dataclass
class Tally:
    """What became of many cut updates.

    Args:
        power, line: cuts of each kind that came before the update was over.
        after: cuts that came too late.
        old, new: which model the device had when it started after a cut.
        resumed: updates that went on where they were cut.
    """

    power: int = 0
    line: int = 0
    after: int = 0
    old: int = 0
    new: int = 0
    resumed: int = 0
    begun_at: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """A kind of board to try updates on.

    Args:
        start: powers one on: its storage's file, the number of the operation on storage at which power fails or None,
            and the seed of the garbage.
        layout: of its storage.
        fresh: the storage of a device with the old image.
        old, new: images.
        units: operations on storage that an update of `new` takes, about.
    """

    start: Callable[[Path, int | None, int], Port]
    layout: Layout
    fresh: bytes
    old: bytes
    new: bytes
    owner: FirmwareKey
    units: int

    def try_update(self, place: Path, seed: int, tally: Tally) -> None:
        """Cuts an update at a point drawn by `seed`, looks at what is there, and finishes it."""
        draw = random.Random(seed)
        place.write_bytes(self.fresh)
        by_line = draw.random() < 0.4
        sent = len(self.new) + 60 * (len(self.new) // 1024 + 12)
        # Half of the cuts by power among the few operations at the end, where the commit records are written.
        late = draw.random() < 0.4
        cut = draw.randrange(max(1, self.units - 60), self.units + 15) if late else draw.randrange(1, self.units)
        port = self.start(place, None if by_line else cut, seed)
        try:
            # A second, and on a few a third cut, in the same update.
            self._cut_once(CutLine(port, draw.randrange(sent)) if by_line else port, tally, by_line)
        finally:
            port.close()
        while draw.random() < 0.3:
            self._look(place, tally).close()
            port = self.start(place, draw.randrange(1, self.units), draw.getrandbits(16))
            try:
                self._cut_once(port, tally, False)
            finally:
                port.close()
        self._finish(self._look(place, tally), place, tally)

    def _cut_once(self, port: Port, tally: Tally, by_line: bool) -> None:
        try:
            device = Device(port, "cut", self.owner)
            device.flash(self.new)
            tally.after += 1
        except LinkLost:
            tally.line += by_line
            tally.power += not by_line

    def _look(self, place: Path, tally: Tally) -> Device:
        """Starts the device on what was left: it must run the old model or the new one, signed and whole."""
        before = last_commit(place.read_bytes(), self.layout)
        device = Device(self.start(place, None, 0), "look", self.owner)
        info = device.info
        self._check(info, place)
        assert before is not None
        assert info.running_sequence >= before.active_sequence, "the device went back to an older model"
        assert info.floor >= before.floor
        tally.old += info.running_sequence == read_manifest(self.old).sequence
        tally.new += info.running_sequence == read_manifest(self.new).sequence
        return device

    def _check(self, info: Info, place: Path) -> None:
        assert info.running is not None, f"no model runs: {info}"
        held = slot_contents(place.read_bytes(), self.layout, info.running)
        assert held in (self.old, self.new)
        assert check_image(held, self.owner.public).sequence == info.running_sequence
        assert info.running == info.active

    def _finish(self, device: Device, place: Path, tally: Tally) -> None:
        begun: list[int] = []
        with device:
            info = device.flash(self.new, lambda done, total: begun.append(done))
            assert info.running_sequence == read_manifest(self.new).sequence
            self._check(info, place)
        tally.resumed += not begun or begun[0] > MANIFEST_BYTES


def count_units(image: bytes, layout: Layout, unit: int) -> int:
    """Operations on storage of an update: sectors erased, units programmed that are not all 0xFF, three records."""
    pieces = [image[at : at + unit] for at in range(0, len(image), unit)]
    sectors = -(-len(image) // layout.erase_bytes)
    return sectors + sum(piece != b"\xff" * len(piece) for piece in pieces) + 3 * (48 // unit)
