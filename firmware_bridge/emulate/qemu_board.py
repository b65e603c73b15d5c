"""A board that is one of QEMU's machines, in a process of its own: its serial port is a socket, its power a monitor's.

The image's code is loaded as QEMU loads plain bytes, and the storage from its file, because machines without a flash
model keep both in memory. Where the firmware resets the board, QEMU would load those first bytes again; so the machine
is stopped instead, its storage read out, and another one started on it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from edge.firmware_bridge.board import Board
from edge.firmware_bridge.cpu import CPUS
from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.firmware_bridge.image import Image, first_storage
from edge.runtime.errors import BadFile, BadInput, EdgeError, MissingDependency

PROGRAMS = {"arm": "qemu-system-arm", "riscv": "qemu-system-riscv32"}
PACKAGES = {"arm": "qemu-system-arm", "riscv": "qemu-system-misc"}
_START_SECONDS = 30.0


class QemuBoard(EmulatedBoard):
    """See EmulatedBoard; instructions are not counted, and power is cut at once or not at all."""

    def __init__(self, board: Board, image: Image, storage: Path | None) -> None:
        """Powers the board on.

        Raises:
            MissingDependency: QEMU is not installed.
            BadFile: The storage file cannot be opened.
            BadInput: The storage file is of another size.
            EdgeError: QEMU does not start; the message has its words.
        """
        assert board.qemu is not None
        arch = CPUS[board.cpu].arch
        program = shutil.which(PROGRAMS[arch])
        if program is None:
            raise MissingDependency(f"{PROGRAMS[arch]} is not installed: apt-get install {PACKAGES[arch]}")
        self.name = board.name
        self.faults: list[str] = []
        self.resets = 0
        self._program = program
        self._board = board
        self._qemu = board.qemu
        self._folder = tempfile.TemporaryDirectory(prefix="edge-qemu-")
        folder = Path(self._folder.name)
        self._code_file = folder / "code.bin"
        self._code_file.write_bytes(image.code)
        self._storage_file = storage or folder / "storage.bin"
        self._changed = threading.Condition()
        self._received = bytearray()
        self._powered = False
        self._closing = False
        try:
            self._prepare_storage(first_storage(board, image))
            self._machine = self._start()
        except BaseException:
            self._folder.cleanup()
            raise
        self._thread = threading.Thread(target=self._watch, name=f"QEMU {board.name}", daemon=True)
        self._thread.start()

    def read(self, size: int = 1, timeout: float | None = None) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._received or not self._powered, timeout)
            taken = bytes(self._received[:size])
            del self._received[:size]
            return taken

    def write(self, data: bytes) -> int:
        # While the machine is being started again, bytes are lost as on a real line.
        with contextlib.suppress(OSError):
            self._machine.serial.sendall(data)
        return len(data)

    @property
    def powered(self) -> bool:
        return self._powered

    @property
    def instructions(self) -> int:
        raise BadInput("QEMU counts no instructions: use the emulator unicorn")

    def reset(self) -> None:
        self._machine.command("system_reset")

    def cut_power(
        self, *, after_storage_operations: int | None = None, after_instructions: int | None = None, seed: int = 0
    ) -> None:
        if after_storage_operations is not None or after_instructions is not None:
            raise BadInput("QEMU's power can only be cut at once: use the emulator unicorn")
        self._end()

    def storage(self) -> bytes:
        if self._powered and self._qemu.storage == "saved":
            with self._changed:
                self._machine.save(self._board.storage.origin, self._board.storage.bytes, self._storage_file)
        return self._storage_file.read_bytes()[: self._board.storage.bytes]

    def memory(self, address: int, count: int) -> bytes:
        path = Path(self._folder.name) / "memory.bin"
        self._machine.save(address, count, path)
        return path.read_bytes()

    def close(self) -> None:
        self._end()
        self._folder.cleanup()

    def _prepare_storage(self, first: bytes) -> None:
        path, size = self._storage_file, self._board.storage.bytes
        memory = self._qemu.memory
        try:
            if not path.exists():
                path.write_bytes(first)
            length = path.stat().st_size
            if length < size:
                raise BadInput(f"{path}: {length:,} bytes, but the storage has {size:,}: is it another board's?")
            if memory is not None and length < memory.bytes:
                with path.open("r+b") as file:
                    file.truncate(memory.bytes)  # sparse
        except OSError as error:
            raise BadFile(f"{path}: cannot be opened as storage ({error.strerror or error})") from error

    def _start(self) -> _Machine:
        qemu, board = self._qemu, self._board
        machine = qemu.machine
        options = list(qemu.options)
        options += ["-device", f"loader,file={self._code_file},addr={board.flash.origin:#x},force-raw=on"]
        if qemu.memory is not None:
            machine += ",memory-backend=storage"
            options += ["-object"]
            options += [
                f"memory-backend-file,id=storage,size={qemu.memory.bytes},mem-path={self._storage_file},share=on"
            ]
        else:
            options += ["-device", f"loader,file={self._storage_file},addr={board.storage.origin:#x},force-raw=on"]
        started = _Machine([self._program, "-machine", machine, *options])
        self._powered = True
        return started

    def _watch(self) -> None:
        """Takes what the board sends; starts the next machine where one has reset itself."""
        while True:
            data = self._machine.receive()
            if data:
                with self._changed:
                    self._received += data
                    self._changed.notify_all()
            elif not self._closing and self._machine.was_reset:
                self._keep_storage()
                self._machine.kill()
                self.resets += 1
                try:
                    self._machine = self._start()
                except EdgeError as error:
                    self.faults.append(str(error))
                    break
            else:
                break
        with self._changed:
            self._powered = False
            self._changed.notify_all()

    def _keep_storage(self) -> None:
        if self._qemu.storage == "saved":
            self._machine.save(self._board.storage.origin, self._board.storage.bytes, self._storage_file)

    def _end(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._powered:
            with contextlib.suppress(EdgeError):
                self._machine.command("stop")
                self._keep_storage()
        self._machine.kill()
        self._thread.join()


class _Machine:
    """A process of QEMU's, its serial line and its monitor."""

    def __init__(self, words: list[str]) -> None:
        self.was_reset = False
        self._lock = threading.Lock()
        self._answers: list[dict[str, Any]] = []
        self._answered = threading.Condition()
        with _listen() as serial, _listen() as monitor:
            words = [*words, "-display", "none", "-action", "reboot=shutdown,shutdown=pause"]
            for name, listener in (("line", serial), ("monitor", monitor)):
                port = listener.getsockname()[1]
                words += ["-chardev", f"socket,id={name},host=127.0.0.1,port={port},nodelay=on"]
            words += ["-serial", "chardev:line", "-mon", "chardev=monitor,mode=control"]
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                self.serial = self._accept(serial)
                self._monitor = self._accept(monitor)
            except BaseException:
                self._process.kill()
                self._process.wait()
                raise
        self._reader = threading.Thread(target=self._read_monitor, daemon=True)
        self._reader.start()
        self.command("qmp_capabilities")

    def receive(self) -> bytes:
        """What the board sent; b"" where the machine stopped."""
        try:
            return self.serial.recv(65536)
        except OSError:
            return b""

    def command(self, name: str, **arguments: object) -> None:
        """Has the monitor do something.

        Raises:
            EdgeError: It cannot, or QEMU is gone.
        """
        with self._lock, self._answered:
            self._answers.clear()
            try:
                self._monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            except OSError as error:
                raise EdgeError("QEMU is gone") from error
            if not self._answered.wait_for(lambda: bool(self._answers), _START_SECONDS):
                raise EdgeError(f"QEMU does not answer to {name}")
            answer = self._answers[0]
        if "error" in answer:
            raise EdgeError(f"QEMU: {answer['error'].get('desc', name)}")

    def save(self, address: int, count: int, path: Path) -> None:
        """Writes memory, as the CPU sees it, to a file."""
        self.command("memsave", val=address, size=count, filename=str(path))

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        for side in (self.serial, self._monitor):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _read_monitor(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._monitor.makefile("rb"):
                message = json.loads(line)
                if message.get("event") == "SHUTDOWN":
                    self.was_reset = True
                    with contextlib.suppress(OSError):
                        self.serial.shutdown(socket.SHUT_RD)
                elif "return" in message or "error" in message:
                    with self._answered:
                        self._answers.append(message)
                        self._answered.notify_all()
        with self._answered:
            self._answers.append({"error": {"desc": "it is gone"}})
            self._answered.notify_all()

    def _accept(self, listener: socket.socket) -> socket.socket:
        end = time.monotonic() + _START_SECONDS
        listener.settimeout(0.1)
        while True:
            try:
                side, _ = listener.accept()
            except TimeoutError:
                if self._process.poll() is not None:
                    assert self._process.stderr is not None
                    words = self._process.stderr.read().decode(errors="replace").strip()
                    raise EdgeError(f"QEMU does not start: {words[-300:]}") from None
                if time.monotonic() > end:
                    raise EdgeError("QEMU does not start") from None
                continue
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return side


def _listen() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    return listener
