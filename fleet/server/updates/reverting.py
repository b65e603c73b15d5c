"""The way back out of a rollout: it is aborted, and the model taken back where it is active."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from edge.fleet.server.database import batches
from edge.fleet.server.tables import jobs
from edge.fleet.server.updates.plan import Plan
from edge.fleet.server.updates.record import BAD, JOB_CANCEL, JOB_UPDATE, MOVING, Record, started
from edge.fleet.server.updates.tables import rollout_devices


def abort_if_over(record: Record, plan: Plan) -> bool:
    """Aborts where more than the allowed share of the devices so far failed; returns whether it did."""
    counts = record.counts()
    bad, begun = sum(counts.get(state, 0) for state in BAD), started(counts)
    if not bad or bad <= plan.abort_over * begun + 1e-9:
        return False
    abort(record, f"{bad} of {begun} devices failed, more than {plan.abort_over * 100:g} %", "fleet")
    return True


def abort(record: Record, reason: str, actor: str) -> None:
    """Ends the rollout; jobs that no device has are withdrawn, the others' devices are told to drop the model."""
    now = record.now()
    query = sa.select(rollout_devices.c.device, rollout_devices.c.job).where(
        rollout_devices.c.rollout == record.id, rollout_devices.c.state.in_((*MOVING, "silent"))
    )
    moving = record.connection.execute(query).all()
    ids = [job for _, job in moving]
    record.connection.execute(
        rollout_devices.update()
        .where(rollout_devices.c.rollout == record.id, rollout_devices.c.state.in_(MOVING))
        .values(state="cancelled", updated_at=now)
    )
    for part in batches(ids, 500):
        record.connection.execute(
            jobs.update().where(jobs.c.id.in_(part), jobs.c.state == "queued").values(state="cancelled", updated_at=now)
        )
    record.queue([record.job(device, JOB_CANCEL, {"job": job}) for device, job in moving])
    record.set(state="aborted", reason=reason)
    record.audit(actor, "abort", reason=reason)


def revert(record: Record, plan: Plan, rows: Iterable[Mapping[str, Any]]) -> int:
    """Asks devices to go back to what they had; returns how many. Those that had nothing keep the new model.

    Args:
        rows: of the devices, from `rollout_devices`.
    """
    now, queued = record.now(), []
    for device in rows:
        values: dict[str, Any] = {"updated_at": now}
        if device["before"]:
            job = record.job(device["device"], JOB_UPDATE, {"target": device["before"], "rollback": True})
            queued.append(job)
            values.update(state="reverting", job=job["id"], deadline=now + plan.timeout)
        elif device["state"] == "active":
            values.update(state="stuck", detail="had no published version before: keeps this one")
        else:
            continue
        record.set_device(device["device"], values)
    if queued:
        record.queue(queued)
        record.set(state="rolling-back")
    return len(queued)


def end_rollback(record: Record) -> None:
    """Ends a rollback from which no device is still to come back; one that has ended is not ended again."""
    if record.locked()["state"] == "rolling-back" and not record.counts().get("reverting"):
        record.set(state="rolled-back")
        record.audit("fleet", "rolled-back")
