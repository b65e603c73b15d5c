"""`edge firmware build`: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edge.firmware_bridge.board import find_board
from edge.firmware_bridge.build import build_firmware, describe_program, read_model
from edge.firmware_bridge.compile import FIRMWARE
from edge.firmware_bridge.device import Device
from edge.firmware_bridge.emulate import start_board
from edge.firmware_bridge.image import read_image
from edge.firmware_bridge.measure import measure_program
from edge.firmware_bridge.operators import CORE, KERNELS, choose_operators, operator_symbols
from edge.firmware_bridge.report import DoesNotFit
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.toolchain import find_toolchain
from edge.runtime.backends.core import open as open_core
from edge.runtime.errors import BadInput, Unsupported
from tests.conftest import run_edge
from tests.firmware_bridge.boards import toolchain
from tests.runtime.programs import program_folder


@pytest.fixture(scope="module")
def key() -> FirmwareKey:
    return FirmwareKey.generate()


def program(name: str) -> Path:
    return program_folder() / f"{name}.pte"


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_built_firmware_runs_its_model(compiler: str, key: FirmwareKey, tmp_path: Path) -> None:
    board = find_board("mps2-an386")
    toolchain(compiler, board)
    path = program("cnn")
    made = build_firmware(read_model(path), board, tmp_path / "cnn.elf", key, toolchain=compiler, device_id=b"d" * 16)
    session = open_core(path.read_bytes(), 1)
    inputs = [np.random.default_rng(1).standard_normal(s.shape).astype(s.dtype) for s in session.inputs]
    expected = b"".join(output.tobytes() for output in session.run(inputs))
    for file in (made.elf, made.files[0][0]):
        if file.suffix == ".bin" and len(made.files) > 1:
            continue  # code alone: the storage is a file of its own here
        with Device(start_board(board, file), "emulated", key) as device:
            device.write_inputs(b"".join(array.tobytes() for array in inputs))
            assert device.run()[0] == expected
    report = made.report
    assert report.instructions > 0 and report.measured_on == "mps2-an386"
    assert 0 < report.stack_used <= board.stack_bytes  # type: ignore[operator]
    image = read_image(board, made.elf)
    assert len(image.code) == report.code_bytes
    assert sum(report.parts.values()) == report.code_bytes
    assert report.image_bytes > report.program_bytes + report.weight_bytes > 0


def test_plain_binary_holds_code_and_storage(key: FirmwareKey, tmp_path: Path) -> None:
    board = find_board("lm3s6965evb")
    made = build_firmware(read_model(program("mlp")), board, tmp_path / "mlp.elf", key, learning=False)
    ((plain, address),) = made.files
    assert address == board.flash.origin
    with Device(start_board(board, plain), "emulated", key) as device:
        assert device.info.model == "mlp" and device.trouble() == ""


def test_needs_are_those_of_the_target() -> None:
    """The emulated core's tables are half of this machine's; the arena is the same."""
    pte = program("mlp").read_bytes()
    model = describe_program("mlp", pte)
    board = find_board("microbit")
    needs = measure_program(board, find_toolchain("zig", board.cpu), pte, choose_operators("model", model.operators))
    here = open_core(pte, 1)._program
    assert needs.arena_bytes == here.arena_bytes
    assert needs.state_bytes < here.state_bytes
    assert needs.total_bytes == needs.state_bytes + needs.arena_bytes + needs.scratch_bytes + needs.packed_bytes
    assert len(needs.instructions) == len(here.instructions)
    assert needs.stack_bytes is not None and needs.stack_bytes < 4096


def test_rows_are_refused_where_the_scalar_kernels_are_left_out() -> None:
    """Firmware for a model in its board's layout has no kernels for another; it says what to do."""
    pte = program("edge_block").read_bytes()
    model = describe_program("mlp", pte)
    assert model.rows
    board = find_board("mps2-an386")
    chosen = choose_operators("model", model.operators)
    zig = find_toolchain("zig", board.cpu)
    assert measure_program(board, zig, pte, chosen, rows=True).instructions
    with pytest.raises(Unsupported, match="not in this firmware's layout: export with its --target"):
        measure_program(board, zig, pte, chosen, rows=False)


