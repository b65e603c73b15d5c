"""One rollout in the database, as the parts of the state machine read and change it within a transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from edge.fleet.server.database import audit, emit
from edge.fleet.server.tables import jobs
from edge.fleet.server.updates.tables import rollout_devices, rollouts
from edge.runtime.errors import BadInput

JOB_UPDATE, JOB_CANCEL = "model.update", "model.cancel"

BAD = ("failed", "rolled-back", "silent")
MOVING = ("started", "staged")
UNTOUCHED = ("waiting", "unfit")

FUNNEL = ("waiting", "started", "staged", "active", "failed", "rolled-back", "silent", "cancelled", "unfit")
REVERTED = ("reverting", "reverted", "stuck")


class Record:
    """A rollout's row, its devices' rows and their jobs.

    Args:
        connection: in the caller's transaction.
        id: of the rollout.
        now: the clock, in seconds since 1970.
    """

    def __init__(self, connection: Connection, id: str, now: Callable[[], float]) -> None:
        self.connection = connection
        self.id = id
        self.now = now

    def locked(self) -> RowMapping:
        """The row, which no other transaction changes until this one ends.

        Raises:
            BadInput: there is none of that id.
        """
        query = sa.select(rollouts).where(rollouts.c.id == self.id).with_for_update()
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise no_such_rollout(self.id)
        return row

    def set(self, **values: Any) -> None:
        """Changes columns of the row; a new state is told in the outbox."""
        values["updated_at"] = self.now()
        self.connection.execute(rollouts.update().where(rollouts.c.id == self.id).values(**values))
        if "state" in values:
            emit(self.connection, "rollout.changed", self.id, {"id": self.id, "state": values["state"]})

    def set_device(self, device: str, values: dict[str, Any]) -> None:
        """Changes columns of a device's row."""
        self.connection.execute(
            rollout_devices.update()
            .where(rollout_devices.c.rollout == self.id, rollout_devices.c.device == device)
            .values(**values)
        )

    def counts(self) -> dict[str, int]:
        """Numbers of devices by state."""
        query = (
            sa.select(rollout_devices.c.state, sa.func.count())
            .where(rollout_devices.c.rollout == self.id)
            .group_by(rollout_devices.c.state)
        )
        return {state: int(count) for state, count in self.connection.execute(query)}

    def job(self, device: str, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A new job's row, for `queue`."""
        now = self.now()
        return {
            "id": f"u{secrets.token_hex(8)}",
            "device": device,
            "kind": kind,
            "body": arguments,
            "state": "queued",
            "detail": "",
            "metrics": {},
            "created_at": now,
            "updated_at": now,
            "expires_at": None,
        }

    def queue(self, rows: list[dict[str, Any]]) -> None:
        """Puts jobs into their devices' queues; the server's follower sends them."""
        if not rows:
            return
        self.connection.execute(jobs.insert(), rows)
        for row in rows:
            emit(self.connection, "job.created", row["id"], {"device": row["device"], "kind": row["kind"]})

    def audit(self, actor: str, action: str, **detail: Any) -> None:
        audit(self.connection, actor, f"rollout.{action}", self.id, **detail)


def no_such_rollout(id: str) -> BadInput:
    return BadInput(f"rollout {id[:100]!r}: there is none (edge fleet rollout list)")


def fit(counts: dict[str, int]) -> int:
    """Devices that the phases count: those for which there is a variant."""
    return sum(count for state, count in counts.items() if state != "unfit")


def started(counts: dict[str, int]) -> int:
    """Devices that were asked to begin, whatever became of it."""
    return sum(count for state, count in counts.items() if state not in UNTOUCHED)
