"""A gateway owns the serial links of several boards and offers each as a device to the rest of the SDK.

    with Gateway({"door": "/dev/ttyUSB0", "window": "/dev/ttyUSB1"}) as gateway:
        gateway.listen_unix(Path("/run/edge/gateway"))        connect("gateway:///run/edge/gateway/door")
        with gateway.connect("window") as model: ...          in this process

A link that drops is opened again, with longer and longer pauses; a client that has the board meanwhile keeps its
connection, and its requests, which it repeats, are answered when the board is back. A board is one client's at a time.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edge.firmware_bridge.errors import LinkLost
from edge.firmware_bridge.gateway_protocol import read_line, write_line
from edge.firmware_bridge.link import Link
from edge.firmware_bridge.messages import Command, Info
from edge.firmware_bridge.port import Port, SocketPort, open_port
from edge.runtime.errors import BadInput, EdgeError
from edge.runtime.fields import reason

if TYPE_CHECKING:
    from edge.firmware_bridge.remote_model import RemoteModel
    from edge.firmware_bridge.signature import FirmwareKey

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
CHECK_SECONDS = 2.0
"""How often a board that nobody uses is asked whether it is there."""
_ANSWER_SECONDS = 3.0
_READ_SECONDS = 0.05
_MAX_BOARDS = 256


@dataclass(frozen=True)
class BoardState:
    """What a gateway knows of a board.

    Args:
        name, address: as the gateway was told.
        up: whether the board answers.
        why: what is wrong where it does not.
        used: whether a client has it.
        drops: how often the link was lost.
        info: what the board said of itself last, or None.
    """

    name: str
    address: str
    up: bool
    why: str
    used: bool
    drops: int
    info: Info | None

    def to_dict(self) -> dict[str, object]:
        """The state as JSON-ready values."""
        info = self.info
        return {
            "name": self.name,
            "address": self.address,
            "up": self.up,
            "why": self.why,
            "used": self.used,
            "drops": self.drops,
            "board": info.board if info else None,
            "device_id": info.device_id.hex() if info else None,
            "model": info.model if info else None,
            "sequence": info.running_sequence if info else None,
        }


class BoardLink:
    """The link to one board, kept by a thread of its own."""

    def __init__(self, name: str, address: str, opener: Callable[[str], Port]) -> None:
        self.name, self.address = name, address
        self._opener = opener
        self._lock = threading.Lock()
        self._port: Port | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._info: Info | None = None
        self._why = "not opened yet"
        self._drops = 0
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"link to {name}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> BoardState:
        """What is known of the board now."""
        with self._lock:
            up, used = self._port is not None, self._sink is not None
            return BoardState(self.name, self.address, up, "" if up else self._why, used, self._drops, self._info)

    def attach(self, sink: Callable[[bytes], None]) -> None:
        """Gives the line to a client, which `sink` passes the board's bytes to.

        Raises:
            LinkLost: another client has it.
        """
        with self._lock:
            if self._sink is not None:
                raise LinkLost(f"{self.name}: the board is busy: another client of the gateway has it")
            self._sink = sink

    def detach(self) -> None:
        """Takes the line back."""
        with self._lock:
            self._sink = None

    def write(self, data: bytes) -> None:
        """Sends a client's bytes; while the link is down they are lost, and the client repeats them."""
        with self._lock:
            port = self._port
        if port is not None:
            with suppress(EdgeError):
                port.write(data)

    def close(self) -> None:
        """Lets the port go."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            port = None
            try:
                port = self._opener(self.address)
                info = self._ask_info(port)
                pause = FIRST_PAUSE
                with self._lock:
                    self._port, self._info = port, info
                self._pump(port)
            except EdgeError as error:
                self._note_down(str(error))
            except Exception as error:  # a driver's own: this link must go on
                self._note_down(f"{self.address}: {reason(error)}")
            finally:
                if port is not None:
                    with suppress(Exception):
                        port.close()
            self._wake.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._note_down("closed")

    def _note_down(self, why: str) -> None:
        with self._lock:
            self._drops += self._port is not None
            self._port, self._why = None, why

    def _ask_info(self, port: Port) -> Info:
        return Info.unpack(Link(port, self.address).ask(Command.INFO, timeout=_ANSWER_SECONDS))

    def _pump(self, port: Port) -> None:
        """Passes the board's bytes on, and looks after it while nobody uses it, until the link is lost."""
        checked = time.monotonic()
        while not self._closing.is_set():
            with self._lock:
                sink = self._sink
                due = sink is None and time.monotonic() - checked > CHECK_SECONDS
            if due:
                info = self._ask_info(port)
                checked = time.monotonic()
                with self._lock:
                    self._info = info
                continue
            data = port.read(4096, _READ_SECONDS)
            if data and sink is not None:
                with suppress(OSError, EdgeError):  # its thread finds out and detaches
                    sink(data)
                checked = time.monotonic()


class _InProcessPort:
    """A board's line for a client in the gateway's process."""

    def __init__(self, link: BoardLink) -> None:
        self._link = link
        self._came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        link.attach(self._came.put)

    def read(self, size: int, timeout: float) -> bytes:
        # All that came at once: it is never much, and the reader takes what it gets.
        try:
            return self._came.get(timeout=max(timeout, 1e-3))
        except queue.Empty:
            return b""

    def write(self, data: bytes) -> None:
        self._link.write(data)

    def close(self) -> None:
        self._link.detach()


