"""Fleets of devices in a registry, and models in its table, without a broker."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from edge.fleet.inventory import InstalledModel, Inventory
from edge.fleet.server import tables
from edge.fleet.server.database import Database
from edge.fleet.server.updates.catalogue import publish_model
from edge.fleet.variant import Blob, Variant

OLD, NEW = "a" * 64, "b" * 64


def add_devices(database: Database, ids: Iterable[str], *, online: bool = True, **fields: Any) -> None:
    """Adds active devices that run version 1.0 of the model "kws"."""
    inventory = Inventory(
        **{
            "runtimes": {"core": "0.1.0"},
            "ram_kb": 500_000,
            "target": "pi4",
            "models": (InstalledModel("kws", "1.0", OLD, True),),
            **fields,
        }
    )
    rows = [
        {"id": id, "state": "active", "created_at": time.time(), "online": online, "inventory": inventory.json()}
        for id in ids
    ]
    with database.transaction() as connection:
        connection.execute(tables.devices.insert(), rows)


def publish_kws(database: Database) -> None:
    """Two versions of "kws"."""
    for version, sequence, sha256 in (("1.0", 1, OLD), ("2.0", 2, NEW)):
        variant = Variant("kws", version, "bundle", sequence, "bundle", Blob(sha256, 1000), engines=("core",))
        publish_model(database, [variant], {"name": "kws", "version": version}, "root")


def queued(database: Database, kind: str = "model.update") -> dict[str, str]:
    """Job id by device, of jobs that are to be sent."""
    query = sa.select(tables.jobs.c.device, tables.jobs.c.id).where(
        tables.jobs.c.state == "queued", tables.jobs.c.kind == kind
    )
    with database.reading() as connection:
        return {row.device: row.id for row in connection.execute(query)}


def take(database: Database, job: str, state: str = "accepted") -> dict[str, Any]:
    """Marks a job as taken by its device; returns its arguments."""
    with database.transaction() as connection:
        connection.execute(tables.jobs.update().where(tables.jobs.c.id == job).values(state=state))
        body: dict[str, Any] = connection.execute(
            sa.select(tables.jobs.c.body).where(tables.jobs.c.id == job)
        ).scalar_one()
    return body
