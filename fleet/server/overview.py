"""A fleet in figures."""

from __future__ import annotations

import time

import sqlalchemy as sa

from edge.fleet.messages import FINAL_JOB_STATES
from edge.fleet.server import enrollment, tables
from edge.fleet.server.database import Database

_SOON = 5 * 86400


def overview(database: Database) -> dict[str, int]:
    """How many devices, of which online and revoked; what waits; certificates of active devices that end soon."""
    devices, certificates, jobs = tables.devices.c, tables.certificates.c, tables.jobs.c
    newest = (
        sa.select(certificates.device, sa.func.max(certificates.not_after).label("ends"))
        .where(certificates.revoked_at.is_(None))
        .group_by(certificates.device)
        .subquery()
    )
    soon = sa.select(sa.func.count()).select_from(newest).where(newest.c.ends < time.time() + _SOON)
    with database.reading() as connection:

        def count(*conditions: sa.ColumnElement[bool], of: sa.Table = tables.devices) -> int:
            return connection.scalar(sa.select(sa.func.count()).select_from(of).where(*conditions)) or 0

        return {
            "devices": count(),
            "online": count(devices.online, devices.state == "active"),
            "revoked": count(devices.state == "revoked"),
            "pending": count(tables.enrollments.c.state == "pending", of=tables.enrollments),
            "tokens": len(enrollment.open_tokens(connection)),
            "jobs": count(jobs.state.not_in((*FINAL_JOB_STATES, "cancelled")), of=tables.jobs),
            "expiring": connection.scalar(soon) or 0,
        }
