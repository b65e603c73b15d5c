"""Structured logs: one JSON object a line for programs and journals, or a readable line on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time


class JsonLines(logging.Formatter):
    """{"at": "2026-11-24T14:00:00.123Z", "level": "warning", "part": "broker", "text": "…"}, and a worker's number."""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "at": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            **self._worker,
            "part": record.name.removeprefix("edge.fleet."),
            "text": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class ForPeople(logging.Formatter):
    """14:00:00 warning broker: …, or 14:00:00 warning worker 2 ingest: …"""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = f"worker {worker} " if worker else ""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        part = self._worker + record.name.removeprefix("edge.fleet.")
        line = f"{moment} {record.levelname.lower()} {part}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stderr(level: str, as_json: bool | None = None, worker: int = 0) -> None:
    """Sends the fleet's log to standard error.

    Args:
        level: "debug", "info", "warning", "error".
        as_json: whether as JSON; by default if standard error is not a terminal.
        worker: the number of the worker whose log it is, if it is one's.
    """
    handler = logging.StreamHandler()
    lines = as_json if as_json is not None else not sys.stderr.isatty()
    handler.setFormatter(JsonLines(worker) if lines else ForPeople(worker))
    log = logging.getLogger("edge.fleet")
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


def how_it_logs() -> tuple[str, bool]:
    """The level of the fleet's log in this process, and whether it is JSON: what a process of its own is told."""
    log = logging.getLogger("edge.fleet")
    as_json = any(isinstance(handler.formatter, JsonLines) for handler in log.handlers)
    return logging.getLevelName(log.getEffectiveLevel()).lower(), as_json
