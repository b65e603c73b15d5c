"""The child processes of one export: started, watched together, stopped together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from edge.export.child import Child
from edge.export.progress import Progress


class Children:
    """Every child that an export has started.

    Args:
        progress: shown what the watched children do.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all: list[Child] = []

    def start(self, module: str, folder: Path) -> Child:
        """Starts `python -m MODULE FOLDER`; arguments as `Child`."""
        child = Child(module, folder)
        self._all.append(child)
        return child

    def wait(self, children: Sequence[Child], stage: str, *, until_first: bool = False, title: str = "") -> None:
        """Shows what running children do until all of them have ended, or `until_first` one has.

        One line for all: their stages side by side, and the units and figures of the first that counts any.

        Args:
            children: at least one.
            stage: what is shown before a child has told anything.
            until_first: return as soon as one has ended.
            title: stands before every stage, for example "rehearse".
        """
        prefix = f"{title}: " if title else ""
        stage = prefix + stage
        self._progress.stage(stage)
        shown: tuple[str, int | None] = (stage, None)
        while True:
            running = [child for child in children if not child.poll()]
            if not running or (until_first and len(running) < len(children)):
                return
            told = [child.latest for child in running if child.latest]
            counting = next((latest for latest in told if latest["total"]), None)
            names = ", ".join(dict.fromkeys(str(latest["stage"]) for latest in told))
            name = prefix + names if names else stage
            total = None if counting is None else int(counting["total"])
            if (name, total) != shown:
                shown = name, total
                self._progress.stage(name, total)
            if counting is not None:
                figures = {key: value for key, value in counting.items() if key not in ("stage", "done", "total")}
                self._progress.update(int(counting["done"]), **figures)
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends those that still run; safe to call at any time."""
        for child in self._all:
            child.stop()
