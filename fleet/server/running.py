"""Which process runs a fleet: a lock on its folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from edge.fleet.errors import FleetError
from edge.fleet.server.state import State


@contextlib.contextmanager
def only_one(state: State) -> Iterator[None]:
    """Holds the folder's lock: two servers on one database would sign and revoke past each other.

    Raises:
        FleetError: another process holds it.
    """
    path = state.folder / "server.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            pid = file.read().strip() or "another process"
            raise FleetError(f"{state.folder}: this fleet runs already (process {pid})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def running_pid(state: State) -> int | None:
    """The process of the server that runs on a folder, or None."""
    try:
        with (state.folder / "server.lock").open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        pass
    return None
