"""A mirror that keeps a device waiting (TUF's slow retrieval attack)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf")

from edge.fleet.device import mirror as mirror_module
from tests.fleet.test_mirror import Device, _Files, _install, device, mirror

__all__ = ["device", "mirror"]  # fixtures


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_byte_now_and_then_holds_nobody_up(
    device: Device,
    mirror: tuple[str, type[_Files]],
    digits_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setattr(mirror_module, "_LONGEST", 0.5)

    def drip(handler: Any) -> None:
        handler.asked.append(handler.path)
        if where == "body":
            handler.send_response(206)
            handler.send_header("Content-Range", "bytes 0-999999/1000000")
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b"H" if where == "headers" else b"x")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            handler.close_connection = True

    monkeypatch.setattr(mirror[1], "do_GET", drip, raising=False)
    begun = time.monotonic()
    sha256 = _install(device, digits_bundle, tmp_path, mirror[0])
    assert mirror[1].asked and sha256 in device.over_broker
    assert time.monotonic() - begun < 8
