"""20,000 malformed frames against the firmware: none crashes it, hangs it or changes what it keeps."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.frames import Frame
from edge.firmware_bridge.messages import FIRST_AUTHENTICATED, Command
from edge.firmware_bridge.port import Port
from edge.firmware_bridge.signature import FirmwareKey, link_mac
from edge.firmware_bridge.slot_image import MANIFEST_BYTES
from tests.firmware_bridge import emulated
from tests.firmware_bridge.cuts import Bench
from tests.firmware_bridge.host_board import HostBoard, build, write_storage

FRAMES = 20_000
# Answers to so many fit into a pipe that nobody reads.
BATCH = 40


class MalformedFrames:
    """An endless stream of them.

    Args:
        nonce: of the device's challenge, for frames whose authentication holds.
    """

    def __init__(self, seed: int, secret: bytes, nonce: bytes, manifest: bytes) -> None:
        self._draw = random.Random(seed)
        self._secret, self._nonce, self._manifest = secret, nonce, manifest
        self._counter = 0
        self._sequence = 0

    def __iter__(self) -> Iterator[bytes]:
        kinds = (
            self._noise,
            self._flipped,
            self._cut,
            self._long,
            self._unknown,
            self._body,
            self._forged,
            self._proved,
        )
        while True:
            yield self._draw.choice(kinds)()

    def _bytes(self, most: int) -> bytes:
        return self._draw.randbytes(self._draw.randrange(most))

    def _frame(self, command: int, body: bytes) -> Frame:
        self._sequence += 1
        return Frame(command, self._sequence, body)

    def _any(self) -> bytes:
        return self._frame(self._draw.choice(list(Command)), self._bytes(1060)).encode()

    def _noise(self) -> bytes:
        return self._bytes(3000)

    def _flipped(self) -> bytes:
        line = bytearray(self._any())
        for _ in range(self._draw.randrange(1, 4)):
            line[self._draw.randrange(1, len(line) - 1)] ^= 1 << self._draw.randrange(8)
        return bytes(line)

    def _cut(self) -> bytes:
        line = self._any()
        return line[: self._draw.randrange(1, len(line) - 1)] + b"\0"

    def _long(self) -> bytes:
        return self._frame(
            self._draw.choice(list(Command)), self._draw.randbytes(1077 + self._draw.randrange(900))
        ).encode()

    def _unknown(self) -> bytes:
        numbers = [number for number in range(256) if number not in set(Command)]
        frame = self._frame(self._draw.choice(numbers), self._bytes(64))
        return replace(frame, version=self._draw.choice((0, 1, 1, 2, 255)), status=self._draw.choice((0, 7))).encode()

    def _body(self) -> bytes:
        """A whole frame of a command that needs no authentication, with a body of any length."""
        reading = [command for command in Command if command < FIRST_AUTHENTICATED and command != Command.CHALLENGE]
        return self._frame(self._draw.choice(reading), self._bytes(self._draw.choice((3, 10, 1070)))).encode()

    def _forged(self) -> bytes:
        command = self._draw.choice([command for command in Command if command >= FIRST_AUTHENTICATED])
        return self._frame(command, self._bytes(400)).encode()

    def _proved(self) -> bytes:
        """Of one who has the secret and nothing sensible to say."""
        command, body = self._draw.choice(
            (
                (Command.BEGIN, self._broken_manifest()),
                (Command.BEGIN, self._bytes(600)),
                (Command.CHUNK, self._bytes(1040)),
                (Command.END, self._bytes(4)),
                (Command.ACTIVATE, self._bytes(12)),
                (Command.ROLL_BACK, self._bytes(8)),
                (Command.LEARN, self._bytes(40)),
                (Command.START_LEARNING, self._bytes(32)),
                (Command.TAKE_WEIGHTS, b""),
                (Command.KEEP_WEIGHTS, b""),
                (Command.SET_WEIGHTS, self._bytes(5)),
            )
        )
        frame = self._frame(command, b"")
        self._counter += 1
        counter = self._counter.to_bytes(4, "little")
        mac = link_mac(self._secret, self._nonce + frame.header + counter + body)
        return replace(frame, body=counter + mac + body).encode()

    def _broken_manifest(self) -> bytes:
        made = bytearray(self._manifest)
        for _ in range(self._draw.randrange(1, 5)):
            made[self._draw.randrange(MANIFEST_BYTES)] ^= 1 << self._draw.randrange(8)
        return bytes(made)


def bombard(port: Port, owner: FirmwareKey, manifest: bytes, seed: int, count: int) -> None:
    """Sends `count` malformed frames to a device, and looks at it between them."""
    device = Device(port, "bombarded", owner)
    info = device.info
    nonce = device._link.ask(Command.CHALLENGE)
    secret = owner.device_secret(info.device_id)
    stream = iter(MalformedFrames(seed, secret, nonce, manifest))
    frames = 0
    for _ in range(count // BATCH):
        # A zero first: what noise has begun is over.
        port.write(b"\0".join(next(stream) for _ in range(BATCH)) + b"\0")
        now = device.read_info()
        assert replace(now, learning=info.learning, output_bytes=info.output_bytes) == info
        stats = device.stats()
        assert stats.frames > frames, "the device started again"
        frames = stats.frames
    assert stats.damaged > count // 4
    assert stats.refused > count // 4


@pytest.mark.parametrize("seed", range(4))
def test_on_this_machine(tmp_path: Path, owner: FirmwareKey, old_image: bytes, new_image: bytes, seed: int) -> None:
    place = write_storage(tmp_path / "storage.bin", owner, old_image)
    before = place.read_bytes()
    board = HostBoard(build(sanitized=True), place)
    bombard(board, owner, new_image[:MANIFEST_BYTES], seed, FRAMES // 4)
    assert place.read_bytes() == before
    board.close()
    assert board.wait() == 0


# 40 s a quarter: the suite sends one of them, EDGE_ALL_CUTS=1 all 20,000.
@pytest.mark.parametrize("seed", range(4 if os.environ.get("EDGE_ALL_CUTS") else 1))
def test_on_an_emulated_board(tmp_path: Path, emulated_bench: Bench, seed: int) -> None:
    place = tmp_path / "storage.bin"
    place.write_bytes(emulated_bench.fresh)
    port = emulated.port(emulated.firmware(), place)
    bombard(port, emulated_bench.owner, emulated_bench.new[:MANIFEST_BYTES], seed, FRAMES // 4)
    assert port.board.faults == [] and port.board.resets == 0
    assert port.board.storage() == emulated_bench.fresh
    port.close()
