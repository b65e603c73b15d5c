"""A device, by the firmware built for this machine: running models, updates and what it refuses."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.errors import LinkLost, Refused
from edge.firmware_bridge.frames import Frame, FrameReader
from edge.firmware_bridge.messages import Command, Status
from edge.firmware_bridge.signature import FirmwareKey, link_mac
from edge.firmware_bridge.slot_image import (
    MANIFEST_BYTES,
    check_image,
    image_program,
    read_manifest,
    sign_manifest,
    slot_image,
)
from edge.firmware_bridge.storage import Commit, last_commit
from edge.runtime.backends.core import open as open_core
from edge.runtime.errors import BadFile, BadInput
from tests.firmware_bridge.host_board import LAYOUT, HostBoard, build, write_storage
from tests.runtime.programs import program_folder

Start = Callable[..., Device]


def run_both(device: Device, image: bytes, seed: int = 0) -> None:
    """Holds a run of the device to the core's own, bit by bit."""
    session = open_core(image_program(image), 1)
    draw = np.random.default_rng(seed)
    arrays = [draw.standard_normal(spec.shape).astype(spec.dtype) for spec in session.inputs]
    device.write_inputs(b"".join(array.tobytes() for array in arrays))
    output, _ = device.run()
    assert output == b"".join(array.tobytes() for array in session.run(arrays))


def resigned(image: bytes, key: FirmwareKey, **fields: object) -> bytes:
    """The image with other words in its manifest, signed again."""
    manifest = replace(read_manifest(image), **fields)  # type: ignore[arg-type]
    return sign_manifest(manifest, key) + image[MANIFEST_BYTES:]


def test_new_device_runs_its_model(start: Start, old_image: bytes) -> None:
    device = start(old_image)
    info = device.info
    assert (info.active, info.running, info.trial, info.floor) == (0, 0, None, 3)
    assert (info.model, info.board, info.target, info.firmware) == ("old", "host", "host", "0.1.0")
    assert device.trouble() == ""
    inputs, outputs = device.ports()
    session = open_core(image_program(old_image), 1)
    assert (inputs, outputs) == (session.inputs, session.outputs)
    run_both(device, old_image)
    stats = device.stats()
    assert (stats.runs, stats.damaged, stats.refused) == (1, 0, 0)


def test_inputs_that_take_several_frames(start: Start, new_image: bytes) -> None:
    device = start(new_image)
    assert device.info.input_bytes > 2 * device.info.chunk_bytes
    for seed in range(3):
        run_both(device, new_image, seed)


def test_outputs_that_take_several_frames(start: Start, owner: FirmwareKey) -> None:
    image = slot_image((program_folder() / "zoo.pte").read_bytes(), owner, sequence=1)
    device = start(image)
    assert device.info.output_bytes > device.info.chunk_bytes or device.info.outputs > 1
    run_both(device, image)


def test_smaller_frames(start: Start, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image, program=build(defines=["EDGE_CHUNK_BYTES=512"]))
    assert device.info.chunk_bytes == 512
    assert device.flash(new_image).running_sequence == 4
    run_both(device, new_image)


def test_run_takes_its_inputs_with_it(start: Start, old_image: bytes) -> None:
    device = start(old_image)
    with pytest.raises(Refused, match="the inputs take 144 bytes, 0 have come"):
        device.run()
    device.write_inputs(bytes(144))
    device.run()
    with pytest.raises(Refused, match="0 have come"):
        device.run()
    with pytest.raises(BadInput, match="143 bytes of input; the model takes 144"):
        device.write_inputs(bytes(143))


def test_inputs_come_in_order(start: Start, new_image: bytes) -> None:
    device = start(new_image)
    device._link.ask(Command.INPUT, struct.pack("<I", 0) + bytes(1000))
    with pytest.raises(Refused, match="piece is for byte 1004 of the inputs, the next is 1000"):
        device._link.ask(Command.INPUT, struct.pack("<I", 1004) + bytes(4))
    with pytest.raises(Refused, match="no output"):
        device._link.ask(Command.OUTPUT, struct.pack("<I", 0))


