"""Child processes of an export: started quiet, watched for progress, killed with their parent's work.

A child is `python -m MODULE FOLDER`. It reads its job from the folder, writes `result.json` there, and may report
progress on the descriptor named by the environment variable `EDGE_PROGRESS_FD`, one JSON object a line. What it
prints goes to `log.txt` and is shown only when it fails. A failure that is meant for people is `error.txt`: one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.runtime.errors import EdgeError

PROGRESS_FD = "EDGE_PROGRESS_FD"


class ChildFailed(EdgeError):
    """A child process of an export failed; carries its one-line reason, and the log for `--debug`."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class Child:
    """One running child process.

    Args:
        module: what to run, for example "edge.export.lower.worker".
        folder: its job, result and log.
        threads: of OpenMP in the child.
    """

    def __init__(self, module: str, folder: Path, threads: int = 1) -> None:
        self.folder = folder
        self.latest: dict[str, Any] = {}
        self._pending = b""
        self._reader, writer = os.pipe()
        # Nobody reads while the parent trains: what does not fit into the pipe is dropped by the child.
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        environment = {
            **os.environ,
            PROGRESS_FD: str(writer),
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONWARNINGS": "ignore",
        }
        try:
            with open(folder / "log.txt", "wb") as log:
                # Its own session: a Ctrl-C at the terminal reaches the parent, which decides.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(writer,),
                    start_new_session=True,
                )
        finally:
            os.close(writer)

    def poll(self) -> bool:
        """Takes in new progress (see `latest`); whether the child has ended."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reader, 65536):
                self._pending += chunk
        *lines, self._pending = self._pending.split(b"\n")
        if lines:
            self.latest = json.loads(lines[-1])
        return self._process.poll() is not None

    def result(self) -> dict[str, Any]:
        """What the child wrote, once it has ended.

        Raises:
            ChildFailed: it failed; with its own reason, or the last line of its log.
        """
        code = self._process.wait()
        if code == 0:
            answer: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
            return answer
        log = (self.folder / "log.txt").read_text(errors="replace")
        reason = self.folder / "error.txt"
        if reason.exists():
            raise ChildFailed(reason.read_text().strip(), log)
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no output")
        raise ChildFailed(f"{self.folder.name}: the exporter ended with {ending}: {last} (--debug shows its log)", log)

    def stop(self) -> None:
        """Ends the child and everything it started; safe to call at any time."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


def report_progress(stage: str, done: int = 0, total: int | None = None, **values: float | str) -> None:
    """In a child: tells the parent what is being done; nothing in a process that has no such parent."""
    descriptor = os.environ.get(PROGRESS_FD)
    if descriptor is not None:
        line = json.dumps({"stage": stage, "done": done, "total": total, **values}) + "\n"
        with contextlib.suppress(BlockingIOError):  # the pipe is full; a line is written whole or not at all
            os.write(int(descriptor), line.encode())


def run_child(folder: Path, work: Callable[[], dict[str, Any]]) -> int:
    """In a child: does the work and leaves `result.json`, or `error.txt` for an error meant for people."""
    try:
        result = work()
    except EdgeError as error:
        traceback.print_exc()
        (folder / "error.txt").write_text(str(error))
        return 1
    (folder / "result.json").write_text(json.dumps(result))
    return 0