def test_a_model_that_does_not_fit(key: FirmwareKey, tmp_path: Path) -> None:
    board = find_board("microbit")
    older = tmp_path / "cct.elf"
    older.write_bytes(b"what ran before")
    with pytest.raises(DoesNotFit) as caught:
        build_firmware(read_model(program("cct")), board, older, key)
    assert older.read_bytes() == b"what ran before" and list(tmp_path.iterdir()) == [older]
    text = str(caught.value)
    assert re.match(r"cct\.pte does not fit microbit: .*largest layers: \d+ ", text) and "\n" not in text


def test_operators_of_models_to_come(key: FirmwareKey) -> None:
    model = describe_program("mlp", program("mlp").read_bytes())
    own = choose_operators("model", model.operators)
    assert set(own) == set(model.operators)
    more = choose_operators("edge::max_pool2d, aten::relu.out", model.operators)
    assert set(more) == {*own, "edge::max_pool2d.out", "aten::relu.out"}
    assert choose_operators("all", ()) == tuple(operator_symbols())
    with pytest.raises(
        BadInput, match=r'"edge::maxpool2d" is no operator of the core; did you mean edge::max_pool2d.out\?'
    ):
        choose_operators("edge::maxpool2d", model.operators)


def test_firmware_names_an_operator_that_it_lacks() -> None:
    pte = program("cnn").read_bytes()
    board = find_board("mps2-an386")
    with pytest.raises(Unsupported, match="refuses the program: not operators? of this firmware: ") as caught:
        measure_program(board, find_toolchain("zig", board.cpu), pte, choose_operators("model", ["aten::sin.out"]))
    assert any(name in str(caught.value) for name in describe_program("cnn", pte).operators)


def test_symbols_are_those_of_the_operators() -> None:
    """The names come from the core, the symbols from ops.h, in the same order."""
    symbols = operator_symbols()
    assert symbols["edge::ternary_linear.out"] == "edge_ternary_linear"
    assert symbols["aten::mean.out"] == "aten_mean"
    assert list(symbols.items())[-1] == ("dim_order_ops::_to_dim_order_copy.out", "dim_order_to_copy")
    for name, symbol in symbols.items():
        if name.startswith("edge::"):
            assert symbol == name.removesuffix(".out").replace("::", "_")


def test_kernels_left_out_are_called_by_no_other_operator() -> None:
    """Every file of operators that calls a kernel has one of the operators that the kernel is built for."""
    fields = set()
    for path in (CORE / "ops").glob("*.c"):
        fields |= set(re.findall(r"kernels->(\w+)", path.read_text()))
    assert {field.removesuffix("_columns") for field in fields} <= set(KERNELS)
    assert all(operator in operator_symbols() for operators in KERNELS.values() for operator in operators)


def test_command_line(tmp_path: Path) -> None:
    done = run_edge(
        "firmware", "build", program("mlp"), "--board", "lm3s6965evb", "--no-learning", "--json", cwd=tmp_path
    )
    answer = json.loads(done.stdout)
    assert answer["flash"]["used"] > 0 and answer["ram"]["left"] > 0
    assert (tmp_path / "mlp-lm3s6965evb.elf").exists() and (tmp_path / "firmware.key").stat().st_mode & 0o077 == 0
    shown = run_edge(
        "firmware", "build", program("mlp"), "--board", "lm3s6965evb", "--no-learning", cwd=tmp_path
    ).stdout
    assert "signature" in shown and "arena" in shown and "instructions of a cortex-m3" in shown
    boards = json.loads(run_edge("firmware", "boards", "--json").stdout)
    assert {board["name"] for board in boards} >= {"microbit", "nrf52840dk"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--board", "nano"], 'there is no board "nano"'),
        (["--board", "microbit", "--operators", "edge::conv9d"], '"edge::conv9d" is no operator of the core'),
        (["--board", "microbit", "--key", "none.key"], "no such key file"),
        (["--board", "microbit", "--device-id", "zz"], "expected 32 hexadecimal digits"),
        (["--board", "microbit", "-o", "x.txt"], "ends in .elf"),
    ],
)
def test_bad_words(words: list[str], message: str, tmp_path: Path) -> None:
    done = run_edge("firmware", "build", program("mlp"), *words, check=False, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") <= 3
    assert message in done.stderr.strip().splitlines()[-1]


def test_sources_of_the_firmware_are_in_the_package() -> None:
    assert (FIRMWARE / "board.h").is_file() and (CORE / "edge_core.h").is_file()
