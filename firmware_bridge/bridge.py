"""An emulated board's serial line for other processes: on a TCP port, or on standard input and output."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable

from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.runtime.errors import EdgeError

_LOOK_SECONDS = 0.1


def serve_tcp(board: EmulatedBoard, port: int, ready: Callable[[str], None]) -> None:
    """Serves one connection after the other on 127.0.0.1 until the board has no power any more, or Ctrl-C.

    Args:
        board: A running board.
        port: Which port; 0 takes a free one.
        ready: Is told the URL that pyserial opens, "socket://127.0.0.1:PORT".

    Raises:
        EdgeError: The port is taken.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1)
        except OSError as error:
            raise EdgeError(f"port {port} cannot be served ({error.strerror or error}): choose another") from error
        listener.settimeout(_LOOK_SECONDS)
        ready(f"socket://127.0.0.1:{listener.getsockname()[1]}")
        with contextlib.suppress(KeyboardInterrupt):
            while board.powered:
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection:
                        _serve_connection(board, connection)


def serve_stdio(board: EmulatedBoard) -> None:
    """Copies standard input to the board and what it sends to standard output, until input ends and it is silent."""

    def feed() -> None:
        while data := os.read(sys.stdin.fileno(), 4096):
            board.write(data)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    with contextlib.suppress(KeyboardInterrupt):
        while board.powered:
            data = board.read(4096, _LOOK_SECONDS)
            if not data and not feeder.is_alive():
                return
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _serve_connection(board: EmulatedBoard, connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gone = threading.Event()

    def feed() -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                board.write(data)
        gone.set()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        while board.powered and not gone.is_set():
            data = board.read(4096, _LOOK_SECONDS)
            if data:
                connection.sendall(data)
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        feeder.join()
