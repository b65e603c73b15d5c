"""Boards' files: those that are there, and every way in which one can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.firmware_bridge.board import BOARDS, board_names, find_board, read_board
from edge.firmware_bridge.compile import build_echo
from edge.firmware_bridge.cpu import CPUS
from edge.firmware_bridge.image import read_image
from edge.runtime.errors import BadFile, BadInput, MissingDependency
from edge.runtime.target import find_target
from tests.firmware_bridge.boards import toolchain


@pytest.fixture
def edited(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A function that copies microbit's files with one text replaced, and gives the .toml's path."""

    def edit(old: str, new: str) -> Path:
        path = tmp_path / "microbit.toml"
        text = (BOARDS / "microbit.toml").read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        shutil.copytree(BOARDS / "microbit", tmp_path / "microbit", dirs_exist_ok=True)
        return path

    return edit


def test_every_class_of_microcontroller_has_a_board() -> None:
    classes = {find_board(name).target for name in board_names()}
    assert classes == {cpu.target for cpu in CPUS.values()}
    for name in classes:
        assert find_target(name).layout != "rows"


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", board_names())
def test_every_board_builds(name: str, compiler: str) -> None:
    board = find_board(name)
    image = read_image(board, build_echo(board, toolchain(compiler, board)))
    assert 500 < len(image.code) < 8192


def test_a_board_of_ones_own(edited) -> None:  # type: ignore[no-untyped-def]
    path = edited("BBC micro:bit", "mine")
    board = find_board(str(path))
    assert board.title.startswith("mine") and board.folder == path.parent / "microbit"
    assert build_echo(board, toolchain("zig", board)).exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "microbit"', 'name = "other"', "name must be the file's own"),
        ('target = "cortex-m0"', 'target = "cortex-m4"', "a cortex-m0 is no cortex-m4"),
        ('target = "cortex-m0"', 'target = "z80"', "target must be one of cortex-m0"),
        ('cpu = "cortex-m0"', "cpu = 3", "cpu must be a text"),
        ("runs = true", "runs = 1", "runs must be true or false"),
        ("runs = true", "runs = true\ncolour = 1", "colour is no key"),
        ("bytes = 0x4000\n", "bytes = 0x4001\n", "ram.bytes must be a multiple of 4096"),
        ("bytes = 0x4000\n", "bytes = -1\n", "ram.bytes must be a whole number"),
        ("origin = 0x2000_0000", "origin = 0x1_0000", "flash and ram overlap"),
        ("origin = 0x2_0000", "origin = 0x1_0000", "storage must be the end of flash"),
        ("erase_bytes = 1024", "erase_bytes = 1000", "power of two"),
        ("program_bytes = 4", "program_bytes = 5", "program_bytes must be 4, 8 or 16"),
        ('driver = "nrf"', 'driver = "modem"', "uart.driver must be one of cmsdk"),
        ("[uart]", "[wart]", "uart is missing"),
        ('storage = "saved"', 'storage = "tape"', "qemu.storage must be one of"),
        ("stack_bytes = ", "stack_bytes = 0x10000 #", "stack_bytes must be less than ram.bytes"),
        ("[flash]", "[flash", "is no TOML"),
    ],
)
def test_wrong_files(edited, old: str, new: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadFile) as caught:
        read_board(edited(old, new))
    assert message in str(caught.value) and "\n" not in str(caught.value).split("is no TOML")[0]


def test_missing_things(edited, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match="no board"):
        find_board("arduino")
    with pytest.raises(BadFile, match="cannot be read"):
        find_board(str(tmp_path / "none.toml"))
    path = edited("BBC", "BBC")
    shutil.rmtree(tmp_path / "microbit")
    with pytest.raises(BadFile, match=r"board\.c is missing"):
        read_board(path)


def test_missing_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.firmware_bridge import toolchain as module

    with pytest.raises(BadInput, match='no toolchain "keil"'):
        module.find_toolchain("keil", "cortex-m4")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependency, match="apt-get install gcc-arm-none-eabi"):
        module.find_toolchain("gcc", "cortex-m4")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="edge-deploy\\[firmware\\]"):
        module.find_toolchain("zig", "cortex-m4")
