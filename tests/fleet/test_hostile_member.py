"""A device that is let in and means harm: disks, memory, logs and screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.fleet.messages import CertificateRequest, Sender
from edge.fleet.server import ingest
from edge.fleet.server.audit import entries
from tests.fleet.keys import new_key, request_for
from tests.fleet.lab import Client, needs_mosquitto, until
from tests.fleet.test_fleet import Fleet

pytestmark = needs_mosquitto


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


def test_a_disk_is_not_filled_below_the_speed_of_a_flood(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "HOUR_BYTES", 300_000)
    greedy, sender = fleet.client(fleet.member("greedy")), Sender()
    honest = fleet.run(fleet.member("honest"))
    assert greedy.got_in()
    for number in range(40):  # 2.4 MB, of kinds that have a handler and kinds that have none
        kind = ("td", "tel", "fl/1/1", "job/none")[number % 4]
        body = {"values": {"x": "y" * 900}, "state": "done", "rest": "z" * 60_000}
        greedy.mqtt.publish(f"f/v1/greedy/up/{kind}", sender.wrap(body).encode(), 0)
    until(lambda: fleet.server.ingest.counts.dropped >= 36)
    until(lambda: len(honest.outbox) == 0 and fleet.reports("honest") > 1)
    kept = sum(fleet.reports("greedy", kind) for kind in ("td", "tel", "fl/1/1", "job/none"))
    assert kept == 4 and not greedy.disconnected.is_set()


def test_the_audit_log_is_not_filled_with_refusals(fleet: Fleet) -> None:
    token = fleet.token()
    until(lambda: token.id in (fleet.state.broker / "tokens").read_text())
    port, root, login = fleet.server.address.boot_port, fleet.server.authority.root_pem, (token.id, token.secret)

    def let_in() -> Client | None:
        client = Client(port, root, None, "", login)
        return client if client.got_in() else None

    client, sender = until(let_in), Sender()
    assert client.subscribe(f"boot/{token.id}/down")
    for _ in range(8):
        body = CertificateRequest(request_for(new_key()), "x", "0" * 64).json()
        client.mqtt.publish(f"boot/{token.id}/up", sender.wrap(body).encode(), 0)
    for _ in range(8):  # each is told
        assert b"rejected" in client.messages.get(timeout=10).payload
    assert [row["action"] for row in entries(fleet.database, 100, token.id)].count("enrollment.refuse") == 1
