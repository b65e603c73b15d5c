"""Devices of which two run: a copied folder, whose copies throw each other out at the broker."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger("edge.fleet.ingest")

_HOUR = 3600.0


class Twins:
    """Notices by the number of a device's start (`boot`): one that comes again after another is no restart."""

    def __init__(self) -> None:
        self._boots: dict[str, tuple[str, str]] = {}  # the one before, and the last
        self._told: dict[str, float] = {}

    def came(self, device: str, boot: str) -> bool:
        """Sees that a device has connected; returns whether that is told now: for each device once an hour at most."""
        before, last = self._boots.get(device, ("", ""))
        if boot == last:
            return False
        self._boots[device] = last, boot
        now = time.monotonic()
        if boot != before or now - self._told.get(device, -_HOUR) < _HOUR:
            return False
        self._told[device] = now
        _log.warning(
            "%s: two machines use its identity in turn: its folder was copied; give one of them its own (edge device "
            "enroll --again), or revoke it",
            device,
        )
        return True
