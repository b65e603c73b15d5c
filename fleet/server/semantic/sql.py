"""The registry's database as semantics reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from edge.fleet.server import tables
from edge.fleet.server.database import Database
from edge.fleet.server.semantic.registry import Event
from edge.fleet.server.updates import tables as updates

KINDS = ("device.changed", "device.removed", "model.published", "model.removed")
_PAGE = 1_000


class SqlRegistry:
    """Devices, models and events out of the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def devices(self) -> list[tuple[str, dict[str, Any]]]:
        labels: dict[str, dict[str, str]] = {}
        groups: dict[str, list[str]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(sa.select(tables.labels)):
                labels.setdefault(row.device, {})[row.name] = row.value
            for row in connection.execute(sa.select(tables.groups)):
                groups.setdefault(row.device, []).append(row.name)
            table = tables.devices
            query = sa.select(table.c.id, table.c.state, table.c.gateway, table.c.inventory).order_by(table.c.id)
            return [
                (
                    row.id,
                    {
                        "state": row.state,
                        "gateway": row.gateway,
                        "inventory": row.inventory,
                        "labels": labels.get(row.id, {}),
                        "groups": groups.get(row.id, []),
                    },
                )
                for row in connection.execute(query)
            ]

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        table = updates.models
        query = sa.select(table.c.name, table.c.version, table.c.variants, table.c.manifest)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.name, table.c.version))
            return [(f"{row.name}:{row.version}", dict(row._mapping)) for row in rows]

    def events(self, after: int) -> Iterator[Event]:
        while page := self._database.follow(after, KINDS, most=_PAGE):
            for event in page:
                yield Event(event.id, event.kind, event.subject, event.body)
            after = page[-1].id

    def last_event(self) -> int:
        return self._database.last_event()