def test_profile_names_every_operator(start: Start, new_image: bytes) -> None:
    device = start(new_image)
    session = open_core(image_program(new_image), 1)
    device.write_inputs(bytes(device.info.input_bytes))
    ops = device.profile()
    wanted = session.profile([np.zeros(spec.shape, spec.dtype) for spec in session.inputs])
    assert [(op.op, op.macs) for op in ops] == [(op.op, op.macs) for op in wanted]
    # The core's own profile tells the last output, which of a batch norm is empty.
    assert all(op.shape == other.shape for op, other in zip(ops, wanted, strict=True) if "norm" not in op.op)
    assert device.info.instructions == len(ops)


def test_update_and_roll_back(start: Start, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image)
    seen: list[tuple[int, int]] = []
    info = device.flash(new_image, lambda done, total: seen.append((done, total)))
    assert (info.active, info.running_sequence, info.floor, info.trial_result) == (1, 4, 4, Status.TRIAL_PASSED)
    assert seen[0] == (MANIFEST_BYTES, len(new_image))
    assert seen[-1] == (len(new_image), len(new_image))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    run_both(device, new_image)
    assert device.flash(new_image) == info  # nothing to do
    assert device.stats().chunks == 0

    device.roll_back()
    info = device.reset()
    assert (info.running_sequence, info.floor) == (3, 4)
    run_both(device, old_image)
    with pytest.raises(Refused, match="stale: sequence 4; this device has had 4, and takes only newer ones"):
        device.flash(new_image)


def test_roll_back_drops_a_model_on_trial(start: Start, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image)
    device.activate(device.send_image(new_image), 4)
    assert device.read_info().trial_sequence == 4
    device.roll_back()
    info = device.reset()
    assert (info.running_sequence, info.trial) == (3, None)
    with pytest.raises(Refused, match="no model to go back to"):
        device.roll_back()


def test_roll_back_that_comes_twice_goes_back_once(start: Start, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image)
    device.flash(new_image)
    device._link.ask(Command.ROLL_BACK, struct.pack("<I", 4))
    device.reset()
    with pytest.raises(Refused, match="sequence 4 is not what would run"):
        device._link.ask(Command.ROLL_BACK, struct.pack("<I", 4))
    assert device.reset().running_sequence == 3


def test_no_slot_is_written_while_both_are_needed(
    start: Start, owner: FirmwareKey, old_image: bytes, new_image: bytes
) -> None:
    device = start(old_image)
    device.flash(new_image)
    device.roll_back()
    with pytest.raises(Refused, match="a roll back waits for a reset"):
        device.send_image(resigned(new_image, owner, sequence=9))
    device.reset()
    assert device.flash(resigned(new_image, owner, sequence=9)).running_sequence == 9


def test_device_without_a_model_takes_its_first(start: Start, new_image: bytes) -> None:
    device = start()
    assert (device.info.active, device.info.running) == (None, None)
    assert device.trouble() == "no model was activated"
    for call in (device.run, device.profile):
        with pytest.raises(Refused, match="no model runs on this device"):
            call()
    assert device.flash(new_image).running_sequence == 4
    run_both(device, new_image)


def test_device_without_an_identity_says_so(start: Start, tmp_path: Path, owner: FirmwareKey, new_image: bytes) -> None:
    blank = tmp_path / "blank.bin"
    blank.write_bytes(b"\xff" * LAYOUT.storage_bytes)
    device = start(storage=blank)
    assert not device.info.has_identity
    assert device.trouble() == "this device was given no identity"
    with pytest.raises(Refused, match="was given no identity"):
        device.flash(new_image)


REFUSED_IMAGES = {
    "board": ({"board": "lm3s6965evb"}, Status.WRONG_BOARD, "for board lm3s6965evb; this device is host"),
    "target": ({"target": "cortex-m4"}, Status.WRONG_BOARD, "for target cortex-m4; this device is host"),
    "prefix": ({"target": "hos"}, Status.WRONG_BOARD, "for target hos;"),
    "stale": ({"sequence": 3}, Status.STALE, "sequence 3; this device has had 3"),
    "older": ({"sequence": 1}, Status.STALE, "sequence 1; this device has had 3"),
    "abi": ({"abi": 2}, Status.WRONG_ABI, "program ABI 2; this firmware runs 1"),
    "large": ({"program_bytes": 1 << 20}, Status.TOO_LARGE, "a slot holds 83648"),
    "wraps": ({"program_bytes": 0xFFFFFFF8, "description_bytes": 16}, Status.TOO_LARGE, "a slot holds 83648"),
}


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_refused_before_anything_is_written(
    start: Start, tmp_path: Path, owner: FirmwareKey, old_image: bytes, new_image: bytes, case: str
) -> None:
    fields, status, text = REFUSED_IMAGES[case]
    device = start(old_image)
    before = (tmp_path / "storage.bin").read_bytes()
    manifest = resigned(new_image, owner, **fields)[:MANIFEST_BYTES]
    with pytest.raises(Refused, match=text) as caught:
        device._link.ask(Command.BEGIN, manifest)
    assert caught.value.status == status
    assert (tmp_path / "storage.bin").read_bytes() == before


