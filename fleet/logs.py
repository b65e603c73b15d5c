"""Structured logs: one JSON object a line for programs and journals, or a readable line on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import time


class JsonLines(logging.Formatter):
    """{"at": "2026-11-24T14:00:00.123Z", "level": "warning", "part": "broker", "text": "…"}."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "at": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("edge.fleet."),
            "text": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class ForPeople(logging.Formatter):
    """14:00:00 warning broker: …"""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        part = record.name.removeprefix("edge.fleet.")
        line = f"{moment} {record.levelname.lower()} {part}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stderr(level: str, as_json: bool | None = None) -> None:
    """Sends the fleet's log to standard error.

    Args:
        level: "debug", "info", "warning", "error".
        as_json: whether as JSON; by default if standard error is not a terminal.
    """
    handler = logging.StreamHandler()
    lines = as_json if as_json is not None else not sys.stderr.isatty()
    handler.setFormatter(JsonLines() if lines else ForPeople())
    log = logging.getLogger("edge.fleet")
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False
