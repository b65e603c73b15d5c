"""The first line that a client and a gateway say to each other; after it, the socket is the board's serial line.

A client sends one JSON object in a line, {"open": "NAME"} or {"list": true}. The gateway answers with one in a line:
{"ok": true}, {"devices": [...]} or {"error": "..."}.
"""

from __future__ import annotations

import json
import time
from typing import Any

from edge.firmware_bridge.errors import LinkLost
from edge.firmware_bridge.port import Port, wait_for_bytes

MAX_LINE = 1 << 16
GREETING_SECONDS = 5.0


def read_line(port: Port, address: str) -> dict[str, Any]:
    """One JSON object in a line, and not a byte beyond it.

    Raises:
        LinkLost: none comes, or it is something else.
    """
    line = b""
    end = time.monotonic() + GREETING_SECONDS
    while not line.endswith(b"\n"):
        got = wait_for_bytes(port, 1, end)
        if (not got and time.monotonic() >= end) or len(line) > MAX_LINE:
            raise LinkLost(f"{address}: no gateway listens there")
        line += got
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise LinkLost(f"{address}: no gateway listens there")
    return said


def write_line(port: Port, message: dict[str, Any]) -> None:
    """Sends one JSON object in a line."""
    port.write(json.dumps(message).encode() + b"\n")


def greet(port: Port, name: str, address: str) -> None:
    """Asks a gateway for a board's line.

    Raises:
        LinkLost: the gateway has no such board, or another client has it.
    """
    write_line(port, {"open": name})
    answer = read_line(port, address)
    if answer.get("ok") is not True:
        raise LinkLost(f"{address}: {_text(answer.get('error', 'the gateway refuses'))}")


def _text(said: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(said))[:300]
