"""The protocol on emulated boards: the same as on this machine, and instructions counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.firmware_bridge import connect
from edge.firmware_bridge.device import Device
from edge.firmware_bridge.errors import Refused
from edge.firmware_bridge.gateway import Gateway
from edge.firmware_bridge.port import EmulatedPort
from edge.firmware_bridge.remote_model import RemoteModel, model_of
from edge.firmware_bridge.signature import FirmwareKey, write_key
from edge.fleet.device.bridge_board import BridgeBoard
from edge.fleet.inventory import Inventory
from edge.fleet.server.updates.plan import choose
from edge.fleet.variant import Blob, Variant
from edge.runtime import load
from edge.runtime._core import Program
from tests.conftest import run_edge
from tests.firmware_bridge import emulated
from tests.firmware_bridge.cuts import Bench
from tests.runtime.programs import program_folder


@pytest.fixture
def place(tmp_path: Path, emulated_bench: Bench) -> Path:
    path = tmp_path / "storage.bin"
    path.write_bytes(emulated_bench.fresh)
    return path


Start = Callable[[], EmulatedPort]


@pytest.fixture(params=["zig-unicorn", "gcc-qemu"])
def start(request: pytest.FixtureRequest, place: Path) -> Start:
    """Powers the board on, as one compiler and one emulator make it; each time with the storage as it was left."""
    toolchain, emulator = request.param.split("-")
    elf = emulated.firmware(toolchain=toolchain)
    if emulator == "unicorn":
        return lambda: emulated.port(elf, place)
    return lambda: EmulatedPort("qemu", emulated.start_qemu(elf, place))


@pytest.fixture
def model(place: Path, emulated_bench: Bench) -> Iterator[RemoteModel]:
    port = emulated.port(emulated.firmware(), place)
    with model_of(Device(port, "emulated", emulated_bench.owner)) as found:
        yield found
    assert port.board.faults == []


def sample(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_answers_are_the_cores(start: Start, emulated_bench: Bench) -> None:
    with model_of(Device(start(), "emulated", emulated_bench.owner)) as model:
        with load(program_folder() / "mlp.pte", backend="core", learned=False) as here:
            for seed in range(3):
                x = sample(seed, here.inputs[0].shape)
                np.testing.assert_allclose(model(x), here(x), atol=2e-7)  # another C library's exp
        assert model.device.flash(emulated_bench.new).running_sequence == 4
        with pytest.raises(Refused, match="stale"):
            model.device.send_image(emulated_bench.new)
        model.device.roll_back()
        assert model.device.reset().running_sequence == 3
    with model_of(Device(start(), "after power", emulated_bench.owner)) as model:
        assert model.device.info.running_sequence == 3


def test_the_fleet_sends_only_what_the_firmware_can_run(start: Start, emulated_bench: Bench, tmp_path: Path) -> None:
    """What INFO tells of the firmware's operators, as the gateway presents it and a rollout reads it."""
    bridged = BridgeBoard(
        "mic1", tmp_path, lambda: Device(start(), "emulated", emulated_bench.owner), lambda *_: None, model_of
    )
    inventory = Inventory.read(json.loads(json.dumps(bridged.inventory().json())))
    used = [
        tuple(dict.fromkeys(op for op, _, _ in Program((program_folder() / f"{name}.pte").read_bytes()).instructions))
        for name in emulated.PROGRAMS
    ]
    assert set(inventory.operators) == {op for operators in used for op in operators}
    image = Variant("kws", "2.0", "m4", 2, "image", Blob("a" * 64, 5000), target="cortex-m4", abi=1, operators=used[1])
    assert choose([image], inventory)[0] is image
    other = replace(image, operators=("aten::sin.out", *used[1]))
    assert choose([other], inventory)[1] == "m4: calls aten::sin.out, which its firmware lacks"


def test_profile_counts_instructions(model: RemoteModel) -> None:
    x = sample(1, model.inputs[0].shape)
    first, second = model.profile(x), model.profile(x)
    assert [op.instructions for op in first] == [op.instructions for op in second]
    assert all(op.instructions and op.instructions > 100 for op in first)
    # The linear layers take the most for their size.
    per_mac = [op.instructions / op.macs for op in first if op.instructions and op.macs]
    assert all(1 < cost < 60 for cost in per_mac)


