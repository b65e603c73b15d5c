"""Settings that a device's agent obeys, of all that an operator may want a device to be (`edge fleet shadow`)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.fleet.errors import FleetError
from edge.runtime.fields import shown

Value = float | int | str | bool

LOG_LEVELS = ("debug", "info", "warning", "error")


def heartbeat_of(value: Value) -> float:
    """The setting `heartbeat`, in seconds.

    Raises:
        FleetError: it is none that a device can keep.
    """
    if isinstance(value, bool | str) or not 0.1 <= value <= 86_400:
        raise FleetError(f"heartbeat: {shown(value)}: expected 0.1 to 86400 seconds")
    return float(value)


def log_level_of(value: Value) -> int:
    """The setting `log`, as `logging` counts levels.

    Raises:
        FleetError: there is no such level.
    """
    if value not in LOG_LEVELS:
        raise FleetError(f"log: {shown(value)}: expected one of {', '.join(LOG_LEVELS)}")
    return int(getattr(logging, str(value).upper()))


OBEYED: dict[str, Callable[[Value], object]] = {"heartbeat": heartbeat_of, "log": log_level_of}
"""Settings that the agent obeys, each with what refuses a value that no device can have."""
