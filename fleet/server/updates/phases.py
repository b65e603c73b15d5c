"""The way forward through a rollout: who starts, when a phase is over, what follows it, and who is late."""

from __future__ import annotations

import sqlalchemy as sa

from edge.fleet.server.tables import devices
from edge.fleet.server.updates.plan import Plan
from edge.fleet.server.updates.record import JOB_UPDATE, MOVING, Record, fit, started
from edge.fleet.server.updates.tables import rollout_devices


def advance(record: Record) -> None:
    """Starts devices up to what the phase allows, and goes on to the next phase where this one is over."""
    row = record.locked()
    plan, phase = Plan.from_dict(row["plan"]), row["phase"]
    while True:
        _start(record, plan, phase)
        if not phase_over(record, plan, phase):
            break
        counts = record.counts()
        good, begun = counts.get("active", 0) + counts.get("staged", 0), started(counts)
        if phase + 1 == len(plan.steps):
            if not any(counts.get(state) for state in MOVING):
                record.set(state="done", reason="")
                record.audit("fleet", "done", devices=counts)
            break
        if begun and good / begun < plan.success:
            reason = f"phase {phase + 1}: {good} of {begun} devices succeeded, {plan.success:.0%} are needed"
            record.set(state="paused", reason=reason)
            break
        if plan.pause_on_success and begun:
            record.set(state="paused", reason=f"phase {phase + 1} is done")
            break
        phase += 1
        record.set(phase=phase)


def phase_over(record: Record, plan: Plan, phase: int) -> bool:
    """Whether every device that the phase allows was started and has come to an end.

    Until the time of activation, a device that has tried the model and found it good has.
    """
    counts = record.counts()
    moving = counts.get("started", 0)
    if plan.activate_at is None or record.now() >= plan.activate_at or phase + 1 == len(plan.steps):
        moving += counts.get("staged", 0)
    wanted = min(plan.allowed(phase, fit(counts)), started(counts) + _startable(record))
    return moving == 0 and started(counts) >= wanted


def time_out(record: Record) -> None:
    """Gives up the devices that have not answered in time."""
    now = record.now()
    late = [rollout_devices.c.rollout == record.id, rollout_devices.c.deadline < now]
    for states, new in ((MOVING, "silent"), (("reverting",), "stuck")):
        record.connection.execute(
            rollout_devices.update()
            .where(*late, rollout_devices.c.state.in_(states))
            .values(state=new, detail="did not answer in time", updated_at=now)
        )


def _start(record: Record, plan: Plan, phase: int) -> None:
    counts = record.counts()
    room = plan.allowed(phase, fit(counts)) - started(counts)
    if room <= 0:
        return
    query = (
        sa.select(rollout_devices.c.device, rollout_devices.c.target)
        .join(devices, devices.c.id == rollout_devices.c.device)
        .where(
            rollout_devices.c.rollout == record.id,
            rollout_devices.c.state == "waiting",
            devices.c.state == "active",
        )
        .order_by(rollout_devices.c.rank, rollout_devices.c.device)
        .limit(room)
    )
    now = record.now()
    deadline = max(now, plan.activate_at or 0) + plan.timeout
    arguments = {
        "gate": plan.gate,
        "samples": plan.samples,
        "activate_at": plan.activate_at,
        "rollback": False,
        "mirror": plan.mirror,
    }
    queued, changed = [], []
    for device, target in record.connection.execute(query).all():
        job = record.job(device, JOB_UPDATE, {**arguments, "target": target})
        queued.append(job)
        changed.append({"to": device, "as": job["id"]})
    if not queued:
        return
    record.queue(queued)
    record.connection.execute(
        rollout_devices.update()
        .where(rollout_devices.c.rollout == record.id, rollout_devices.c.device == sa.bindparam("to"))
        .values(state="started", phase=phase, job=sa.bindparam("as"), deadline=deadline, updated_at=now),
        changed,
    )


def _startable(record: Record) -> int:
    """Devices that wait and are not revoked."""
    query = (
        sa.select(sa.func.count())
        .select_from(rollout_devices.join(devices, devices.c.id == rollout_devices.c.device))
        .where(
            rollout_devices.c.rollout == record.id,
            rollout_devices.c.state == "waiting",
            devices.c.state == "active",
        )
    )
    return int(record.connection.execute(query).scalar_one())
