"""A thread that sees what is committed to the outbox, and what time brings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from edge.fleet.errors import cause
from edge.fleet.server.database import Database, Event

_log = logging.getLogger("edge.fleet.server")

_POLL_SECONDS = 0.2


class Follower:
    """Calls, on one thread, what is to see the outbox's events, and what is due now and then.

    What an action raises is logged: it keeps neither the others nor the next events from being followed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._actions: dict[str, list[Callable[[Event], None]]] = {}
        self._batch_actions: dict[str, Callable[[list[Event]], None]] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, kind: str, action: Callable[[Event], None]) -> None:
        """Has `action` see every event of a kind that is committed after the start, in order."""
        self._actions.setdefault(kind, []).append(action)

    def follow_batches(self, kind: str, action: Callable[[list[Event]], None]) -> None:
        """Has `action` see the events of a kind that came since it was last called, all at once: where the first of a
        thousand asks for as much work as all of them do."""
        self._batch_actions[kind] = action

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls `action` again and again."""
        self._timers.append((seconds, action))

    def start(self, after: int) -> None:
        """Begins with the event behind the one with the id `after`."""
        self._thread = threading.Thread(target=self._run, args=(after,), name="follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self, after: int) -> None:
        due = [time.monotonic() + seconds for seconds, _ in self._timers]
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                events = self._database.follow(after)
                for event in events:
                    after = event.id
                    for action in self._actions.get(event.kind, ()):
                        self._guard(partial(action, event), event.kind)
                for kind, act in self._batch_actions.items():
                    if found := [event for event in events if event.kind == kind]:
                        self._guard(partial(act, found), kind)
            except Exception as error:
                _log.exception("the outbox could not be read (%s)", cause(error))
                self._stopping.wait(1)
            for number, (seconds, timer) in enumerate(self._timers):
                if time.monotonic() >= due[number]:
                    due[number] = time.monotonic() + seconds
                    self._guard(timer, "a timer")

    def _guard(self, action: Callable[[], None], what: str) -> None:
        try:
            action()
        except Exception as error:
            _log.exception("%s: could not be followed (%s)", what, cause(error))
