"""What a simulated device has said and nobody has acknowledged: in memory, so that it is lost with the process."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from edge.fleet.messages import Envelope, new_boot

MOST = 1000
"""Messages; beyond, the oldest telemetry is dropped, as `edge.fleet.device.outbox.Outbox` does."""

_MOST_JOBS = 50


class Waiting:
    """A message that waits for its acknowledgement."""

    __slots__ = ("at", "kind", "payload")

    def __init__(self, kind: str, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload
        self.at = 0.0  # when it was sent last, by the monotonic clock; 0: not in this connection


class MemoryOutbox:
    """The outbox of one simulated device. For one thread, but what becomes of jobs: that may be noted on another."""

    __slots__ = ("_boot", "_jobs", "_seq", "dropped", "waiting")

    def __init__(self) -> None:
        self._boot = new_boot()
        self._seq = 0
        self._jobs: OrderedDict[str, str] = OrderedDict()
        self.waiting: dict[int, Waiting] = {}
        self.dropped = 0

    def put(self, kind: str, body: dict[str, Any]) -> Waiting:
        """Keeps a message; `kind` is what follows "up/" in its topic.

        Raises:
            BadMessage: it is too large to be sent.
        """
        self._seq += 1
        message = Waiting(kind, Envelope(self._boot, self._seq, time.time(), body).encode())
        self.waiting[self._seq] = message
        if len(self.waiting) > MOST:
            oldest = next((seq for seq, one in self.waiting.items() if one.kind == "tel"), None)
            if oldest is not None:
                del self.waiting[oldest]
                self.dropped += 1
        return message

    @property
    def is_full(self) -> bool:
        """Whether more waits than may."""
        return len(self.waiting) >= MOST

    def acknowledged(self, boot: str, seq: int) -> bool:
        """Forgets a message that the server has; False if it was not waiting."""
        return boot == self._boot and self.waiting.pop(seq, None) is not None

    def job_state(self, job: str) -> str | None:
        """How far a job had come when it was last noted since the process began."""
        return self._jobs.get(job)

    def note_job(self, job: str, state: str) -> None:
        self._jobs[job] = state
        while len(self._jobs) > _MOST_JOBS:
            self._jobs.popitem(last=False)
