"""A gateway with two boards: clients, links that drop and come back, and what it refuses."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edge.firmware_bridge import connect
from edge.firmware_bridge.errors import LinkLost
from edge.firmware_bridge.gateway import Gateway, read_boards
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.slot_image import image_program
from edge.runtime.backends.core import open as open_core
from edge.runtime.errors import BadFile, BadInput, EdgeError
from tests.firmware_bridge.host_board import HostBoard, write_storage


class Boards:
    """Boards by address, which can be killed; opening one that is unplugged fails as a port that is gone."""

    def __init__(self, program: Path, storages: dict[str, Path]) -> None:
        self._program, self._storages = program, storages
        self.running: dict[str, HostBoard] = {}
        self.unplugged: set[str] = set()

    def open(self, address: str) -> HostBoard:
        if address in self.unplugged:
            raise LinkLost(f"{address}: the port is gone")
        self.running[address] = HostBoard(self._program, self._storages[address])
        return self.running[address]

    def kill(self, address: str) -> None:
        self.running[address]._process.kill()


@pytest.fixture
def boards(board_program: Path, owner: FirmwareKey, tmp_path: Path, old_image: bytes, new_image: bytes) -> Boards:
    storages = {
        "port-a": write_storage(tmp_path / "a.bin", owner, old_image, device_id=b"A" * 16),
        "port-b": write_storage(tmp_path / "b.bin", owner, new_image, device_id=b"B" * 16),
    }
    return Boards(board_program, storages)


@pytest.fixture
def gateway(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr("edge.firmware_bridge.gateway.CHECK_SECONDS", 0.2)
    with Gateway({"door": "port-a", "window": "port-b"}, opener=boards.open) as gateway:
        assert gateway.wait_until_up()
        yield gateway


def wait_for(truth: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end
        time.sleep(0.01)


def expected(image: bytes) -> tuple[np.ndarray, np.ndarray]:
    session = open_core(image_program(image), 1)
    x = np.random.default_rng(1).standard_normal(session.inputs[0].shape).astype(np.float32)
    return x, session.run([x])[0]


def test_devices_in_this_process(gateway: Gateway, old_image: bytes, new_image: bytes) -> None:
    states = {state.name: state for state in gateway.devices()}
    assert states["door"].info is not None and states["door"].info.device_id == b"A" * 16
    assert states["window"].info is not None and states["window"].info.model == "new"
    with gateway.connect("door") as door, gateway.connect("window") as window:
        for model, image in ((door, old_image), (window, new_image)):
            x, y = expected(image)
            assert np.array_equal(model(x), y)
        with pytest.raises(LinkLost, match="door: the board is busy: another client"):
            gateway.connect("door")
        assert all(state.used for state in gateway.devices())
    assert not any(state.used for state in gateway.devices())
    with pytest.raises(LinkLost, match="has no board 'gate': it has door, window"):
        gateway.connect("gate")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_devices_over_a_socket(gateway: Gateway, tmp_path: Path, old_image: bytes, kind: str) -> None:
    if kind == "unix":
        address = gateway.listen_unix(tmp_path / "gateway")
        assert (tmp_path / "gateway").stat().st_mode & 0o777 == 0o600
    else:
        address = gateway.listen_tcp("127.0.0.1", 0)
    x, y = expected(old_image)
    with connect(f"{address}/door") as model:
        assert np.array_equal(model(x), y)
        with pytest.raises(LinkLost, match="busy"):
            connect(f"{address}/door")
    wait_for(lambda: not any(state.used for state in gateway.devices()))
    with connect(f"{address}/door") as model:
        assert np.array_equal(model(x), y)
    with pytest.raises(LinkLost, match="has no board 'gate'"):
        connect(f"{address}/gate")


def test_board_that_is_killed_comes_back(gateway: Gateway, boards: Boards, old_image: bytes) -> None:
    x, y = expected(old_image)
    boards.unplugged.add("port-a")
    boards.kill("port-a")
    wait_for(lambda: not gateway.devices()[0].up)
    assert gateway.devices()[0].why
    assert gateway.devices()[1].up
    time.sleep(0.6)
    boards.unplugged.clear()
    wait_for(lambda: gateway.devices()[0].up)
    assert gateway.devices()[0].drops == 1
    with gateway.connect("door") as model:
        assert np.array_equal(model(x), y)


def test_client_lives_through_a_drop(
    gateway: Gateway, boards: Boards, owner: FirmwareKey, tmp_path: Path, old_image: bytes
) -> None:
    address = gateway.listen_unix(tmp_path / "gateway")
    x, y = expected(old_image)
    with connect(f"{address}/door", owner) as model:
        assert np.array_equal(model(x), y)
        model.device.forget_weights()  # authenticated, under a challenge that the restart forgets
        boards.unplugged.add("port-a")
        boards.kill("port-a")
        wait_for(lambda: not gateway.devices()[0].up)
        threading.Timer(0.5, boards.unplugged.clear).start()
        assert np.array_equal(model(x), y)
        model.device.forget_weights()
    assert gateway.devices()[0].drops == 1


def test_update_through_a_gateway(gateway: Gateway, owner: FirmwareKey, tmp_path: Path, new_image: bytes) -> None:
    address = gateway.listen_tcp("127.0.0.1", 0)
    with connect(f"{address}/door", owner) as model:
        assert model.device.flash(new_image).running_sequence == 4


def test_list_and_nonsense(gateway: Gateway, tmp_path: Path) -> None:
    gateway.listen_unix(tmp_path / "gateway")

    def say(line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "gateway"))
            with suppress(OSError):
                client.sendall(line)
                client.shutdown(socket.SHUT_WR)
            try:
                return b"".join(iter(lambda: client.recv(65536), b""))
            except ConnectionResetError:  # hung up on before all was said
                return b""

    listed = json.loads(say(b'{"list": true}\n'))["devices"]
    assert [(row["name"], row["up"], row["board"]) for row in listed] == [
        ("door", True, "host"),
        ("window", True, "host"),
    ]
    for nonsense in (b"\x00\x01\xff\n", b"[1]\n", b"{" * 100_000, b""):
        assert say(nonsense) == b""
    assert b"has no board" in say(b'{"open": 7}\n')
    assert all(state.up for state in gateway.devices())


def test_second_gateway_does_not_take_the_socket(gateway: Gateway, boards: Boards, tmp_path: Path) -> None:
    gateway.listen_unix(tmp_path / "gateway")
    with pytest.raises(EdgeError, match="another gateway listens there"):
        gateway.listen_unix(tmp_path / "gateway")
    dead = tmp_path / "dead"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(dead))
    left.close()
    gateway.listen_unix(dead)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "1 to 256 boards"),
        ({"a/b": "x"}, "without slashes"),
        ({"a": "x", "b": "x"}, "given to two boards"),
    ],
)
def test_boards_that_cannot_be(given: dict[str, str], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        Gateway(given)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("boards = 1", "expected a table"),
        ("x = 1\n[boards]\na = 'b'", "expected a table"),
        ("[boards]\na = 1", r"boards\.a: expected an address in quotes"),
        ("[boards", "cannot be read"),
    ],
)
def test_config_that_is_wrong(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(content)
    with pytest.raises(BadFile, match=text):
        read_boards(path)


def test_config(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text("[boards]\ndoor = '/dev/ttyUSB0'\n\"the window\" = 'socket://host:1'\n")
    assert read_boards(path) == {"door": "/dev/ttyUSB0", "the window": "socket://host:1"}
    with pytest.raises(BadFile, match="no such file"):
        read_boards(tmp_path / "none.toml")
