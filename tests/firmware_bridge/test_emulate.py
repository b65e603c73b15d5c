"""Every board that an emulator has: start-up code, serial line, storage, counter, reset; with both compilers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edge.firmware_bridge.board import find_board
from edge.firmware_bridge.emulate import start_board
from edge.firmware_bridge.image import read_image
from edge.runtime.errors import BadFile, BadInput
from tests.firmware_bridge.boards import RUNNABLE, ask, echo, receive, start, ticks

TEXT = bytes(range(0x1C, 0x100)) * 4


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize(("name", "emulator"), RUNNABLE)
def test_echo(name: str, emulator: str, compiler: str) -> None:
    board, image = echo(name, compiler)
    with start(board, image, emulator) as running:
        assert receive(running, 5) == b"edge\n"
        running.write(TEXT)
        assert receive(running, len(TEXT)) == TEXT
        assert ticks(running) != ticks(running)
        assert ask(running, b"r", 4) != ask(running, b"r", 4)
        memory, room = struct.unpack("<II", ask(running, b"m", 8))
        assert memory % 16 == 0 and memory + room == board.ram.end
        assert ask(running, b"R", 5) == b"edge\n"
        assert running.faults == []
        assert ask(running, b"f", 5) == b"edge\n", "a fault starts the board again"
        assert running.powered


@pytest.mark.parametrize(("name", "emulator"), RUNNABLE)
def test_storage_is_flash_and_outlives_the_board(name: str, emulator: str, tmp_path: Path) -> None:
    board, image = echo(name)
    file = tmp_path / "storage"
    with start(board, image, emulator, file) as running:
        receive(running, 5)
        assert ask(running, b"e", 1) == b"\x01"
        assert ask(running, b"s", 16) == b"\xff" * 16
        programmed = ask(running, b"p12345678", 1)
        if emulator == "qemu" and board.qemu is not None and board.qemu.storage == "read-only":
            assert programmed == b"\x00", "QEMU has no such flash, and the firmware sees it"
            return
        assert programmed == b"\x01"
        assert ask(running, b"p87654321", 1) == b"\x00", "a unit is programmed once"
        assert ask(running, b"R", 5) == b"edge\n"
        assert ask(running, b"s", 16) == b"12345678" + b"\xff" * 8
        assert running.storage()[:8] == b"12345678"
    with start(board, image, emulator, file) as running:
        receive(running, 5)
        assert ask(running, b"s", 8) == b"12345678"


def test_killed_qemu_keeps_what_lies_in_a_file(tmp_path: Path) -> None:
    board, image = echo("mps2-an386")
    file = tmp_path / "storage"
    with start(board, image, "qemu", file) as running:
        receive(running, 5)
        ask(running, b"e", 1)
        ask(running, b"p12345678", 1)
        running._machine.kill()  # type: ignore[attr-defined]
    assert file.read_bytes()[:8] == b"12345678"


def test_instructions_are_counted_exactly() -> None:
    """The same from run to run, and the firmware's own count agrees with the emulator's."""
    board, image = echo("lm3s6965evb")
    seen = []
    for _ in range(2):
        with start(board, image) as running:
            receive(running, 5)
            first, second = ticks(running), ticks(running)
            assert first < running.instructions
            seen.append(second - first)
    # The board may nap in between, which takes some instructions more.
    assert min(seen) > 50 and max(seen) < 1000


@pytest.mark.parametrize("operation", [1, 2, 3])
def test_power_fails_in_the_middle_of_an_operation(operation: int, tmp_path: Path) -> None:
    board, image = echo("lm3s6965evb")
    file = tmp_path / "storage"
    file.write_bytes(b"\x00" * board.storage.bytes)
    with start(board, image, storage=file) as running:
        receive(running, 5)
        running.cut_power(after_storage_operations=operation, seed=1)
        erased = ask(running, b"e", 1) if operation > 1 else b""
        assert erased == (b"\x01" if operation > 1 else b"")
        running.write(b"\x1be" if operation == 1 else b"\x1bp12345678")
        assert running.read(1, 10) == b"", "it stops dead"
        assert not running.powered
    kept = file.read_bytes()
    if operation == 3:
        assert kept[:4] == b"1234"
        assert kept[8:16] == b"\xff" * 8
    with start(board, image, storage=file) as running:
        assert receive(running, 5) == b"edge\n"
        assert running.storage() == kept


def test_power_fails_after_instructions() -> None:
    board, image = echo("microbit")
    with start(board, image) as running:
        receive(running, 5)
        running.cut_power(after_instructions=10_000)
        for _ in range(100):
            running.write(TEXT)
            if not running.read(len(TEXT), 1):
                break
        assert not running.powered


def test_reset_button() -> None:
    board, image = echo("microbit")
    with start(board, image) as running:
        receive(running, 5)
        running.reset()
        assert receive(running, 5) == b"edge\n"
        assert running.resets == 1


def test_bad_images(tmp_path: Path) -> None:
    board, image = echo("microbit")
    riscv, other = echo("riscv32-virt")
    with pytest.raises(BadFile, match="another processor"):
        start_board(board, other)
    with pytest.raises(BadFile, match="another processor"):
        start_board(riscv, image)
    with pytest.raises(BadFile, match="cannot be read"):
        start_board(board, tmp_path / "no.elf")
    broken = tmp_path / "broken.elf"
    data = image.read_bytes()
    for cut in (4, 20, 52, 100, data.index(b"edge\n")):
        broken.write_bytes(data[:cut])
        with pytest.raises(BadFile):
            start_board(board, broken)
    (tmp_path / "other.bin").write_bytes(bytes(range(256)))
    with pytest.raises(BadFile, match="not firmware"):
        start_board(board, tmp_path / "other.bin")
    (tmp_path / "text").write_bytes(b"text")
    with pytest.raises(BadFile, match="neither"):
        start_board(board, tmp_path / "text")


def test_damaged_elf_files_never_crash(tmp_path: Path) -> None:
    import random

    board, image = echo("microbit")
    data = image.read_bytes()
    broken = tmp_path / "broken.elf"
    pick = random.Random(1)
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(pick.randrange(1, 4)):
            changed[pick.randrange(min(len(data), 400))] = pick.randrange(256)
        broken.write_bytes(changed)
        try:
            read_image(board, broken)
        except BadFile:
            continue


def test_bad_choices(tmp_path: Path) -> None:
    board, image = echo("microbit")
    with pytest.raises(BadInput, match="no board"):
        start_board("nano", image)
    with pytest.raises(BadInput, match="no emulator"):
        start_board(board, image, emulator="bochs")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="unicorn has no cortex-m55"):
        start_board("mps3-an547", image, emulator="unicorn")
    with pytest.raises(BadInput, match="has no emulator"):
        start_board(find_board("nrf52840dk"), image)
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(BadInput, match="another board's"):
        start_board(board, image, storage=tmp_path / "short")
