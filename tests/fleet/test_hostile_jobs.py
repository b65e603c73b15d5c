"""Jobs that a broker or server in the wrong hands makes up: what is signed holds all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tuf")

from edge.fleet.device.install import Installer, UpdateJob
from tests.fleet.remade import remade
from tests.fleet.test_install import Server, _version, device, server

__all__ = ["device", "server"]  # fixtures


def test_a_job_that_says_to_be_a_rollback_brings_no_newer_model_past_its_gate(
    server: Server, device: Installer, digits_bundle: Path, tmp_path: Path
) -> None:
    old = server.publish(remade(digits_bundle, tmp_path / "old.edge", name="kws", version="1.0"))
    worse = remade(digits_bundle, tmp_path / "worse.edge", name="kws", version="2.2", spoil=True, lie=True)
    gated = server.publish(worse, gate="agreement>=0.99")
    device.install(UpdateJob("j1", old.path))
    forged = device.install(UpdateJob("j2", gated.path, rollback=True))
    assert forged is not None and forged.state == "failed" and "agreement is 0." in forged.detail
    assert _version(device) == "1.0"
