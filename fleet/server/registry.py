"""The devices of a fleet as the database has them: read, labelled, grouped, told what they should be.

Every function takes part in the caller's transaction. Whatever changes a device's description emits `device.changed`
with the whole of it, or `device.removed`; whether it is connected is no part of that, and changes too often.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from edge.fleet.errors import BadMessage, FleetError
from edge.fleet.inventory import Inventory
from edge.fleet.messages import FINAL_JOB_STATES, Desired, JobReport
from edge.fleet.server import tables
from edge.fleet.server.database import audit, batches, emit
from edge.fleet.server.updates.tables import OPEN, rollout_devices, rollouts
from edge.fleet.settings import OBEYED

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_IN_A_QUERY = 1000
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:;/_+()@-]{0,99}")


def describe(connection: Connection, device: str) -> dict[str, Any]:
    """All that is known about a device, as JSON: what `device.changed` carries and `edge fleet devices --json` shows.

    Raises:
        FleetError: there is no such device.
    """
    found = describe_all(connection, [device])
    if not found:
        raise FleetError(f"{device}: no such device in this fleet ('edge fleet devices' lists them)")
    return found[0]


def describe_all(connection: Connection, devices: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The same for several devices, or all, in the order of their ids. An operator's label overrides the device's."""
    if devices is None:
        return _describe(connection, None)
    return [row for part in batches(sorted(set(devices)), _IN_A_QUERY) for row in _describe(connection, part)]


def _describe(connection: Connection, names: Sequence[str] | None) -> list[dict[str, Any]]:
    rows, labels, groups = sa.select(tables.devices), sa.select(tables.labels), sa.select(tables.groups)
    if names is not None:
        rows = rows.where(tables.devices.c.id.in_(names))
        labels = labels.where(tables.labels.c.device.in_(names))
        groups = groups.where(tables.groups.c.device.in_(names))
    labels_of: dict[str, dict[str, str]] = {}
    for row in connection.execute(labels):
        labels_of.setdefault(row.device, {})[row.name] = row.value
    groups_of: dict[str, list[str]] = {}
    for row in connection.execute(groups.order_by(tables.groups.c.name)):
        groups_of.setdefault(row.device, []).append(row.name)
    return [
        {
            **row._mapping,
            "labels": {**row.inventory.get("labels", {}), **labels_of.get(row.id, {})},
            "groups": groups_of.get(row.id, []),
        }
        for row in connection.execute(rows.order_by(tables.devices.c.id))
    ]


def add(connection: Connection, device: str, inventory: dict[str, Any], gateway: str | None = None) -> None:
    """A new device, or one of that id that starts over: active, with its first inventory; told what it should be."""
    table, now = tables.devices, time.time()
    before = connection.execute(
        sa.select(table.c.desired, table.c.desired_version).where(table.c.id == device)
    ).one_or_none()
    values: dict[str, Any] = {"state": "active", "gateway": gateway, "inventory": inventory}
    if before is None:
        connection.execute(table.insert(), {"id": device, "created_at": now, **values})
        return
    values |= {"reported": {}, "reported_version": 0}
    connection.execute(table.update().where(table.c.id == device).values(values))
    if before.desired:
        _send_shadow(connection, device, Desired(before.desired_version, before.desired), "fleet")


def changed(connection: Connection, device: str) -> None:
    """Tells those who follow the outbox that a device's description is another now."""
    emit(connection, "device.changed", device, describe(connection, device))


def hello(connection: Connection, device: str, inventory: Inventory) -> None:
    """A device has introduced itself. Who follows is told only if it says something new."""
    known = connection.scalar(sa.select(tables.devices.c.inventory).where(tables.devices.c.id == device))
    document = json.loads(json.dumps(inventory.json()))  # as the database gives it back
    if known != document:
        table = tables.devices
        connection.execute(table.update().where(table.c.id == device).values(inventory=document))
        changed(connection, device)


