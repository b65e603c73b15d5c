"""The audit log, read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from edge.fleet.errors import FleetError
from edge.fleet.server import tables
from edge.fleet.server.database import Database, chain_hash


def entries(database: Database, most: int, subject: str | None = None) -> list[dict[str, Any]]:
    """The newest entries, newest first; of one subject, or all."""
    query = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(most)
    if subject is not None:
        query = query.where(tables.audit.c.subject == subject)
    with database.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def verified_entries(database: Database) -> Iterator[dict[str, Any]]:
    """All entries, oldest first, each checked against the one before.

    Raises:
        FleetError: at the first entry that was changed, or before which one was taken out.
    """
    before = ""
    with database.reading() as connection:
        for row in connection.execute(sa.select(tables.audit).order_by(tables.audit.c.id)):
            entry = dict(row._mapping)
            if chain_hash(before, entry) != entry["chain"]:
                raise FleetError(f"audit entry {entry['id']}: changed, or one before it removed, after it was written")
            before = entry["chain"]
            yield entry
