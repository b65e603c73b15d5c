"""Byte pipes to boards: serial ports, sockets, emulated boards, and a gateway's, opened by their address.

/dev/ttyUSB0, COM3                a serial port
socket://HOST:PORT                a serial line over TCP
emulate:BOARD:FILE                an emulated board that starts with this firmware (ELF or .bin)
gateway://HOST:PORT/NAME          a board of a gateway, over TCP
gateway:///PATH/OF/SOCKET/NAME    the same over a Unix socket
"""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from edge.firmware_bridge.errors import LinkLost
from edge.runtime.errors import BadInput
from edge.runtime.fields import reason

if TYPE_CHECKING:
    import socket

BAUD = 115200
_CONNECT_SECONDS = 5.0
_BUSY = {errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK}
_GONE = {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO}


class Port(Protocol):
    """A pipe of bytes to one board, for one user at a time."""

    def read(self, size: int, timeout: float) -> bytes:
        """Waits for at most `timeout` seconds; gives at most `size` bytes, and none where no byte came.

        Raises:
            LinkLost: the port is gone.
        """

    def write(self, data: bytes) -> object:
        """Sends all of `data`.

        Raises:
            LinkLost: the port is gone.
        """

    def close(self) -> None:
        """Lets the port go; it is not used afterwards."""


def open_port(address: str, *, baud: int = BAUD) -> Port:
    """Opens the port at an address; the module's docstring lists the kinds.

    Raises:
        BadInput: no address of a known kind.
        BadFile: the firmware for an emulated board is damaged or missing.
        LinkLost: the port is busy or gone, or nobody listens.
        MissingDependency: the emulator is not installed.
    """
    if address.startswith("emulate:"):
        return _open_emulated(address)
    if address.startswith("gateway:"):
        return _open_gateway(address)
    if address.startswith("socket:"):
        parts = urlsplit(address)
        host, number = parts.hostname, _port_number(parts, address)
        if not host or number is None or parts.path not in ("", "/"):
            raise BadInput(f"{address}: expected socket://HOST:PORT")
        return SocketPort(address, _connect_tcp(address, host, number))
    if not address or "://" in address:
        raise BadInput(f"{address!r}: expected a serial port, socket://HOST:PORT, emulate:BOARD:FILE or gateway://…")
    return SerialPort(address, baud)