def set_labels(connection: Connection, device: str, wanted: Mapping[str, str | None], actor: str) -> None:
    """Sets labels, or removes those whose value is None.

    Raises:
        FleetError: there is no such device, or a name or value does not have the form of one.
    """
    describe(connection, device)
    for name, value in wanted.items():
        if not _NAME.fullmatch(name) or (value is not None and not _VALUE.fullmatch(value)):
            raise FleetError(
                f"label {name[:70]!r}={str(value)[:70]!r}: a name is like building, a value like 7 or Hall B"
            )
        table = tables.labels
        connection.execute(table.delete().where(table.c.device == device, table.c.name == name))
        if value is not None:
            connection.execute(table.insert(), {"device": device, "name": name, "value": value})
    audit(connection, actor, "device.label", device, labels=dict(wanted))
    changed(connection, device)


def set_group(connection: Connection, device: str, group: str, member: bool, actor: str) -> None:
    """Puts a device into a group, or takes it out.

    Raises:
        FleetError: there is no such device, or the group's name does not have the form of one.
    """
    describe(connection, device)
    if not _NAME.fullmatch(group):
        raise FleetError(f"group {group[:70]!r}: a name of up to 64 of a-z, 0-9, '.', '_', '-'")
    table = tables.groups
    connection.execute(table.delete().where(table.c.device == device, table.c.name == group))
    if member:
        connection.execute(table.insert(), {"device": device, "name": group})
    audit(connection, actor, "device.group", device, group=group, member=member)
    changed(connection, device)


def set_desired(connection: Connection, device: str, desired: dict[str, Any], actor: str) -> int:
    """Writes what a device should be (the desired side of its shadow); a None removes an entry.

    Args:
        desired: numbers, texts or booleans by name.

    Returns:
        The new version; once the device has it, that is its `reported_version`.

    Raises:
        FleetError: there is no such device, or a setting does not have the form of one.
    """
    device_row = describe(connection, device)
    merged = {name: value for name, value in {**device_row["desired"], **desired}.items() if value is not None}
    version: int = device_row["desired_version"] + 1
    try:
        wanted = Desired.read({"version": version, "desired": merged})
        for name, check in OBEYED.items():
            if desired.get(name) is not None:
                check(desired[name])
    except (BadMessage, FleetError) as error:
        raise FleetError(f"{device}: {error}") from error
    table = tables.devices
    values = {"desired": wanted.settings, "desired_version": version}
    connection.execute(table.update().where(table.c.id == device).values(values))
    audit(connection, actor, "device.desire", device, desired=desired, version=version)
    changed(connection, device)
    _send_shadow(connection, device, wanted, actor)
    return version


def _send_shadow(connection: Connection, device: str, wanted: Desired, actor: str) -> None:
    """Has a device told what it should be, and of no older wish."""
    table = tables.jobs
    connection.execute(
        table.update()
        .where(table.c.device == device, table.c.kind == "shadow", table.c.state == "queued")
        .values(state="cancelled", detail=f"version {wanted.version} follows", updated_at=time.time())
    )
    create_job(connection, device, "shadow", wanted.json(), actor)


def create_job(
    connection: Connection,
    device: str,
    kind: str,
    arguments: dict[str, Any],
    actor: str,
    expires_at: float | None = None,
) -> str:
    """Puts something to do into a device's queue; the server sends it when the device is there, and until it answers.

    Returns:
        The job's id.

    Raises:
        FleetError: there is no such device.
    """
    describe(connection, device)
    now, job = time.time(), secrets.token_hex(8)
    row = {"id": job, "device": device, "kind": kind, "body": arguments, "state": "queued"}
    connection.execute(tables.jobs.insert(), {**row, "created_at": now, "updated_at": now, "expires_at": expires_at})
    emit(connection, "job.created", job, {"device": device, "kind": kind})
    audit(connection, actor, "job.create", device, job=job, kind=kind)
    return job


