"""The shadow of a device: what its operator wants it to be, as the device has taken it down.

The server keeps the desired settings and their version and sends both in a job `shadow`; the device keeps them in its
home's shadow.json, obeys them, and says so, which makes them the reported ones. What it cannot be it refuses, and stays
as it was. The agent obeys two settings itself:

    heartbeat   seconds between heartbeats, 0.1 to 86,400
    log         "debug", "info", "warning", "error"

All others are for the programs on the device, which read them with `DeviceShadow(home).read()`.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge.fleet.device.jobs import Report
from edge.fleet.errors import FleetError
from edge.fleet.messages import Desired, JobReport
from edge.fleet.settings import Value
from edge.runtime.whole_file import whole_file

_log = logging.getLogger("edge.fleet.device")
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Obeyed(Generic[_T]):
    read: Callable[[Value], _T]
    put: Callable[[_T], None]
    default: _T


class DeviceShadow:
    """The settings of a device, on its disk.

    Args:
        folder: the device's home.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shadow.json"
        self._lock = threading.Lock()
        self._obeyed: dict[str, _Obeyed[Any]] = {}

    def read(self) -> Desired:
        """What was applied last. A file that is damaged is told of, and counts as nothing."""
        try:
            return Desired.read(json.loads(self._path.read_text()), str(self._path))
        except FileNotFoundError:
            return Desired()
        except (OSError, ValueError, FleetError) as error:
            _log.warning("%s: damaged (%s): all settings are at their defaults", self._path, error)
            return Desired()

    def obey(self, name: str, read: Callable[[Value], _T], put: Callable[[_T], None], default: _T) -> None:
        """Has a setting do something: now, if there is one from an earlier start, and whenever it is changed.

        Args:
            name: of the setting.
            read: makes of a value what is to be put; raises `FleetError` where the device cannot have it.
            put: puts it into effect.
            default: what is put when the setting is taken away.
        """
        self._obeyed[name] = _Obeyed(read, put, default)
        value = self.read().settings.get(name)
        if value is not None:
            try:
                put(read(value))
            except FleetError as error:  # kept by another version of edge, perhaps
                _log.warning("%s: %s", self._path, error)

    def do(self, job: str, arguments: dict[str, Any], report: Report) -> None:
        """The job `shadow` (an `edge.fleet.device.jobs.JobHandler`)."""
        report(JobReport("done", "" if self.apply(arguments) else "something newer was applied before"))

    def apply(self, arguments: object) -> bool:
        """Takes down and obeys what a job brings; returns False if something newer was there before.

        Raises:
            BadMessage: the arguments are not what they should be.
            FleetError: a setting is refused; all stays as it was.
            EdgeError: the disk is full; all stays as it was.
        """
        wanted = Desired.read(arguments)
        with self._lock:
            if wanted.version < self.read().version:
                return False
            found = {
                name: obeyed.read(wanted.settings[name]) if name in wanted.settings else obeyed.default
                for name, obeyed in self._obeyed.items()
            }
            with whole_file(self._path) as file:
                file.write(json.dumps(wanted.json(), indent=2).encode() + b"\n")
            for name, value in found.items():
                self._obeyed[name].put(value)
            return True
