"""Which devices a `--where` filter names, out of the registry."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.fleet.server.database import Database

_log = logging.getLogger("edge.fleet.updates")


def selector(database: Database) -> Callable[[str], list[str]]:
    """Finds devices by a filter of `edge.fleet.server.semantic.filters`.

    The filter is asked of the registry's facts, not of the semantic store: a rollout must not wait for a projection.
    """

    def select(where: str) -> list[str]:
        from edge.fleet.server.semantic.candidates import devices
        from edge.fleet.server.semantic.sql import SqlRegistry

        # An inventory that semantics cannot read matches no filter.
        return [device.id for device in devices(SqlRegistry(database), where, _log.warning)]

    return select