def jobs(connection: Connection, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Jobs by their ids, in the order of those."""
    names, table = list(ids), tables.jobs
    found = {
        row.id: dict(row._mapping)
        for part in batches(names, _IN_A_QUERY)
        for row in connection.execute(sa.select(table).where(table.c.id.in_(part)))
    }
    return [found[name] for name in names if name in found]


def open_jobs(connection: Connection, devices: Iterable[str]) -> list[dict[str, Any]]:
    """What devices have yet to do, oldest first."""
    table, now = tables.jobs, time.time()
    query = (
        sa.select(table)
        .where(table.c.device.in_(tuple(devices)), table.c.state.not_in((*FINAL_JOB_STATES, "cancelled")))
        .where(sa.or_(table.c.expires_at.is_(None), table.c.expires_at > now))
        .order_by(table.c.created_at, table.c.id)
    )
    return [dict(row._mapping) for row in connection.execute(query)]


def job_reported(connection: Connection, device: str, job: str, report: JobReport) -> bool:
    """Takes down how far a device says it has come; a job that has ended is not reopened.

    Returns:
        Whether that was news.
    """
    table = tables.jobs
    values = {"state": report.state, "detail": report.detail, "metrics": report.metrics, "updated_at": time.time()}
    done = connection.execute(
        table.update()
        .where(table.c.id == job, table.c.device == device, table.c.state.not_in((*FINAL_JOB_STATES, "cancelled")))
        .values(values)
    )
    if not done.rowcount:
        return False
    emit(connection, "job.reported", job, {"device": device, **report.json()})
    kind = connection.execute(sa.select(table.c.kind, table.c.body).where(table.c.id == job)).one()
    if kind.kind == "shadow" and report.state == "done":
        version = kind.body.get("version", 0)
        devices = tables.devices
        connection.execute(
            devices.update()
            .where(devices.c.id == device, devices.c.reported_version < version)
            .values(reported=kind.body.get("desired", {}), reported_version=version)
        )
    return True


def mark_silent(connection: Connection, called: float, devices: Iterable[str] | None = None) -> None:
    """Devices that have not answered a roll call are not there.

    Args:
        called: when it was called, seconds since 1970.
        devices: who was called; None: all.
    """
    table = tables.devices
    silent = sa.or_(table.c.last_seen.is_(None), table.c.last_seen < called)
    query = table.update().where(table.c.online, silent)
    if devices is not None:
        query = query.where(table.c.id.in_(list(devices)))
    connection.execute(query.values(online=False))


def telemetry(
    connection: Connection, device: str, since: float, most: int = 10_000
) -> list[tuple[float, dict[str, float | int | str | bool]]]:
    """What a device has measured since a time (seconds since 1970): when, by its clock, and the values by name.

    The newest `most` reports, oldest first.

    Raises:
        FleetError: there is no such device.
    """
    describe(connection, device)
    table = tables.reports
    query = (
        sa.select(table.c.at, table.c.body)
        .where(table.c.device == device, table.c.kind == "tel", table.c.received_at >= since)
        .order_by(table.c.at.desc())
        .limit(most)
    )
    return [(row.at, json.loads(row.body)["values"]) for row in connection.execute(query)][::-1]


def remove(connection: Connection, device: str, actor: str) -> None:
    """Forgets a device that is revoked; its certificates and what was audited stay.

    Raises:
        FleetError: there is no such device, or it is not revoked.
    """
    if describe(connection, device)["state"] != "revoked":
        raise FleetError(f"{device}: revoke it first ('edge fleet revoke {device}'), so that it cannot come back")
    connection.execute(tables.devices.delete().where(tables.devices.c.id == device))
    # What ended rollouts were stays true; those that go on go on without it.
    going_on = sa.select(rollouts.c.id).where(rollouts.c.state.in_(OPEN))
    part = rollout_devices
    connection.execute(part.delete().where(part.c.device == device, part.c.rollout.in_(going_on)))
    audit(connection, actor, "device.remove", device)
    emit(connection, "device.removed", device, {"id": device})


def prune(connection: Connection, before: float) -> int:
    """Drops reports that were received, and events that were emitted, before a time; returns how many reports.

    Repeats of what is dropped would be taken for new: devices must not keep unacknowledged messages as long as that. A
    projection that has not followed for as long has to be built anew.
    """
    reports = tables.reports
    connection.execute(tables.events.delete().where(tables.events.c.at < before))
    return connection.execute(reports.delete().where(reports.c.received_at < before)).rowcount