def test_learning_is_the_cores(start: Start, emulated_bench: Bench) -> None:
    device = Device(start(), "emulated", emulated_bench.owner)
    device.flash(emulated_bench.new)
    with model_of(device) as there, load(program_folder() / "cnn.pte", backend="core", learned=False) as here:
        shape = here.inputs[0].shape
        xs, ys = [sample(seed, shape) for seed in range(8)], [seed % 4 for seed in range(8)]
        for model in (there, here):
            model.learn(xs, ys, learning_rate=0.05)
        assert there.learned is not None and here.learned is not None
        np.testing.assert_allclose(there.learned.weights, here.learned.weights, atol=1e-5)
        kept = there.learned.weights
    again = Device(start(), "again", emulated_bench.owner)
    assert again.info.learning
    with model_of(again) as model:
        assert model.learned is not None
        assert np.array_equal(model.learned.weights, kept)


def test_watchdog_ends_a_trial_that_hangs(place: Path, emulated_bench: Bench) -> None:
    """A model is activated, and power goes with every start of its trial before it is through: it is given up."""
    port = emulated.port(emulated.firmware(), place)
    device = Device(port, "emulated", emulated_bench.owner)
    slot = device.send_image(emulated_bench.new)
    device.activate(slot, 4)
    port.close()
    for _ in range(3):
        board = emulated.start(emulated.firmware(), place)
        board.cut_power(after_instructions=1_500_000)  # in the check of the signature
        end = time.monotonic() + 30
        while board.powered and time.monotonic() < end:
            time.sleep(0.01)
        assert not board.powered
        board.close()
    port = emulated.port(emulated.firmware(), place)
    device = Device(port, "emulated", emulated_bench.owner)
    assert (device.info.running_sequence, device.info.trial) == (3, None)
    assert device.trouble() == "the new model did not come through its first run, 3 times tried"
    with pytest.raises(Refused, match="no model to go back to"):
        device.roll_back()
    assert device.flash(emulated_bench.new).running_sequence == 4
    port.close()


def test_gateway_with_two_boards_one_killed(
    tmp_path: Path, emulated_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.firmware_bridge.gateway.CHECK_SECONDS", 0.3)
    places = {name: tmp_path / f"{name}.bin" for name in ("door", "window")}
    running: dict[str, EmulatedPort] = {}
    for path in places.values():
        path.write_bytes(emulated_bench.fresh)

    def opener(address: str) -> EmulatedPort:
        running[address] = emulated.port(emulated.firmware(), places[address])
        return running[address]

    def wait_for(truth: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not truth():
            assert time.monotonic() < end
            time.sleep(0.01)

    with Gateway({name: name for name in places}, opener=opener) as gateway:
        assert gateway.wait_until_up(60)
        x = sample(1, (3, 12))
        with gateway.connect("door", emulated_bench.owner) as door, gateway.connect("window") as window:
            before = door(x)
            assert np.array_equal(before, window(x))
            running["door"].board.cut_power()
            wait_for(lambda: gateway.devices()[0].drops == 1)
            assert np.array_equal(window(x), before)
            # The same connection: the gateway starts the board again, and the request is repeated until it is there.
            wait_for(lambda: gateway.devices()[0].up)
            assert np.array_equal(door(x), before)
            assert door.device.flash(emulated_bench.new).running_sequence == 4
        assert [state.up for state in gateway.devices()] == [True, True]


def test_address_of_an_emulated_board(tmp_path: Path, owner: FirmwareKey) -> None:
    """`edge firmware build`, `connect("emulate:…")`, and `edge firmware flash` of a next model."""
    elf, key = tmp_path / "mlp.elf", tmp_path / "owner.key"
    write_key(key, owner)
    mlp = program_folder() / "mlp.pte"
    run_edge("firmware", "build", mlp, "--board", "lm3s6965evb", "--key", key, "-o", elf, "--no-learning")
    address = f"emulate:lm3s6965evb:{elf}"
    with connect(address) as there, load(mlp, backend="core", learned=False) as here:
        x = sample(1, here.inputs[0].shape)
        np.testing.assert_allclose(there(x), here(x), atol=2e-7)
        assert sum(op.instructions or 0 for op in there.profile(x)) > 100_000
    run_edge("firmware", "flash", address, mlp, "--key", key, "--sequence", "2")
    with connect(address) as there:  # the storage was kept beside the firmware
        assert there.device.info.running_sequence == 2
        np.testing.assert_allclose(there(x), load(mlp, backend="core", learned=False)(x), atol=2e-7)
    # An operator that this firmware was built without.
    refused = run_edge("firmware", "flash", address, program_folder() / "cnn.pte", "--key", key, check=False)
    assert refused.returncode == 1
    assert "the device refused: " in refused.stderr and "aten::convolution" in refused.stderr, refused.stderr