def test_signatures_that_do_not_hold(start: Start, tmp_path: Path, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image)
    before = (tmp_path / "storage.bin").read_bytes()
    stranger = resigned(new_image, FirmwareKey.generate())
    with pytest.raises(Refused, match="signed with a key that this device does not know"):
        device.flash(stranger)
    for at in (36, 60, 200, 256, 319):  # in the fields, the digest, the self-test, the signature
        broken = bytearray(new_image[:MANIFEST_BYTES])
        broken[at] ^= 1
        with pytest.raises(Refused, match="broken signature") as caught:
            device._link.ask(Command.BEGIN, bytes(broken))
        assert caught.value.status == Status.BROKEN_SIGNATURE
    assert (tmp_path / "storage.bin").read_bytes() == before


def test_expiry_where_there_is_a_clock(start: Start, owner: FirmwareKey, old_image: bytes, new_image: bytes) -> None:
    with_clock = build(defines=["EDGE_HOST_CLOCK"])
    device = start(old_image, program=with_clock)
    with pytest.raises(Refused, match="the image has expired"):
        device._link.ask(Command.BEGIN, resigned(new_image, owner, expiry=1_000_000_000)[:MANIFEST_BYTES])
    with pytest.raises(BadFile, match="the image of new 1 expired on 2001-09-09: sign a new one"):
        device.flash(resigned(new_image, owner, expiry=1_000_000_000))  # for boards without one
    assert device.flash(resigned(new_image, owner, expiry=1 << 40)).running_sequence == 4


def test_program_that_is_not_the_signed_one(start: Start, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image)
    broken = bytearray(new_image)
    broken[5000] ^= 1
    with pytest.raises(BadFile, match="not the one that was signed"):
        device.send_image(bytes(broken))
    slot, done, total = device._begin(new_image)  # a host that does not look
    while done < total:
        piece = bytes(broken[done : done + 1024])
        (done,) = struct.unpack("<I", device._link.ask(Command.CHUNK, struct.pack("<I", done) + piece))
    with pytest.raises(Refused, match="not the one that was signed"):
        device._link.ask(Command.END)
    with pytest.raises(Refused):
        device.activate(slot, 4)
    assert device.flash(new_image).running_sequence == 4


def test_model_that_needs_more_memory_than_there_is(
    start: Start, owner: FirmwareKey, old_image: bytes, new_image: bytes
) -> None:
    small = build(defines=["HOST_MEMORY=16384"])
    device = start(old_image, program=small)
    slot = None
    with pytest.raises(Refused, match=r"needs \d+ bytes of memory .*; there are 16384"):
        slot = device.send_image(new_image)
    assert slot is None
    assert device.reset().running_sequence == 3


def test_manifest_must_not_understate_the_arena(
    start: Start, owner: FirmwareKey, old_image: bytes, new_image: bytes
) -> None:
    device = start(old_image)
    with pytest.raises(Refused, match=r"plans \d+ bytes of memory; its manifest says 16"):
        device.flash(resigned(new_image, owner, arena_bytes=16))


def test_model_that_fails_its_self_test_goes_back(
    start: Start, owner: FirmwareKey, old_image: bytes, new_image: bytes
) -> None:
    device = start(old_image)
    wrong = resigned(new_image, owner, test_values=(9.0, 9.0), test_tolerance=0.1)
    with pytest.raises(Refused, match="went back to the one before: the self-test failed at value 0 of the output"):
        device.flash(wrong)
    assert (device.info.running_sequence, device.info.floor, device.info.trial) == (3, 3, None)
    assert device.info.trial_result == Status.SELF_TEST
    run_both(device, old_image)
    assert device.flash(new_image).running_sequence == 4  # its number was not used up