class Gateway:
    """Owns the links to boards, by name; a context manager."""

    def __init__(self, boards: Mapping[str, str], *, opener: Callable[[str], Port] = open_port) -> None:
        """
        Args:
            boards: addresses (`edge.firmware_bridge.port`) by name.
            opener: opens an address.

        Raises:
            BadInput: no boards, too many, a name with a slash or an address that occurs twice.
        """
        if not 1 <= len(boards) <= _MAX_BOARDS:
            raise BadInput(f"a gateway has 1 to {_MAX_BOARDS} boards, not {len(boards)}")
        for name, address in boards.items():
            if not name or "/" in name or not name.isprintable():
                raise BadInput(f"board {name!r}: expected a name without slashes")
            if list(boards.values()).count(address) > 1:
                raise BadInput(f"{address}: given to two boards")
        self._links = {name: BoardLink(name, address, opener) for name, address in boards.items()}
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closing = False

    def devices(self) -> list[BoardState]:
        """What is known of every board."""
        return [link.state for link in self._links.values()]

    def port(self, name: str) -> Port:
        """The line of a board, for a client in this process.

        Raises:
            LinkLost: there is no such board, or another client has it.
        """
        return _InProcessPort(self._link(name))

    def connect(self, name: str, key: FirmwareKey | None = None) -> RemoteModel:
        """The model on a board: see `edge.firmware_bridge.connect`.

        Raises:
            LinkLost: there is no such board, another client has it, or it does not answer.
            Refused: it runs no model.
        """
        from edge.firmware_bridge.device import Device
        from edge.firmware_bridge.remote_model import model_of

        port = self.port(name)
        try:
            return model_of(Device(port, name, key))
        except BaseException:
            port.close()
            raise

    def wait_until_up(self, timeout: float = 30.0) -> bool:
        """Whether all boards answer, at the latest after `timeout` seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if all(state.up for state in self.devices()):
                return True
            time.sleep(0.02)
        return False

    def listen_unix(self, path: Path) -> str:
        """Serves clients of this user over a Unix socket; gives the address of which "/NAME" is a board.

        Raises:
            EdgeError: there is no place for it, or another gateway has it.
        """
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_dead(path)
            made.bind(str(path))
            path.chmod(0o600)
            made.listen()
        except OSError as error:
            made.close()
            raise EdgeError(f"{path}: cannot listen there: {reason(error)}") from None
        self._serve(made)
        return f"gateway://{path.absolute()}"

    def listen_tcp(self, host: str, number: int) -> str:
        """Serves whoever reaches this port; gives the address of which "/NAME" is a board.

        Whoever connects can run models; changing a device takes its owner's key, which the device itself checks.

        Raises:
            EdgeError: the port is taken, or not this machine's.
        """
        try:
            made = socket.create_server((host, number))
        except OSError as error:
            raise EdgeError(f"{host}:{number}: cannot listen there: {reason(error)}") from None
        self._serve(made)
        return f"gateway://{host}:{made.getsockname()[1]}"

    def close(self) -> None:
        """Ends all connections and lets the ports go."""
        self._closing = True
        for listener in self._listeners:
            with suppress(OSError):
                # Wakes the thread that waits in accept.
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for link in self._links.values():
            link.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _link(self, name: str) -> BoardLink:
        if name not in self._links:
            known = ", ".join(self._links)
            raise LinkLost(f"the gateway has no board {name[:60]!r}: it has {known}")
        return self._links[name]

    def _serve(self, listener: socket.socket) -> None:
        self._listeners.append(listener)
        thread = threading.Thread(target=self._accept, args=(listener,), name="gateway", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._attend, args=(client,), name="gateway client", daemon=True).start()

    def _attend(self, client: socket.socket) -> None:
        """One client, from its greeting to its end."""
        port = SocketPort("client", client)
        try:
            asked = read_line(port, "client")
            if asked.get("list") is True:
                write_line(port, {"devices": [state.to_dict() for state in self.devices()]})
                return
            try:
                link = self._link(str(asked.get("open")))
                link.attach(client.sendall)
            except LinkLost as error:
                write_line(port, {"error": str(error)})
                return
            try:
                write_line(port, {"ok": True})
                while not self._closing:
                    if data := port.read(4096, 1.0):
                        link.write(data)
            finally:
                link.detach()
        except EdgeError:
            pass  # it went away
        finally:
            port.close()


def _remove_dead(path: Path) -> None:
    """Removes the socket of a gateway that is gone."""
    if not path.is_socket():
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise EdgeError(f"{path}: another gateway listens there")
    finally:
        probe.close()


def read_boards(path: Path) -> dict[str, str]:
    """The boards in a gateway's TOML file: a table [boards] of addresses by name.

    Raises:
        BadFile: missing, no TOML, or with something else in it.
    """
    import sys

    from edge.runtime.errors import BadFile

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BadFile(f"{path}: cannot be read: {reason(error)}") from None
    boards = data.get("boards")
    if set(data) != {"boards"} or not isinstance(boards, dict):
        raise BadFile(f'{path}: expected a table [boards] with lines NAME = "ADDRESS", and nothing else')
    for name, address in boards.items():
        if not isinstance(address, str):
            raise BadFile(f"{path}: boards.{name}: expected an address in quotes")
    return dict(boards)