class SerialPort:
    """A serial port of this machine, which nobody else can open meanwhile."""

    def __init__(self, address: str, baud: int) -> None:
        import serial

        self._address = address
        self._gone = (serial.SerialException, OSError)
        try:
            self._serial: Any = serial.Serial(address, baud, timeout=0, write_timeout=10, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise _lost(address, error) from None

    def read(self, size: int, timeout: float) -> bytes:
        try:
            if waiting := self._serial.in_waiting:
                return bytes(self._serial.read(min(size, waiting)))
            self._serial.timeout = timeout
            first = bytes(self._serial.read(1))
            return first + bytes(self._serial.read(min(size - 1, self._serial.in_waiting))) if first else b""
        except self._gone as error:
            raise _lost(self._address, error) from None

    def write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except self._gone as error:
            raise _lost(self._address, error) from None

    def close(self) -> None:
        self._serial.close()


class SocketPort:
    """A connected stream socket."""

    def __init__(self, address: str, connection: socket.socket) -> None:
        self._address = address
        self._socket = connection

    def read(self, size: int, timeout: float) -> bytes:
        try:
            self._socket.settimeout(max(timeout, 1e-3))
            got = self._socket.recv(size)
        except TimeoutError:
            return b""
        except OSError as error:
            raise _lost(self._address, error) from None
        if not got:
            raise LinkLost(f"{self._address}: the other end closed the connection")
        return got

    def write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(10)
            self._socket.sendall(data)
        except OSError as error:
            raise _lost(self._address, error) from None

    def close(self) -> None:
        self._socket.close()


class EmulatedPort:
    """A board that runs in this process."""

    def __init__(self, address: str, board: Any) -> None:
        self._address = address
        self.board = board

    def read(self, size: int, timeout: float) -> bytes:
        got = bytes(self.board.read(size, timeout))
        if not got and not self.board.powered:
            raise LinkLost(f"{self._address}: the emulated board has no power")
        return got

    def write(self, data: bytes) -> None:
        if not self.board.powered:
            raise LinkLost(f"{self._address}: the emulated board has no power")
        self.board.write(data)

    def close(self) -> None:
        self.board.close()


def _open_emulated(address: str) -> Port:
    _, name, file = (*address.split(":", 2), "", "")[:3]
    if not name or not file:
        raise BadInput(f"{address}: expected emulate:BOARD:FILE")
    from edge.firmware_bridge.emulate import start_board

    # What the board learns and is sent is kept beside its firmware, as a real board keeps it.
    firmware = Path(file)
    return EmulatedPort(address, start_board(name, firmware, storage=firmware.with_name(f"{firmware.name}.storage")))


def _open_gateway(address: str) -> Port:
    from edge.firmware_bridge.gateway_protocol import greet

    place, _, name = address.rpartition("/")
    if not name or place in ("gateway:", "gateway:/", "gateway://"):
        raise BadInput(f"{address}: expected gateway://HOST:PORT/NAME or gateway:///PATH/OF/SOCKET/NAME")
    port = open_gateway(place)
    try:
        greet(port, name, address)
    except BaseException:
        port.close()
        raise
    return port


def open_gateway(address: str) -> Port:
    """A connection to the gateway at "gateway://HOST:PORT" or "gateway:///PATH", before anything is said.

    Raises:
        BadInput: no such address.
        LinkLost: nobody listens there.
    """
    parts = urlsplit(address)
    if parts.hostname:
        number = _port_number(parts, address)
        if number is not None and parts.path in ("", "/"):
            return SocketPort(address, _connect_tcp(address, parts.hostname, number))
    elif parts.path:
        return SocketPort(address, _connect_unix(address, parts.path))
    raise BadInput(f"{address}: expected gateway://HOST:PORT or gateway:///PATH/OF/SOCKET")


def _port_number(parts: Any, address: str) -> int | None:
    try:
        number: int | None = parts.port
    except ValueError:
        raise BadInput(f"{address}: its port is no number from 1 to 65535") from None
    return number


def _connect_tcp(address: str, host: str, number: int) -> socket.socket:
    import socket

    try:
        made = socket.create_connection((host, number), timeout=_CONNECT_SECONDS)
        # Requests are small and each waits for its answer.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise _lost(address, error) from None
    return made


def _connect_unix(address: str, path: str) -> socket.socket:
    import socket

    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(_CONNECT_SECONDS)
    try:
        made.connect(path)
    except OSError as error:
        made.close()
        raise _lost(address, error) from None
    return made


def _lost(address: str, error: BaseException) -> LinkLost:
    """What happened to the port, in one line."""
    number = getattr(error, "errno", None)
    text = str(error).lower()
    if number in _BUSY or "lock" in text or "busy" in text:
        return LinkLost(f"{address}: the port is busy: another program has it open")
    if number == errno.EACCES:
        return LinkLost(f"{address}: you may not open the port: add yourself to the group that owns it (often dialout)")
    if number in _GONE or "disconnected" in text:
        return LinkLost(f"{address}: the port is gone: is the board plugged in? (edge firmware ports)")
    if number == errno.ECONNREFUSED:
        return LinkLost(f"{address}: nobody listens there")
    return LinkLost(f"{address}: {reason(error)}")


def wait_for_bytes(port: Port, size: int, until: float) -> bytes:
    """Reads at most `size` bytes; none after the moment `until` (time.monotonic)."""
    return port.read(size, max(0.0, until - time.monotonic()))
