"""`edge firmware` on a board: the firmware built for this machine, behind a TCP port."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.firmware_bridge.signature import FirmwareKey, read_key, write_key
from edge.firmware_bridge.slot_image import slot_image
from edge.runtime.errors import BadFile, EdgeError
from tests.conftest import run_edge
from tests.firmware_bridge.host_board import HostBoard, write_storage
from tests.runtime.programs import program_folder


class TcpBoard:
    """A board that serves one connection after the other, like a serial server."""

    def __init__(self, program: Path, storage: Path) -> None:
        self.board = HostBoard(program, storage)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        self._client: socket.socket | None = None
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._send, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._client, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    while data := self._client.recv(4096):
                        self.board.write(data)

    def _send(self) -> None:
        with contextlib.suppress(Exception):
            while True:
                data = self.board.read(4096, 60)
                with contextlib.suppress(OSError):
                    if self._client is not None:
                        self._client.sendall(data)

    def close(self) -> None:
        self._listener.close()
        self.board._process.kill()


@pytest.fixture
def key_file(owner: FirmwareKey, tmp_path: Path) -> Path:
    path = tmp_path / "owner.key"
    write_key(path, owner)
    return path


@pytest.fixture
def board(board_program: Path, owner: FirmwareKey, old_image: bytes, tmp_path: Path) -> Iterator[TcpBoard]:
    made = TcpBoard(board_program, write_storage(tmp_path / "storage.bin", owner, old_image))
    yield made
    made.close()


def refusal(*words: str | Path) -> str:
    """The one line that a refused command prints."""
    result = run_edge(*words, check=False)
    assert result.returncode == 1, (result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("edge: error: "), result.stderr
    return lines[0].removeprefix("edge: error: ")


def test_ports() -> None:
    document = json.loads(run_edge("firmware", "ports", "--json").stdout)
    assert "emulate:lm3s6965evb:FILE" in [row["address"] for row in document["emulated"]]
    assert "emulate:microbit:FILE" in run_edge("firmware", "ports").stdout


def test_info_stats_and_infer(board: TcpBoard, tmp_path: Path) -> None:
    document = json.loads(run_edge("firmware", "info", board.address, "--json").stdout)
    assert (document["model"], document["running_sequence"], document["board"]) == ("old", 3, "host")
    assert document["device_id"] == b"0123456789abcdef".hex()
    shown = run_edge("firmware", "info", board.address).stdout
    assert re.search(r"slot bytes +83,968", shown) and re.search(r"trial +none", shown)
    stats = json.loads(run_edge("firmware", "stats", board.address, "--json").stdout)
    assert stats["frames"] > 2 and stats["refused"] == 0
    np.save(tmp_path / "x.npy", np.zeros((3, 12), np.float32))
    assert "need one input and one row of class scores" in refusal(
        "firmware", "infer", board.address, tmp_path / "x.npy"
    )
    profile = json.loads(run_edge("firmware", "infer", board.address, "--profile", "--json").stdout)
    assert profile["operators"][1]["op"] == "aten::addmm.out" and profile["instructions"] > 0


def test_flash_and_roll_back(board: TcpBoard, key_file: Path, tmp_path: Path) -> None:
    cnn = program_folder() / "cnn.pte"
    result = run_edge("firmware", "flash", board.address, cnn, "--key", key_file)
    assert result.stdout == f"{board.address}: runs cnn 1, sequence 4\n"
    # Once more, it would take the place of the model to go back to.
    again = refusal("firmware", "flash", board.address, cnn, "--key", key_file)
    assert "cnn.pte already; --sequence 5 sends it again" in again
    assert re.search(r"^sending \d+/\d+ ", result.stderr, re.MULTILINE)
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 16, 16), np.float32))
    rows = json.loads(run_edge("firmware", "infer", board.address, tmp_path / "x.npy", "--json").stdout)["results"]
    assert rows[0]["label"] in "0123"
    result = run_edge("firmware", "rollback", board.address, env={**os.environ, "EDGE_FIRMWARE_KEY": str(key_file)})
    assert result.stdout == f"{board.address}: runs old 1 again, sequence 3\n"
    # What was once confirmed is stale for good.
    assert "stale: sequence 4; this device has had 4" in refusal(
        "firmware", "flash", board.address, cnn, "--key", key_file, "--sequence", "4"
    )


def test_flash_of_a_signed_image(board: TcpBoard, key_file: Path, tmp_path: Path) -> None:
    cnn, image = program_folder() / "cnn.pte", tmp_path / "cnn.slot"
    run_edge("firmware", "sign", cnn, "--key", key_file, "--sequence", "9", "--board", "host", "-o", image)
    document = json.loads(run_edge("firmware", "flash", board.address, image, "--key", key_file, "--json").stdout)
    assert document["running_sequence"] == 9


def test_what_flash_refuses(board: TcpBoard, key_file: Path, owner: FirmwareKey, tmp_path: Path) -> None:
    cnn = program_folder() / "cnn.pte"

    def flash(image: bytes, key: Path = key_file) -> str:
        path = tmp_path / "model.slot"
        path.write_bytes(image)
        return refusal("firmware", "flash", board.address, path, "--key", key)

    program = cnn.read_bytes()
    wrong_board = slot_image(program, owner, sequence=4, board="lm3s6965evb")
    assert flash(wrong_board).endswith("the device refused: the image is for board lm3s6965evb; this device is host")
    assert "stale: sequence 2; this device has had 3" in flash(slot_image(program, owner, sequence=2))
    broken = bytearray(slot_image(program, owner, sequence=4))
    broken[300] ^= 1
    assert flash(bytes(broken)).endswith("the device refused: broken signature")
    other = tmp_path / "other.key"
    write_key(other, FirmwareKey.generate())
    assert "not authenticated: another secret" in flash(slot_image(program, owner, sequence=4), other)
    assert "expired on 2001-09-09: sign a new one" in flash(slot_image(program, owner, sequence=4, expiry=10**9))
    assert "does not begin with EDGESLOT" in flash(b"something else")
    assert "give the owner's key" in refusal("firmware", "flash", board.address, cnn)
    assert "no such key file" in refusal("firmware", "flash", board.address, cnn, "--key", tmp_path / "none.key")
    assert json.loads(run_edge("firmware", "info", board.address, "--json").stdout)["running_sequence"] == 3


def test_ports_that_are_not_there(tmp_path: Path) -> None:
    assert "the port is gone: is the board plugged in?" in refusal("firmware", "info", str(tmp_path / "ttyUSB9"))
    assert "nobody listens there" in refusal("firmware", "info", "socket://127.0.0.1:1")
    assert "expected socket://HOST:PORT" in refusal("firmware", "info", "socket://host")
    assert "expected a serial port, socket://" in refusal("firmware", "info", "http://host")
    assert "expected emulate:BOARD:FILE" in refusal("firmware", "info", "emulate:microbit")
    assert 'no board "nowhere"' in refusal("firmware", "info", f"emulate:nowhere:{tmp_path}")
    assert "gateway:///PATH" in refusal("firmware", "info", "gateway://x")


def test_serial_port_that_is_busy_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    import serial

    from edge.firmware_bridge.errors import LinkLost
    from edge.firmware_bridge.port import open_port

    master, slave = pty.openpty()
    name = os.ttyname(slave)
    with serial.Serial(name, exclusive=True):
        assert refusal("firmware", "info", name).endswith("the port is busy: another program has it open")
    port = open_port(name)
    port.write(b"\0abc\0")
    assert os.read(master, 100) == b"\0abc\0"
    os.write(master, b"\0xyz")
    got = port.read(2, 5)
    assert 1 <= len(got) <= 2
    while len(got) < 4:
        got += port.read(100, 5)
    assert got == b"\0xyz"
    assert port.read(100, 0.01) == b""
    os.close(slave)
    os.close(master)
    with pytest.raises(LinkLost):
        for _ in range(3):
            port.read(1, 0.01)
            port.write(b"x")
    port.close()


def test_serial_line_to_a_board(board: TcpBoard) -> None:
    """The whole way through a terminal device, as pyserial has it."""
    from edge.firmware_bridge.device import Device

    master, slave = pty.openpty()
    number = int(board.address.rpartition(":")[2])
    line = socket.create_connection(("127.0.0.1", number))

    def copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        with contextlib.suppress(OSError):
            while data := read(4096):
                write(data)

    threading.Thread(target=copy, args=(lambda n: os.read(master, n), line.sendall), daemon=True).start()
    threading.Thread(target=copy, args=(line.recv, lambda data: os.write(master, data)), daemon=True).start()
    with Device.open(os.ttyname(slave)) as device:
        device.write_inputs(bytes(device.info.input_bytes))
        assert len(device.run()[0]) == device.info.output_bytes
        assert device.stats().damaged == 0
    line.close()
    os.close(slave)
    os.close(master)


def test_key(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    made = json.loads(run_edge("firmware", "key", path, "--json").stdout)
    assert path.stat().st_mode & 0o777 == 0o600
    key = read_key(path)
    assert (made["public"], made["id"]) == (key.public.hex(), key.id.hex())
    assert "exists; a key that devices know is never written over" in refusal("firmware", "key", path)
    path.chmod(0o644)
    with pytest.raises(BadFile, match="others can read this key: chmod 600"):
        read_key(path)
    path.chmod(0o600)
    for text in ("{}", "[]", "x" * 5000, path.read_text().replace("edge-firmware-key", "other")):
        path.write_text(text)
        with pytest.raises(BadFile, match="no firmware key"):
            read_key(path)
    with pytest.raises(EdgeError, match="cannot be written"):
        write_key(tmp_path / "none" / "b.key", key)


def test_gateway(board: TcpBoard, tmp_path: Path) -> None:
    place = tmp_path / "gateway"
    command = [sys.executable, "-m", "edge.sdk.cli", "firmware", "gateway", "--board", f"door={board.address}"]
    process = subprocess.Popen(
        [*command, "--unix", str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == f"gateway://{place}/door\n"
        assert process.stderr.readline() == "door: up\n"
        document = json.loads(run_edge("firmware", "info", f"gateway://{place}/door", "--json").stdout)
        assert document["model"] == "old"
        rows = json.loads(run_edge("firmware", "gateway", "--list", f"gateway://{place}", "--json").stdout)["boards"]
        assert [(row["name"], row["up"]) for row in rows] == [("door", True)]
        assert "door" in run_edge("firmware", "gateway", "--list", f"gateway://{place}").stdout
        assert "has no board 'gate': it has door" in refusal("firmware", "info", f"gateway://{place}/gate")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "nobody" in refusal("firmware", "info", f"gateway://{place}/door")


def test_gateway_options(tmp_path: Path) -> None:
    for words, text in (
        ((), "give a board by --board or --config"),
        (("--board", "x"), "expected NAME=ADDRESS"),
    ):
        result = run_edge("firmware", "gateway", *words, check=False)
        assert result.returncode == 2 and text in result.stderr
    assert "expected HOST:PORT" in refusal("firmware", "gateway", "--board", "a=socket://127.0.0.1:1", "--tcp", "x")
