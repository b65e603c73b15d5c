"""The command that an operator names to have another broker read its files again: `edge fleet up --broker-reload`."""

from __future__ import annotations

import logging
import shlex
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from edge.fleet.errors import FleetError
from edge.fleet.server.database import Database, set_setting

_log = logging.getLogger("edge.fleet.server")

_SECONDS = 20.0
SETTING = "broker_reload"
"""What became of the last run, in the registry, for `edge fleet doctor`: {"at": seconds, "error": text}."""


def parse_command(command: str) -> list[str]:
    """The words of a command, as a shell would split them; no shell runs it.

    Raises:
        FleetError: it has none, or a quote that does not end.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise FleetError(f"--broker-reload {command[:80]!r}: {str(error).lower()}") from error
    if not words:
        raise FleetError("--broker-reload: a command with its arguments, like 'systemctl reload mosquitto'")
    return words


class ReloadCommand:
    """Runs the command in the folder with the broker's files, one run at a time.

    Args:
        command: `parse_command` takes it.
        folder: where it runs.
        database: the registry, which is told how it went.
    """

    def __init__(self, command: str, folder: Path, database: Database) -> None:
        self._words = parse_command(command)
        self._folder = folder
        self._database = database
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """Runs it and waits, for twenty seconds at most; returns whether it went well. What is wrong is logged."""
        with self._lock:
            error = self._run()
        if error:
            _log.error("the broker was not told to read its files again: %s", error)
        with self._database.transaction() as connection:
            set_setting(connection, SETTING, {"at": time.time(), "error": error})
        return not error

    def _run(self) -> str:
        try:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": _SECONDS}
            done = subprocess.run(self._words, cwd=self._folder, check=False, **options)
        except subprocess.TimeoutExpired:
            return f"{self._words[0]}: did not end within {_SECONDS:.0f} seconds"
        except OSError as error:
            return f"{self._words[0]}: cannot be run ({error.strerror})"
        if done.returncode == 0:
            return ""
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"{self._words[0]}: ended with {done.returncode}" + (f" ({said[-1][:200]})" if said else "")
