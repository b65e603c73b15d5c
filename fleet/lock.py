"""A lock on a file that says who holds it; the kernel releases it with its process, also at SIGKILL."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edge.fleet.errors import FleetError


@contextlib.contextmanager
def hold(path: Path, refusal: str) -> Iterator[int]:
    """Holds the lock on a file, which is made if it is missing; gives the file's descriptor, for children to inherit.

    Args:
        refusal: what the error says before "(process N)".

    Raises:
        FleetError: another process holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            pid = file.read().strip()
            raise FleetError(f"{refusal} ({'process ' + pid if pid else 'another process'})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def holder(path: Path) -> int | None:
    """The process that holds the lock on a file, or None."""
    try:
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        pass
    return None
