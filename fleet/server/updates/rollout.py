"""Rollouts: a model version goes to few devices, then to more, and stops by itself where too many fail.

    running ──all phases done──► done ──rollback──► rolling-back ──► rolled-back
      │ ▲ pause, a phase with too few successes, --pause-on-success      ▲
      ▼ │ resume                                                         │
    paused ──abort, too many failures──► aborted ──────────rollback──────┘

Everything is in SQL, and each transition is one transaction together with the jobs that follow from it: a server that
is killed goes on where it was. Devices are never without a model: each keeps the one before until the new one has
proved itself, and goes back by itself (`edge.fleet.device.install`).

What the transitions do: `joining` (who takes part), `phases` (forward), `reverting` (back), over one `record`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from edge.fleet.errors import Refused
from edge.fleet.server.database import Database
from edge.fleet.server.tables import devices
from edge.fleet.server.updates import joining, phases, reverting
from edge.fleet.server.updates.plan import Plan
from edge.fleet.server.updates.record import BAD, MOVING, Record, fit, no_such_rollout, started
from edge.fleet.server.updates.tables import OPEN, rollout_devices, rollouts
from edge.runtime.errors import BadInput

JOIN_SECONDS = 10.0
"""How often a rollout looks for devices that are to join it."""

Select = Callable[[str], Iterable[str]]
"""Finds the ids of the devices that a `--where` filter names."""


def _no_filter(where: str) -> Iterable[str]:
    raise BadInput(f"where {where!r}: no semantic store is open here")


_NOBODY = "devices: none is found that is enrolled and active"


class Rollouts:
    """The state machine of all rollouts of a fleet.

    Args:
        database: the registry.
        select: finds devices by a filter.
        now: the clock, in seconds since 1970.
    """

    def __init__(self, database: Database, select: Select = _no_filter, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._select = select
        self._now = now
        self._joins_at: dict[str, float] = {}

    # What an operator asks for.

    def create(self, plan: Plan, actor: str) -> str:
        """Plans a rollout and starts its first phase; returns its id.

        Raises:
            BadInput: the version is not published, or no device is found.
            Refused: another rollout of the model is open.
        """
        chosen = self._chosen(plan)
        with self._database.transaction() as connection:
            variants = joining.published_variants(connection, plan.model, plan.version)
            joining.check_named(connection, plan)
            open_ = connection.execute(
                sa.select(rollouts.c.id).where(rollouts.c.model == plan.model, rollouts.c.state.in_(OPEN))
            ).scalar()
            if open_ is not None:
                raise Refused(f"{plan.model}: rollout {open_} is open: finish or abort it first")
            id = f"{plan.model}-{plan.version}-{secrets.token_hex(3)}"
            now = self._now()
            connection.execute(
                rollouts.insert(),
                {
                    "id": id,
                    "model": plan.model,
                    "version": plan.version,
                    "plan": plan.to_dict(),
                    "state": "running",
                    "phase": 0,
                    "reason": "",
                    "created_at": now,
                    "created_by": actor,
                    "updated_at": now,
                },
            )
            record = self._record(connection, id)
            joined = joining.join(record, plan.model, variants, chosen)
            if not joined:
                raise BadInput(_NOBODY)
            record.audit(actor, "create", plan=plan.to_dict(), devices=joined)
            phases.advance(record)
        return id

    def preview(self, plan: Plan) -> list[dict[str, Any]]:
        """Who would get what, in the order in which they would begin; nothing is changed.

        Raises:
            BadInput: the version is not published, or no device is found.
        """
        chosen = self._chosen(plan)
        with self._database.reading() as connection:
            variants = joining.published_variants(connection, plan.model, plan.version)
            joining.check_named(connection, plan)
            rows = joining.candidates(self._record(connection, "preview"), plan.model, variants, chosen)
        if not rows:
            raise BadInput(_NOBODY)
        return sorted(rows, key=lambda row: (row["rank"], row["device"]))

    def pause(self, id: str, actor: str) -> None:
        """No further device is started; those that are under way go on."""
        self._change(id, actor, "pause", ("running",), "paused", f"paused by {actor}")

    def resume(self, id: str, actor: str) -> None:
        """Goes on; after a phase that was enough, or not, with the next one.

        Raises:
            Refused: it is not paused.
        """
        with self._database.transaction() as connection:
            record = self._record(connection, id)
            row = record.locked()
            if row["state"] != "paused":
                raise Refused(f"rollout {id} is {row['state']}: only a paused one resumes")
            plan = Plan.from_dict(row["plan"])
            phase = row["phase"]
            # The phase was over: the operator has seen how it went, and says go.
            if phases.phase_over(record, plan, phase) and phase + 1 < len(plan.steps):
                phase += 1
            record.set(state="running", phase=phase, reason="")
            record.audit(actor, "resume", phase=phase)
            phases.advance(record)

    def abort(self, id: str, actor: str, reason: str = "") -> None:
        """Ends it: nobody is started any more, and who has not activated the new model yet drops it.

        Raises:
            Refused: it has ended.
        """
        with self._database.transaction() as connection:
            record = self._record(connection, id)
            state = record.locked()["state"]
            if state not in ("running", "paused"):
                raise Refused(f"rollout {id} is {state}: it cannot be aborted any more")
            reverting.abort(record, reason or f"aborted by {actor}", actor)

    def rollback(self, id: str, actor: str) -> int:
        """Takes the new model back: devices where it is active get what they had before; returns how many.

        A rollout that is under way is aborted first.

        Raises:
            Refused: it was rolled back before.
        """
        with self._database.transaction() as connection:
            record = self._record(connection, id)
            row = record.locked()
            if row["state"] in ("rolling-back", "rolled-back"):
                raise Refused(f"rollout {id} is {row['state']} already")
            if row["state"] in ("running", "paused"):
                reverting.abort(record, f"rolled back by {actor}", actor)
            plan = Plan.from_dict(row["plan"])
            query = (
                sa.select(rollout_devices)
                .join(devices, devices.c.id == rollout_devices.c.device)  # others were removed
                .where(rollout_devices.c.rollout == id, rollout_devices.c.state.in_(("active", "silent")))
            )
            rows = [dict(each) for each in connection.execute(query).mappings()]
            number = reverting.revert(record, plan, rows)
            record.set(state="rolling-back", reason=f"rolled back by {actor}")
            record.audit(actor, "rollback", devices=number)
            reverting.end_rollback(record)
        return number

    def all(self) -> list[dict[str, Any]]:
        """All rollouts, the newest first, each with its numbers of devices by state."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(rollouts).order_by(rollouts.c.created_at.desc())).mappings().all()
            counts = self._counts_of_all(connection)
        return [{**dict(row), "devices": counts.get(row["id"], {})} for row in rows]

    def show(self, id: str) -> dict[str, Any]:
        """A rollout, its phases, its numbers, and its devices that failed.

        Raises:
            BadInput: there is none of that id.
        """
        with self._database.reading() as connection:
            row = connection.execute(sa.select(rollouts).where(rollouts.c.id == id)).mappings().first()
            if row is None:
                raise no_such_rollout(id)
            counts = self._record(connection, id).counts()
            plan = Plan.from_dict(row["plan"])
            total = fit(counts)
            bad = connection.execute(
                sa.select(rollout_devices.c.device, rollout_devices.c.state, rollout_devices.c.detail)
                .where(rollout_devices.c.rollout == id, rollout_devices.c.state.in_((*BAD, "unfit", "stuck")))
                .order_by(rollout_devices.c.updated_at.desc(), rollout_devices.c.device)
                .limit(100)
            ).mappings()
            return {
                **dict(row),
                "devices": counts,
                "started": started(counts),
                "total": total,
                "steps": [
                    {"phase": index, "step": str(step), "devices": plan.allowed(index, total)}
                    for index, step in enumerate(plan.steps)
                ],
                "problems": [dict(each) for each in bad],
            }

    # What happens.

    def report(
        self, connection: Connection, device: str, job: str, state: str, detail: str, metrics: dict[str, float]
    ) -> bool:
        """Takes in what a device says of a job; False if it is no job of a rollout.

        Called within the transaction that stores the report, so that both are there or neither. Reports may come twice,
        late and in any order.
        """
        row = (
            connection.execute(
                sa.select(rollout_devices).where(rollout_devices.c.job == job, rollout_devices.c.device == device)
            )
            .mappings()
            .first()
        )
        if row is None:
            return False
        new = _after(row["state"], state)
        if new is None:
            return True
        id = row["rollout"]
        record = self._record(connection, id)
        rollout = record.locked()
        values = {"state": new, "detail": detail[:1000], "metrics": metrics, "updated_at": self._now()}
        record.set_device(device, values)
        if rollout["state"] in ("rolling-back", "rolled-back"):
            if new == "active":  # it did not hear that the model was taken back
                reverting.revert(record, Plan.from_dict(rollout["plan"]), [{**row, **values}])
            reverting.end_rollback(record)
        elif new in BAD and rollout["state"] in ("running", "paused"):
            reverting.abort_if_over(record, Plan.from_dict(rollout["plan"]))
        return True

    def tick(self) -> None:
        """Does what time brings: silent devices, devices that join, the next phases. Called every second or so."""
        with self._database.reading() as connection:
            open_ = list(
                connection.execute(sa.select(rollouts.c.id, rollouts.c.plan).where(rollouts.c.state.in_(OPEN)))
            )
        for id, plan in open_:
            joins = self._now() >= self._joins_at.get(id, 0.0)
            chosen = self._chosen(Plan.from_dict(plan)) if joins else set()
            with self._database.transaction() as connection:
                record = self._record(connection, id)
                row = record.locked()
                if row["state"] not in OPEN:
                    continue
                phases.time_out(record)
                if row["state"] == "rolling-back":
                    reverting.end_rollback(record)
                    continue
                plan_ = Plan.from_dict(row["plan"])
                if not reverting.abort_if_over(record, plan_) and row["state"] == "running":
                    variants = joining.published_variants(connection, row["model"], row["version"])
                    if joins:
                        joining.join(record, row["model"], variants, chosen)
                        self._joins_at[id] = self._now() + JOIN_SECONDS
                    phases.advance(record)

    # How it does that.

    def _record(self, connection: Connection, id: str) -> Record:
        return Record(connection, id, self._now)

    def _chosen(self, plan: Plan) -> set[str] | None:
        """Ids that the plan names or its filter finds; None for all."""
        if plan.devices is not None:
            return set(plan.devices)
        return None if plan.where is None else set(self._select(plan.where))

    def _change(self, id: str, actor: str, action: str, states: tuple[str, ...], to: str, reason: str) -> None:
        with self._database.transaction() as connection:
            record = self._record(connection, id)
            state = record.locked()["state"]
            if state not in states:
                raise Refused(f"rollout {id} is {state}: {action} asks for one that is {' or '.join(states)}")
            record.set(state=to, reason=reason)
            record.audit(actor, action)

    def _counts_of_all(self, connection: Connection) -> dict[str, dict[str, int]]:
        query = sa.select(rollout_devices.c.rollout, rollout_devices.c.state, sa.func.count()).group_by(
            rollout_devices.c.rollout, rollout_devices.c.state
        )
        found: dict[str, dict[str, int]] = {}
        for id, state, count in connection.execute(query):
            found.setdefault(id, {})[state] = int(count)
        return found


def _after(old: str, reported: str) -> str | None:
    """The state of a device of a rollout after a report; None if it changes nothing.

    A late word of an end is the truth: also of a device that was given up as silent or told to drop the model.
    """
    if old in ("reverting", "stuck"):
        return {"active": "reverted", "failed": "stuck", "rolled-back": "stuck"}.get(reported)
    if old not in (*MOVING, "silent", "cancelled"):
        return None
    if reported in ("active", "failed", "rolled-back"):
        # One that was told to drop the model and says that it did has not failed.
        return "cancelled" if old == "cancelled" and reported == "failed" else reported
    if old == "started" and reported == "staged":
        return "staged"
    return None
