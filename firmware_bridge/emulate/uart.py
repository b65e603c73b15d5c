"""The serial ports of the unicorn boards, register by register, as far as firmware/drivers uses them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Line:
    """The bytes between a board and its host."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._to_board: deque[int] = deque()
        self._to_host = bytearray()
        self._open = True

    def waiting(self) -> bool:
        """Whether the board has a byte to read."""
        return bool(self._to_board)

    def take(self) -> int:
        """The board reads a byte; 0 where there is none."""
        try:
            return self._to_board.popleft()
        except IndexError:
            return 0

    def put(self, byte: int) -> None:
        """The board sends a byte."""
        with self._changed:
            self._to_host.append(byte & 0xFF)
            self._changed.notify_all()

    def wait_for_board(self, seconds: float) -> None:
        """The board sleeps until a byte is there for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._to_board or not self._open, seconds)

    def wake(self) -> None:
        """Ends everyone's waiting."""
        with self._changed:
            self._changed.notify_all()

    def send(self, data: bytes) -> None:
        """The host sends."""
        with self._changed:
            self._to_board.extend(data)
            self._changed.notify_all()

    def receive(self, size: int, timeout: float | None) -> bytes:
        """The host reads, as EmulatedBoard.read says."""
        with self._changed:
            self._changed.wait_for(lambda: self._to_host or not self._open, timeout)
            taken = bytes(self._to_host[:size])
            del self._to_host[:size]
            return taken

    def clear(self) -> None:
        """Drops what is under way."""
        with self._changed:
            self._to_board.clear()
            self._to_host.clear()

    def cut(self) -> None:
        """Nothing comes any more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


class Uart(Protocol):
    """Registers."""

    def read(self, offset: int) -> int:
        """The CPU reads the register at `offset`."""

    def write(self, offset: int, value: int) -> None:
        """The CPU writes it."""


class Cmsdk:
    """drivers/cmsdk.h."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def read(self, offset: int) -> int:
        if offset == 0x00:
            return self._line.take()
        return 2 if offset == 0x04 and self._line.waiting() else 0

    def write(self, offset: int, value: int) -> None:
        if offset == 0x00:
            self._line.put(value)


class Pl011:
    """drivers/pl011.h."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def read(self, offset: int) -> int:
        if offset == 0x00:
            return self._line.take()
        return 0x10 if offset == 0x18 and not self._line.waiting() else 0

    def write(self, offset: int, value: int) -> None:
        if offset == 0x00:
            self._line.put(value)


class Nrf:
    """drivers/nrf.h."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def read(self, offset: int) -> int:
        if offset == 0x108:
            return int(self._line.waiting())
        if offset == 0x518:
            return self._line.take()
        return int(offset == 0x11C)

    def write(self, offset: int, value: int) -> None:
        if offset == 0x51C:
            self._line.put(value)


class Ns16550:
    """drivers/ns16550.h."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def read(self, offset: int) -> int:
        if offset == 0:
            return self._line.take()
        return 0x20 | int(self._line.waiting()) if offset == 5 else 0

    def write(self, offset: int, value: int) -> None:
        if offset == 0:
            self._line.put(value)


UARTS: dict[str, Callable[[Line], Uart]] = {"cmsdk": Cmsdk, "pl011": Pl011, "nrf": Nrf, "ns16550": Ns16550}