def test_model_that_stops_the_device_is_given_up(
    board_program: Path, tmp_path: Path, owner: FirmwareKey, old_image: bytes, new_image: bytes
) -> None:
    """The storage as it is when the watchdog has ended every trial."""
    place = write_storage(tmp_path / "storage.bin", owner, old_image)
    storage = bytearray(place.read_bytes())
    storage[LAYOUT.slot_at(1) : LAYOUT.slot_at(1) + len(new_image)] = new_image
    record = Commit(2, active=0, trial=1, trial_boots=3, floor=3, active_sequence=3, trial_sequence=4).pack()
    storage[LAYOUT.log_at + 48 : LAYOUT.log_at + 96] = record
    place.write_bytes(storage)
    with Device(HostBoard(board_program, place), "host", owner) as device:
        assert (device.info.running_sequence, device.info.trial) == (3, None)
        assert device.info.trial_result == Status.TRIAL_STOPPED
        assert device.trouble() == "the new model did not come through its first run, 3 times tried"


def test_damaged_active_model_falls_back_and_can_be_replaced(
    start: Start, tmp_path: Path, owner: FirmwareKey, old_image: bytes, new_image: bytes
) -> None:
    device = start(old_image)
    device.flash(new_image)
    device.close()
    place = tmp_path / "storage.bin"
    storage = bytearray(place.read_bytes())
    storage[LAYOUT.slot_at(1) + 3000] ^= 1
    place.write_bytes(storage)
    device = start(storage=place)
    assert (device.info.running_sequence, device.info.active) == (3, 1)
    assert "not the one that was signed" in device.trouble()
    assert device.flash(resigned(new_image, owner, sequence=5)).running_sequence == 5


def test_log_goes_round(start: Start, tmp_path: Path, owner: FirmwareKey, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image)
    for sequence in range(4, 24):  # three records each; two sectors hold 42
        assert device.flash(resigned(new_image, owner, sequence=sequence)).running_sequence == sequence
    commit = last_commit((tmp_path / "storage.bin").read_bytes(), LAYOUT)
    assert commit is not None
    assert (commit.active_sequence, commit.floor, commit.counter) == (23, 23, 61)


# --- who may change it ---


def test_commands_that_change_the_device_need_its_owner(start: Start, old_image: bytes, new_image: bytes) -> None:
    device = start(old_image, key=None)
    run_both(device, old_image)
    for call in (lambda: device.flash(new_image), device.roll_back, device.reset, device.forget_weights):
        with pytest.raises(BadInput, match="give its owner's key"):
            call()
    device._link.give_secret(bytes(32))
    with pytest.raises(Refused, match="not authenticated") as caught:
        device.flash(new_image)
    assert caught.value.status == Status.NOT_AUTHENTIC


def exchange(board: HostBoard, frame: Frame) -> Frame:
    board.write(frame.encode())
    reader = FrameReader()
    while True:
        got = board.read(4096, 10)
        assert got
        if found := reader.feed(got):
            return found[0]


def test_authenticated_commands_cannot_be_replayed(
    board_program: Path, tmp_path: Path, owner: FirmwareKey, old_image: bytes
) -> None:
    board = HostBoard(board_program, write_storage(tmp_path / "storage.bin", owner, old_image))
    secret = owner.device_secret(b"0123456789abcdef")

    def proved(sequence: int, counter: int, nonce: bytes) -> Frame:
        plain, number = Frame(Command.FORGET_WEIGHTS, sequence), counter.to_bytes(4, "little")
        return replace(plain, body=number + link_mac(secret, nonce + plain.header + number))

    def answer(frame: Frame) -> tuple[int, int]:
        got = exchange(board, frame)
        return got.sequence, got.status

    assert answer(proved(1, 1, bytes(16))) == (1, Status.NOT_CHALLENGED)
    nonce = exchange(board, Frame(Command.CHALLENGE, 2)).body
    assert len(nonce) == 16
    assert answer(proved(3, 1, nonce)) == (3, Status.DONE)
    assert answer(proved(4, 1, nonce)) == (4, Status.REPLAYED)
    assert answer(proved(5, 2, nonce)) == (5, Status.DONE)
    assert answer(proved(3, 1, nonce)) == (3, Status.REPLAYED)  # what somebody heard
    assert answer(replace(proved(6, 3, nonce), sequence=7)) == (7, Status.NOT_AUTHENTIC)
    again = exchange(board, Frame(Command.CHALLENGE, 8)).body
    assert again != nonce
    assert answer(proved(9, 4, nonce)) == (9, Status.NOT_AUTHENTIC)
    assert answer(proved(10, 1, again)) == (10, Status.DONE)
    board.close()


