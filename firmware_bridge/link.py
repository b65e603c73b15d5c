"""Requests to one device and its answers: sequence numbers, retries, the challenge behind commands that change it."""

from __future__ import annotations

import secrets
import time
from typing import NoReturn

from edge.firmware_bridge.errors import LinkLost, Refused
from edge.firmware_bridge.frames import ANSWER, PROTOCOL_VERSION, Frame, FrameReader
from edge.firmware_bridge.messages import FIRST_AUTHENTICATED, Command, Status, status_text
from edge.firmware_bridge.port import Port, wait_for_bytes
from edge.firmware_bridge.signature import link_mac
from edge.runtime.errors import BadInput

# A retry costs the device nothing but its last answer, so the first ones may come soon.
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 4.0
_READ_BYTES = 4096


class Link:
    """The line to one device, for one thread at a time.

    Attributes:
        retries: requests that were sent again because no answer came.
    """

    def __init__(self, port: Port, address: str) -> None:
        self._port = port
        self._address = address
        self._reader = FrameReader()
        # Numbers that no other program used shortly before: the device takes a repeated one for a retry.
        self._sequence = secrets.randbits(32)
        self._secret: bytes | None = None
        self._nonce: bytes | None = None
        self._counter = 0
        self.retries = 0

    @property
    def address(self) -> str:
        """Of the port."""
        return self._address

    def give_secret(self, secret: bytes) -> None:
        """Lets commands be authenticated from now on."""
        self._secret, self._nonce = secret, None

    def ask(self, command: Command, body: bytes = b"", *, timeout: float = 10.0) -> bytes:
        """Sends a request until its answer comes, and gives the answer's body.

        A command that changes the device is authenticated, and sent under a new challenge where the device has
        forgotten the old one, because it started again.

        Args:
            timeout: seconds, of all tries together.

        Raises:
            LinkLost: no answer came, or the port is gone.
            Refused: the device says why it does not do it.
            BadInput: the command must be authenticated, and no secret was given.
        """
        if command < FIRST_AUTHENTICATED:
            return self._exchange(command, b"", body, timeout)
        for attempt in range(2):
            try:
                return self._exchange(command, self._counter_bytes(timeout), body, timeout)
            except Refused as refusal:
                if attempt or refusal.status not in (Status.NOT_CHALLENGED, Status.REPLAYED, Status.NOT_AUTHENTIC):
                    raise
                self._nonce = None
        raise AssertionError

    def close(self) -> None:
        """Closes the port."""
        self._port.close()

    def _counter_bytes(self, timeout: float) -> bytes:
        if self._secret is None:
            raise BadInput(f"{self._address}: this changes the device: give its owner's key (--key FILE, or key=)")
        if self._nonce is None:
            self._nonce = self._exchange(Command.CHALLENGE, b"", b"", timeout)
            self._counter = 0
        self._counter += 1
        return self._counter.to_bytes(4, "little")

    def _exchange(self, command: Command, counter: bytes, body: bytes, timeout: float) -> bytes:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        request = Frame(command, self._sequence, body)
        if counter:
            assert self._secret is not None and self._nonce is not None
            mac = link_mac(self._secret, self._nonce + request.header + counter + body)
            request = Frame(command, self._sequence, counter + mac + body)
        encoded = request.encode()
        end = time.monotonic() + timeout
        wait = _FIRST_WAIT
        while True:
            self._port.write(encoded)
            answer = self._wait_for(request, min(end, time.monotonic() + wait))
            if answer is not None:
                break
            if time.monotonic() >= end:
                raise LinkLost(
                    f"{self._address}: no answer in {timeout:g} s: is our firmware there, and no other program on it?"
                )
            self.retries += 1
            wait = min(2 * wait, _LONGEST_WAIT)
        if answer.status != Status.DONE:
            self._refused(answer)
        return answer.body

    def _wait_for(self, request: Frame, until: float) -> Frame | None:
        while True:
            for frame in self._reader.feed(wait_for_bytes(self._port, _READ_BYTES, until)):
                if frame.command == request.command | ANSWER and frame.sequence == request.sequence:
                    return frame
            if time.monotonic() >= until:
                return None

    def _refused(self, answer: Frame) -> NoReturn:
        said = answer.body.decode("ascii", "replace")
        said = "".join(c if c.isprintable() else "?" for c in said) or status_text(answer.status)
        where = f"{self._address}: "
        if answer.status == Status.WRONG_VERSION or answer.version != PROTOCOL_VERSION:
            age = "older" if answer.version < PROTOCOL_VERSION else "newer"
            fix = "flash new firmware" if age == "older" else "update edge-deploy"
            raise Refused(
                f"{where}its firmware is {age} than this protocol (version {answer.version}, "
                f"here {PROTOCOL_VERSION}): {fix}",
                answer.status,
            )
        if answer.status == Status.UNKNOWN_COMMAND:
            raise Refused(f"{where}its firmware is older than this command: {said}: flash new firmware", answer.status)
        raise Refused(f"{where}the device refused: {said}", answer.status)
