"""What a device can do, and how it does each job: once, told until it is known, whatever was asked twice."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from edge.fleet.messages import FINAL_JOB_STATES, Job, JobReport
from edge.runtime.errors import EdgeError

_log = logging.getLogger("edge.fleet.agent")

Report = Callable[[JobReport], None]
JobHandler = Callable[[str, dict[str, Any], Report], None]
"""Does a job: its id, its arguments (not yet validated), and how to tell how far it has come."""
AnyJobHandler = Callable[[str, str, dict[str, Any], Report], None]


class JobMemory(Protocol):
    """How far jobs have come (`edge.fleet.device.outbox.Outbox`)."""

    def job_state(self, job: str) -> str | None: ...

    def note_job(self, job: str, state: str) -> None: ...


class Jobs:
    """Does a device's jobs, one at a time.

    Args:
        device: its id, for the log.
        memory: where it is remembered what became of a job.
        tell: sends a message that must arrive: what follows "up/" in its topic, and its body.
        ending: called before it is told that a job has ended, to tell what that has changed: who hears of the end must
            know, as the next rollout notes what a device has.
    """

    def __init__(
        self,
        device: str,
        memory: JobMemory,
        tell: Callable[[str, dict[str, Any]], None],
        ending: Callable[[], None],
    ) -> None:
        self._device = device
        self._memory = memory
        self._tell = tell
        self._ending = ending
        self._handlers: dict[str, JobHandler] = {"ping": _ping}
        self._any: AnyJobHandler | None = None

    def on(self, kind: str, handler: JobHandler) -> None:
        """Has `handler` do the jobs of a kind. It reports a final state, or raises `EdgeError`: the job has failed."""
        self._handlers[kind] = handler

    def on_any(self, handler: AnyJobHandler) -> None:
        """Has `handler(id, kind, arguments, report)` do the jobs for whose kind there is no handler."""
        self._any = handler

    def do(self, name: str, job: Job) -> None:
        """Does the job `name`, or tells again how it ended."""

        def report(state: JobReport) -> None:
            if state.state in FINAL_JOB_STATES:
                with contextlib.suppress(OSError, EdgeError):  # a board that does not answer now
                    self._ending()
            # First that it must be told, then that it was done: a cut between the two tells it twice, not never.
            self._tell(f"job/{name}", state.json())
            self._memory.note_job(name, state.state)

        known = self._memory.job_state(name)
        if known in FINAL_JOB_STATES:
            report(JobReport(known, "was done before"))
            return
        handler = self._handlers.get(job.kind)
        if handler is None and (other := self._any) is not None:
            handler = lambda job_id, arguments, tell: other(job_id, job.kind, arguments, tell)  # noqa: E731
        if handler is None:
            report(JobReport("failed", f"this device cannot do {job.kind!r}: update edge on it"))
            return
        report(JobReport("accepted"))
        try:
            handler(name, job.arguments, report)
        except EdgeError as error:
            report(JobReport("failed", str(error)[:1000]))
        except Exception as error:
            _log.exception("%s: job %s", self._device, name)
            report(JobReport("failed", f"a bug in edge: {type(error).__name__}"))


def _ping(job: str, arguments: dict[str, Any], report: Report) -> None:
    report(JobReport("done", "here"))
