"""Jobs on their way to devices: when they are made, when their device comes, and again until it answers."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from edge.fleet import topics
from edge.fleet.messages import Job
from edge.fleet.server import registry, tables
from edge.fleet.server.database import Database
from edge.fleet.server.ingest import Publication
from edge.fleet.server.link import Link

# A job that is not answered is sent again when its device connects, and after this.
RESEND_SECONDS = 120.0


class Jobs:
    """Sends jobs out of the database, which alone knows what is open."""

    def __init__(self, database: Database, link: Link) -> None:
        self._database = database
        self._link = link

    def came_in(self, connection: sa.Connection, devices: list[str]) -> list[Publication]:
        """Devices have connected: they get what they have yet to do."""
        return [self._publication(job["device"], job) for job in registry.open_jobs(connection, devices)]

    def send(self, job: str) -> None:
        """Sends a job, by its id."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job)).first()
        if row is not None:
            self._link.publish(self._publication(row.device, dict(row._mapping)))

    def resend(self) -> None:
        """Sends again what devices that are there have not answered for a while."""
        table, devices = tables.jobs, tables.devices
        query = (
            sa.select(table)
            .join(devices, devices.c.id == table.c.device)
            .where(table.c.state == "queued", devices.c.online, table.c.updated_at < time.time() - RESEND_SECONDS)
            .limit(1000)
        )
        with self._database.reading() as connection:
            for row in connection.execute(query).all():
                self._link.publish(self._publication(row.device, dict(row._mapping)))

    def _publication(self, device: str, job: dict[str, Any]) -> Publication:
        return self._link.wrap(topics.down(device, "job", job["id"]), Job(job["kind"], job["body"]).json())
