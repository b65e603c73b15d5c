"""The registry's database as semantics reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from edge.fleet.server import tables
from edge.fleet.server.database import Database
from edge.fleet.server.semantic.registry import Event
from edge.fleet.server.updates import tables as updates

KINDS = ("device.changed", "device.removed", "model.published", "model.removed")
_PAGE = 1_000
# What a match does not look at, and what differs most between devices.
_NO_CAPABILITIES = ("labels", "models", "boards")


class SqlRegistry:
    """Devices, models and events out of the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def devices(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Devices in the order of their ids, a page at a time: all at once, a large fleet would not fit memory."""
        devices, labels, groups = tables.devices, tables.labels, tables.groups
        columns = (devices.c.id, devices.c.state, devices.c.gateway, devices.c.inventory)
        after = ""
        while True:
            with self._database.reading() as connection:
                page = connection.execute(
                    sa.select(*columns).where(devices.c.id > after).order_by(devices.c.id).limit(_PAGE)
                ).all()
                if not page:
                    return
                before, after = after, page[-1].id
                labels_of: dict[str, dict[str, str]] = {}
                for row in connection.execute(
                    sa.select(labels).where(labels.c.device > before, labels.c.device <= after)
                ):
                    labels_of.setdefault(row.device, {})[row.name] = row.value
                groups_of: dict[str, list[str]] = {}
                for row in connection.execute(
                    sa.select(groups).where(groups.c.device > before, groups.c.device <= after)
                ):
                    groups_of.setdefault(row.device, []).append(row.name)
            for device, state, gateway, inventory in page:
                yield (
                    device,
                    {
                        "state": state,
                        "gateway": gateway,
                        "inventory": inventory,
                        "labels": labels_of.get(device, {}),
                        "groups": groups_of.get(device, []),
                    },
                )

    def capabilities(self) -> list[tuple[str, str]]:
        """Ids, in their order, and what `match` looks at, cut out by the database: equal devices have equal texts."""
        table = tables.devices
        if self._database.is_sqlite:
            text: Any = sa.func.json_remove(table.c.inventory, *(f"$.{name}" for name in _NO_CAPABILITIES))
        else:
            names = sa.cast(sa.literal("{" + ",".join(_NO_CAPABILITIES) + "}"), ARRAY(sa.Text))
            text = sa.cast(sa.cast(table.c.inventory, JSONB).op("-")(names), sa.Text)
        query = sa.select(table.c.id, text).where(table.c.state != "revoked").order_by(table.c.id)
        with self._database.reading() as connection:
            return [(row[0], row[1]) for row in connection.execute(query)]

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

    def first_event(self) -> int:
        with self._database.reading() as connection:
            return connection.scalar(sa.select(sa.func.min(tables.events.c.id))) or 0

    def last_event(self) -> int:
        return self._database.last_event()
