"""What other processes use: CPU seconds and resident memory, out of /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def cpu(pids: Iterable[int]) -> float:
    """CPU seconds of processes and the children that they have waited for."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of processes together, in units of 1,000,000 bytes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def children(pid: int, part: str = "") -> list[int]:
    """The direct children of a process whose command line holds `part`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            line = (path.parent / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if parent == pid and part in line:
            found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for a condition, looking rarely: a look costs CPU, which is what is measured.

    Raises:
        TimeoutError: it does not come to hold.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}, in {seconds:.0f} s")
        time.sleep(0.5)