def test_repeated_request_gets_the_same_answer_and_acts_once(
    board_program: Path, tmp_path: Path, owner: FirmwareKey, old_image: bytes
) -> None:
    board = HostBoard(board_program, write_storage(tmp_path / "storage.bin", owner, old_image))
    exchange(board, Frame(Command.INPUT, 1, bytes(4) + bytes(144)))
    run = Frame(Command.RUN, 2, b"\0")
    first = exchange(board, run)
    assert first.status == Status.DONE
    for _ in range(3):
        assert exchange(board, run) == first  # a second run would be refused: its inputs are gone
    stats = exchange(board, Frame(Command.STATS, 3))
    assert struct.unpack_from("<5I", stats.body) == (6, 0, 3, 0, 1)
    other = exchange(board, Frame(Command.VERIFY, 3, b"\0"))
    assert (other.status, other.body) == (Status.SEQUENCE_REUSED, b"sequence number 3 was another command's")
    board.close()


def test_other_versions_are_told_apart(board_program: Path, tmp_path: Path, owner: FirmwareKey) -> None:
    board = HostBoard(board_program, write_storage(tmp_path / "storage.bin", owner))
    answer = exchange(board, Frame(Command.INFO, 1, version=2))
    assert (answer.status, answer.version) == (Status.WRONG_VERSION, 1)
    assert answer.body == b"this firmware speaks version 1 of the protocol, not 2"
    answer = exchange(board, Frame(0x3F, 2))
    assert (answer.status, answer.body) == (Status.UNKNOWN_COMMAND, b"this firmware does not know command 0x3f")
    board.close()


class OldFirmware:
    """A port to firmware that speaks version 0 of the protocol."""

    def __init__(self) -> None:
        self._reader, self._answers = FrameReader(), b""

    def write(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            said = Frame(frame.command | 0x80, frame.sequence, b"version 0", Status.WRONG_VERSION, version=0)
            self._answers += said.encode()

    def read(self, size: int, timeout: float) -> bytes:
        got, self._answers = self._answers[:size], self._answers[size:]
        return got

    def close(self) -> None:
        pass


def test_older_firmware_is_named() -> None:
    with pytest.raises(Refused, match=r"its firmware is older than this protocol \(version 0, here 1\): flash new"):
        Device(OldFirmware(), "old", None)


class Silence:
    """A port where nobody is."""

    def write(self, data: bytes) -> None:
        pass

    def read(self, size: int, timeout: float) -> bytes:
        return b""

    def close(self) -> None:
        pass


def test_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "read_info", lambda self: self._link.ask(Command.INFO, timeout=0.2))
    with pytest.raises(
        LinkLost, match=r"quiet: no answer in 0\.2 s: is our firmware there, and no other program on it\?"
    ):
        Device(Silence(), "quiet", None)


class LossyPort:
    """A board whose line drops, damages and repeats what goes over it."""

    def __init__(self, board: HostBoard, seed: int) -> None:
        import random

        self._board, self._draw = board, random.Random(seed)

    def write(self, data: bytes) -> None:
        luck = self._draw.random()
        if luck < 0.05:
            return
        if luck < 0.15:
            at = self._draw.randrange(len(data))
            data = data[:at] + bytes([self._draw.randrange(256)]) + data[at + self._draw.randrange(3) :]
        self._board.write(data * 2 if luck > 0.95 else data)

    def read(self, size: int, timeout: float) -> bytes:
        got = self._board.read(size, min(timeout, 0.05))
        if got and self._draw.random() < 0.1:
            at = self._draw.randrange(len(got))
            return got[:at] + got[at + 1 :]
        return got

    def close(self) -> None:
        self._board.close()


def test_update_over_a_bad_line(
    board_program: Path,
    tmp_path: Path,
    owner: FirmwareKey,
    old_image: bytes,
    new_image: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.firmware_bridge.link._FIRST_WAIT", 0.05)
    for seed in range(3):
        place = write_storage(tmp_path / "storage.bin", owner, old_image)
        with Device(LossyPort(HostBoard(board_program, place), seed), "lossy", owner) as device:
            assert device.flash(new_image).running_sequence == 4
            run_both(device, new_image, seed)
            assert device.retries > 0
        assert check_image(place.read_bytes()[LAYOUT.slot_at(1) :][: len(new_image)], owner.public).sequence == 4
