"""Asking a gateway that runs in another process which boards it has."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from edge.firmware_bridge.errors import LinkLost
from edge.firmware_bridge.gateway_protocol import read_line, write_line
from edge.firmware_bridge.port import open_gateway
from edge.runtime.errors import BadInput


def list_boards(address: str) -> list[dict[str, Any]]:
    """The boards of the gateway at "gateway://HOST:PORT" or "gateway:///PATH", as `BoardState.to_dict` has them.

    Raises:
        BadInput: no such address.
        LinkLost: no gateway listens there.
    """
    if urlsplit(address).scheme != "gateway":
        raise BadInput(f"{address}: expected gateway://HOST:PORT or gateway:///PATH/OF/SOCKET")
    port = open_gateway(address)
    try:
        write_line(port, {"list": True})
        rows = read_line(port, address).get("devices")
    finally:
        port.close()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LinkLost(f"{address}: no gateway listens there")
    return rows
