"""Which devices take part in a rollout, with which variant, and in which order they begin."""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from edge.fleet.inventory import Inventory
from edge.fleet.server.database import batches, insert_new
from edge.fleet.server.tables import devices
from edge.fleet.server.updates.plan import Plan, active_sha256, choose, read_variants
from edge.fleet.server.updates.record import Record
from edge.fleet.server.updates.tables import models, rollout_devices
from edge.fleet.variant import Variant
from edge.runtime.errors import BadInput


def published_variants(connection: Connection, model: str, version: str) -> list[Variant]:
    """The variants of a version.

    Raises:
        BadInput: it is not published.
    """
    rows = connection.execute(
        sa.select(models.c.variants).where(models.c.name == model, models.c.version == version)
    ).scalar()
    if rows is None:
        raise BadInput(f"{model} {version}: is not published (edge fleet models)")
    return read_variants(rows)


def check_named(connection: Connection, plan: Plan) -> None:
    """Checks that the devices which a plan names are there.

    Raises:
        BadInput: it names those that are not.
    """
    missing = []
    for part in batches(plan.devices or (), 500):
        query = sa.select(devices.c.id).where(devices.c.id.in_(part), devices.c.state == "active")
        known = set(connection.scalars(query))
        missing += [name for name in part if name not in known]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise BadInput(f"{', '.join(missing[:8])}{more}: no active device of this fleet (edge fleet devices)")


def join(record: Record, model: str, variants: list[Variant], chosen: set[str] | None) -> int:
    """Adds the chosen devices that are not yet part of it, each with the variant that fits; returns how many."""
    rows = candidates(record, model, variants, chosen)
    if rows:
        insert_new(record.connection, rollout_devices, rows)
    return len(rows)


def candidates(record: Record, model: str, variants: list[Variant], chosen: set[str] | None) -> list[dict[str, Any]]:
    """The rows of the devices that are not yet part of a rollout.

    Args:
        chosen: ids of the devices that may take part; None: all.
    """
    inside = sa.select(rollout_devices.c.device).where(rollout_devices.c.rollout == record.id)
    query = sa.select(devices.c.id, devices.c.inventory, devices.c.online).where(
        devices.c.state == "active", devices.c.id.not_in(inside)
    )
    published = _published(record.connection, model)
    now, rows = record.now(), []
    for device, raw, online in record.connection.execute(query):
        if chosen is not None and device not in chosen:
            continue
        inventory = Inventory.read(raw)
        variant, why = choose(variants, inventory)
        has = published.get(active_sha256(inventory, model))
        if variant is not None and has is not None and has.sequence > variant.sequence:
            # It would refuse that itself: an old version with an old fault is what a thief would bring back.
            why = f"has version {has.version}, which is newer: edge fleet rollout rollback takes that back"
            variant = None
        # Chance decides, so that no phase is one building; devices that can answer go first.
        digest = hashlib.sha256(f"{record.id}/{device}".encode()).digest()
        rows.append(
            {
                "rollout": record.id,
                "device": device,
                "state": "unfit" if variant is None else "waiting",
                "rank": (0 if online else 1 << 30) + int.from_bytes(digest[:3], "big"),
                "target": "" if variant is None else variant.path,
                "before": "" if has is None else has.path,
                "detail": why,
                "metrics": {},
                "updated_at": now,
            }
        )
    return rows


def _published(connection: Connection, model: str) -> dict[str, Variant]:
    """Everything published of a model, by hash."""
    rows = connection.execute(sa.select(models.c.variants).where(models.c.name == model)).scalars()
    return {variant.blob.sha256: variant for row in rows for variant in read_variants(row)}
