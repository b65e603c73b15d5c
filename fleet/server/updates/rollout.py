"""Rollouts: a model version goes to few devices, then to more, and stops by itself where too many fail.

    running ──all phases done──► done ──rollback──► rolling-back ──► rolled-back
      │ ▲ pause, a phase with too few successes, --pause-on-success      ▲
      ▼ │ resume                                                         │
    paused ──abort, too many failures──► aborted ──────────rollback──────┘

Everything is in SQL, and each transition is one transaction together with the jobs that follow from it: a server that
is killed goes on where it was. Devices are never without a model: each keeps the one before until the new one has
proved itself, and goes back by itself (`edge.fleet.device.install`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from edge.fleet.errors import Refused
from edge.fleet.inventory import Inventory
from edge.fleet.server.database import Database, audit, emit, insert_new
from edge.fleet.server.tables import devices, jobs
from edge.fleet.server.updates.plan import Plan, active_sha256, choose, read_variants
from edge.fleet.server.updates.tables import OPEN, models, rollout_devices, rollouts
from edge.fleet.variant import Variant
from edge.runtime.errors import BadInput

JOIN_SECONDS = 10.0
"""How often a rollout looks for devices that are to join it."""

BAD = ("failed", "rolled-back", "silent")
MOVING = ("started", "staged")
UNTOUCHED = ("waiting", "unfit")
JOB_UPDATE, JOB_CANCEL = "model.update", "model.cancel"

FUNNEL = ("waiting", "started", "staged", "active", "failed", "rolled-back", "silent", "cancelled", "unfit")
REVERTED = ("reverting", "reverted", "stuck")

Select = Callable[[str], Iterable[str]]
"""Finds the ids of the devices that a `--where` filter names."""


def _no_filter(where: str) -> Iterable[str]:
    raise BadInput(f"where {where!r}: no semantic store is open here")


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
            variants = self._variants(connection, plan.model, plan.version)
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
            joined = self._join(connection, id, plan, variants, chosen)
            if not joined:
                raise BadInput("devices: none is found that is enrolled and active")
            audit(connection, actor, "rollout.create", id, plan=plan.to_dict(), devices=joined)
            self._advance(connection, id)
        return id

    def preview(self, plan: Plan) -> list[dict[str, Any]]:
        """Who would get what, in the order in which they would begin; nothing is changed.

        Raises:
            BadInput: the version is not published.
        """
        chosen = self._chosen(plan)
        with self._database.reading() as connection:
            variants = self._variants(connection, plan.model, plan.version)
            rows = self._candidates(connection, "preview", plan, variants, chosen)
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
            row = self._locked(connection, id)
            if row["state"] != "paused":
                raise Refused(f"rollout {id} is {row['state']}: only a paused one resumes")
            plan = Plan.from_dict(row["plan"])
            phase = row["phase"]
            # The phase was over: the operator has seen how it went, and says go.
            if self._phase_over(connection, id, plan, phase) and phase + 1 < len(plan.steps):
                phase += 1
            self._set(connection, id, state="running", phase=phase, reason="")
            audit(connection, actor, "rollout.resume", id, phase=phase)
            self._advance(connection, id)

    def abort(self, id: str, actor: str, reason: str = "") -> None:
        """Ends it: nobody is started any more, and who has not activated the new model yet drops it.

        Raises:
            Refused: it has ended.
        """
        with self._database.transaction() as connection:
            row = self._locked(connection, id)
            if row["state"] not in ("running", "paused"):
                raise Refused(f"rollout {id} is {row['state']}: it cannot be aborted any more")
            self._abort(connection, id, reason or f"aborted by {actor}", actor)

    def rollback(self, id: str, actor: str) -> int:
        """Takes the new model back: devices where it is active get what they had before; returns how many.

        A rollout that is under way is aborted first.

        Raises:
            Refused: it was rolled back before.
        """
        with self._database.transaction() as connection:
            row = self._locked(connection, id)
            if row["state"] in ("rolling-back", "rolled-back"):
                raise Refused(f"rollout {id} is {row['state']} already")
            if row["state"] in ("running", "paused"):
                self._abort(connection, id, f"rolled back by {actor}", actor)
            plan = Plan.from_dict(row["plan"])
            query = sa.select(rollout_devices).where(
                rollout_devices.c.rollout == id, rollout_devices.c.state.in_(("active", "silent"))
            )
            rows = [dict(each) for each in connection.execute(query).mappings()]
            number = self._revert(connection, id, plan, rows)
            self._set(connection, id, state="rolling-back", reason=f"rolled back by {actor}")
            audit(connection, actor, "rollout.rollback", id, devices=number)
            self._end_rollback(connection, id)
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
                raise BadInput(f"rollout {id[:100]!r}: there is none (edge fleet rollout list)")
            counts = self._counts(connection, id)
            plan = Plan.from_dict(row["plan"])
            total = _fit(counts)
            bad = connection.execute(
                sa.select(rollout_devices.c.device, rollout_devices.c.state, rollout_devices.c.detail)
                .where(rollout_devices.c.rollout == id, rollout_devices.c.state.in_((*BAD, "unfit", "stuck")))
                .order_by(rollout_devices.c.updated_at.desc(), rollout_devices.c.device)
                .limit(100)
            ).mappings()
            return {
                **dict(row),
                "devices": counts,
                "started": _started(counts),
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
        rollout = self._locked(connection, id)
        values = {"state": new, "detail": detail[:1000], "metrics": metrics, "updated_at": self._now()}
        self._set_device(connection, id, device, values)
        if rollout["state"] in ("rolling-back", "rolled-back"):
            if new == "active":  # it did not hear that the model was taken back
                self._revert(connection, id, Plan.from_dict(rollout["plan"]), [{**row, **values}])
            self._end_rollback(connection, id)
        elif new in BAD and rollout["state"] in ("running", "paused"):
            self._abort_if_over(connection, id, Plan.from_dict(rollout["plan"]))
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
                row = self._locked(connection, id)
                if row["state"] not in OPEN:
                    continue
                self._time_out(connection, id)
                if row["state"] == "rolling-back":
                    self._end_rollback(connection, id)
                    continue
                plan_ = Plan.from_dict(row["plan"])
                if not self._abort_if_over(connection, id, plan_) and row["state"] == "running":
                    variants = self._variants(connection, row["model"], row["version"])
                    if joins:
                        self._join(connection, id, plan_, variants, chosen)
                        self._joins_at[id] = self._now() + JOIN_SECONDS
                    self._advance(connection, id)

    # How it does that.

    def _chosen(self, plan: Plan) -> set[str] | None:
        """Ids that the plan names or its filter finds; None for all."""
        if plan.devices is not None:
            return set(plan.devices)
        return None if plan.where is None else set(self._select(plan.where))

    def _variants(self, connection: Connection, model: str, version: str) -> list[Variant]:
        rows = connection.execute(
            sa.select(models.c.variants).where(models.c.name == model, models.c.version == version)
        ).scalar()
        if rows is None:
            raise BadInput(f"{model} {version}: is not published (edge fleet models)")
        return read_variants(rows)

    def _join(
        self, connection: Connection, id: str, plan: Plan, variants: list[Variant], chosen: set[str] | None
    ) -> int:
        """Adds the chosen devices that are not yet part of it, each with the variant that fits; returns how many."""
        rows = self._candidates(connection, id, plan, variants, chosen)
        if rows:
            insert_new(connection, rollout_devices, rows)
        return len(rows)

    def _candidates(
        self, connection: Connection, id: str, plan: Plan, variants: list[Variant], chosen: set[str] | None
    ) -> list[dict[str, Any]]:
        """The rows of the chosen devices that are not yet part of a rollout."""
        inside = sa.select(rollout_devices.c.device).where(rollout_devices.c.rollout == id)
        query = sa.select(devices.c.id, devices.c.inventory, devices.c.online).where(
            devices.c.state == "active", devices.c.id.not_in(inside)
        )
        paths = self._paths(connection, plan.model)
        now, rows = self._now(), []
        for device, raw, online in connection.execute(query):
            if chosen is not None and device not in chosen:
                continue
            inventory = Inventory.read(raw)
            variant, why = choose(variants, inventory)
            # Chance decides, so that no phase is one building; devices that can answer go first.
            digest = hashlib.sha256(f"{id}/{device}".encode()).digest()
            rows.append(
                {
                    "rollout": id,
                    "device": device,
                    "state": "unfit" if variant is None else "waiting",
                    "rank": (0 if online else 1 << 30) + int.from_bytes(digest[:3], "big"),
                    "target": "" if variant is None else variant.path,
                    "before": paths.get(active_sha256(inventory, plan.model), ""),
                    "detail": why,
                    "metrics": {},
                    "updated_at": now,
                }
            )
        return rows

    def _paths(self, connection: Connection, model: str) -> dict[str, str]:
        """TUF path by hash of everything published of a model."""
        rows = connection.execute(sa.select(models.c.variants).where(models.c.name == model)).scalars()
        return {variant.blob.sha256: variant.path for row in rows for variant in read_variants(row)}

    def _advance(self, connection: Connection, id: str) -> None:
        """Starts devices up to what the phase allows, and goes on to the next phase where this one is over."""
        row = self._locked(connection, id)
        plan, phase = Plan.from_dict(row["plan"]), row["phase"]
        while True:
            self._start(connection, id, plan, phase)
            if not self._phase_over(connection, id, plan, phase):
                break
            counts = self._counts(connection, id)
            good, started = counts.get("active", 0) + counts.get("staged", 0), _started(counts)
            if phase + 1 == len(plan.steps):
                if not any(counts.get(state) for state in MOVING):
                    self._set(connection, id, state="done", reason="")
                    audit(connection, "fleet", "rollout.done", id, devices=counts)
                break
            if started and good / started < plan.success:
                reason = f"phase {phase + 1}: {good} of {started} devices succeeded, {plan.success:.0%} are needed"
                self._set(connection, id, state="paused", reason=reason)
                break
            if plan.pause_on_success and started:
                self._set(connection, id, state="paused", reason=f"phase {phase + 1} is done")
                break
            phase += 1
            self._set(connection, id, phase=phase)

    def _start(self, connection: Connection, id: str, plan: Plan, phase: int) -> None:
        counts = self._counts(connection, id)
        room = plan.allowed(phase, _fit(counts)) - _started(counts)
        if room <= 0:
            return
        query = (
            sa.select(rollout_devices.c.device, rollout_devices.c.target)
            .join(devices, devices.c.id == rollout_devices.c.device)
            .where(
                rollout_devices.c.rollout == id,
                rollout_devices.c.state == "waiting",
                devices.c.state == "active",
            )
            .order_by(rollout_devices.c.rank, rollout_devices.c.device)
            .limit(room)
        )
        now = self._now()
        deadline = max(now, plan.activate_at or 0) + plan.timeout
        arguments = {
            "gate": plan.gate,
            "samples": plan.samples,
            "activate_at": plan.activate_at,
            "rollback": False,
            "mirror": plan.mirror,
        }
        queued, changed = [], []
        for device, target in connection.execute(query).all():
            job = _new_job()
            queued.append(_job(job, device, JOB_UPDATE, {**arguments, "target": target}, now))
            changed.append({"to": device, "as": job})
        if not queued:
            return
        _queue(connection, queued)
        connection.execute(
            rollout_devices.update()
            .where(rollout_devices.c.rollout == id, rollout_devices.c.device == sa.bindparam("to"))
            .values(state="started", phase=phase, job=sa.bindparam("as"), deadline=deadline, updated_at=now),
            changed,
        )

    def _phase_over(self, connection: Connection, id: str, plan: Plan, phase: int) -> bool:
        """Whether every device that the phase allows was started and has come to an end.

        Until the time of activation, a device that has tried the model and found it good has.
        """
        counts = self._counts(connection, id)
        moving = counts.get("started", 0)
        if plan.activate_at is None or self._now() >= plan.activate_at or phase + 1 == len(plan.steps):
            moving += counts.get("staged", 0)
        wanted = min(plan.allowed(phase, _fit(counts)), _started(counts) + self._startable(connection, id))
        return moving == 0 and _started(counts) >= wanted

    def _startable(self, connection: Connection, id: str) -> int:
        """Devices that wait and are not revoked."""
        query = (
            sa.select(sa.func.count())
            .select_from(rollout_devices.join(devices, devices.c.id == rollout_devices.c.device))
            .where(rollout_devices.c.rollout == id, rollout_devices.c.state == "waiting", devices.c.state == "active")
        )
        return int(connection.execute(query).scalar_one())

    def _time_out(self, connection: Connection, id: str) -> None:
        now = self._now()
        late = [rollout_devices.c.rollout == id, rollout_devices.c.deadline < now]
        for states, new in ((MOVING, "silent"), (("reverting",), "stuck")):
            connection.execute(
                rollout_devices.update()
                .where(*late, rollout_devices.c.state.in_(states))
                .values(state=new, detail="did not answer in time", updated_at=now)
            )

    def _abort_if_over(self, connection: Connection, id: str, plan: Plan) -> bool:
        """Aborts where more than the allowed share of the devices so far failed."""
        counts = self._counts(connection, id)
        bad, started = sum(counts.get(state, 0) for state in BAD), _started(counts)
        if not bad or bad <= plan.abort_over * started + 1e-9:
            return False
        reason = f"{bad} of {started} devices failed, more than {plan.abort_over * 100:g} %"
        self._abort(connection, id, reason, "fleet")
        return True

    def _abort(self, connection: Connection, id: str, reason: str, actor: str) -> None:
        """Ends the rollout; jobs that no device has are withdrawn, the others' devices are told to drop the model."""
        now = self._now()
        query = sa.select(rollout_devices.c.device, rollout_devices.c.job).where(
            rollout_devices.c.rollout == id, rollout_devices.c.state.in_((*MOVING, "silent"))
        )
        moving = connection.execute(query).all()
        ids = [job for _, job in moving]
        connection.execute(
            rollout_devices.update()
            .where(rollout_devices.c.rollout == id, rollout_devices.c.state.in_(MOVING))
            .values(state="cancelled", updated_at=now)
        )
        for part in (ids[at : at + 500] for at in range(0, len(ids), 500)):
            connection.execute(
                jobs.update()
                .where(jobs.c.id.in_(part), jobs.c.state == "queued")
                .values(state="cancelled", updated_at=now)
            )
        if moving:
            told = [_job(_new_job(), device, JOB_CANCEL, {"job": job}, now) for device, job in moving]
            _queue(connection, told)
        self._set(connection, id, state="aborted", reason=reason)
        audit(connection, actor, "rollout.abort", id, reason=reason)

    def _revert(self, connection: Connection, id: str, plan: Plan, rows: Iterable[Mapping[str, Any]]) -> int:
        """Asks devices to go back to what they had; returns how many. Those that had nothing keep the new model."""
        now, queued = self._now(), []
        for device in rows:
            values: dict[str, Any] = {"updated_at": now}
            if device["before"]:
                job = _new_job()
                arguments = {"target": device["before"], "rollback": True}
                queued.append(_job(job, device["device"], JOB_UPDATE, arguments, now))
                values.update(state="reverting", job=job, deadline=now + plan.timeout)
            elif device["state"] == "active":
                values.update(state="stuck", detail="had no published version before: keeps this one")
            else:
                continue
            self._set_device(connection, id, device["device"], values)
        if queued:
            _queue(connection, queued)
            self._set(connection, id, state="rolling-back")
        return len(queued)

    def _end_rollback(self, connection: Connection, id: str) -> None:
        if not self._counts(connection, id).get("reverting"):
            self._set(connection, id, state="rolled-back")
            audit(connection, "fleet", "rollout.rolled-back", id)

    def _change(self, id: str, actor: str, action: str, states: tuple[str, ...], to: str, reason: str) -> None:
        with self._database.transaction() as connection:
            row = self._locked(connection, id)
            if row["state"] not in states:
                raise Refused(f"rollout {id} is {row['state']}: {action} asks for one that is {' or '.join(states)}")
            self._set(connection, id, state=to, reason=reason)
            audit(connection, actor, f"rollout.{action}", id)

    def _locked(self, connection: Connection, id: str) -> RowMapping:
        row = connection.execute(sa.select(rollouts).where(rollouts.c.id == id).with_for_update()).mappings().first()
        if row is None:
            raise BadInput(f"rollout {id[:100]!r}: there is none (edge fleet rollout list)")
        return row

    def _set(self, connection: Connection, id: str, **values: Any) -> None:
        values["updated_at"] = self._now()
        connection.execute(rollouts.update().where(rollouts.c.id == id).values(**values))
        if "state" in values:
            emit(connection, "rollout.changed", id, {"id": id, "state": values["state"]})

    def _set_device(self, connection: Connection, id: str, device: str, values: dict[str, Any]) -> None:
        connection.execute(
            rollout_devices.update()
            .where(rollout_devices.c.rollout == id, rollout_devices.c.device == device)
            .values(**values)
        )

    def _counts(self, connection: Connection, id: str) -> dict[str, int]:
        """Numbers of devices by state."""
        query = (
            sa.select(rollout_devices.c.state, sa.func.count())
            .where(rollout_devices.c.rollout == id)
            .group_by(rollout_devices.c.state)
        )
        return {state: int(count) for state, count in connection.execute(query)}

    def _counts_of_all(self, connection: Connection) -> dict[str, dict[str, int]]:
        query = sa.select(rollout_devices.c.rollout, rollout_devices.c.state, sa.func.count()).group_by(
            rollout_devices.c.rollout, rollout_devices.c.state
        )
        found: dict[str, dict[str, int]] = {}
        for id, state, count in connection.execute(query):
            found.setdefault(id, {})[state] = int(count)
        return found


def _fit(counts: dict[str, int]) -> int:
    """Devices that the phases count: those for which there is a variant."""
    return sum(count for state, count in counts.items() if state != "unfit")


def _started(counts: dict[str, int]) -> int:
    return sum(count for state, count in counts.items() if state not in UNTOUCHED)


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


def _queue(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Puts jobs into their devices' queues; the server's follower sends them."""
    connection.execute(jobs.insert(), rows)
    for row in rows:
        emit(connection, "job.created", row["id"], {"device": row["device"], "kind": row["kind"]})


def _new_job() -> str:
    return f"u{secrets.token_hex(8)}"


def _job(id: str, device: str, kind: str, arguments: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "id": id,
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
