"""What goes wrong between a host and a board."""

from __future__ import annotations

from edge.runtime.errors import EdgeError


class LinkLost(EdgeError):
    """The port is busy or gone, or nothing answers on it."""


class Refused(EdgeError):
    """The device understood a command and did not do it.

    Attributes:
        status: an `edge.firmware_bridge.messages.Status`, or the number of one that this version does not know.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status
