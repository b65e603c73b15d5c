"""Which process runs a fleet: a lock on its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from edge.fleet.lock import hold, holder
from edge.fleet.server.state import State


@contextlib.contextmanager
def only_one(state: State) -> Iterator[None]:
    """Holds the folder's lock: two servers on one database would sign and revoke past each other.

    Raises:
        FleetError: another process holds it.
    """
    with hold(state.folder / "server.lock", f"{state.folder}: this fleet runs already"):
        yield


def running_pid(state: State) -> int | None:
    """The process of the server that runs on a folder, or None."""
    return holder(state.folder / "server.lock")
