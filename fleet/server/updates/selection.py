"""Which devices a `--where` filter names, out of the registry."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.fleet.server.database import Database
from edge.runtime.errors import BadFile

_log = logging.getLogger("edge.fleet.updates")


def selector(database: Database) -> Callable[[str], list[str]]:
    """Finds devices by a filter of `edge.fleet.server.semantic.filters`.

    The filter is asked of the registry's facts, not of the semantic store: a rollout must not wait for a projection.
    """

    def select(where: str) -> list[str]:
        from edge.fleet.server.semantic.facts import DeviceFacts
        from edge.fleet.server.semantic.filters import matches, parse
        from edge.fleet.server.semantic.sql import SqlRegistry

        filter_ = parse(where)
        found = []
        for device, body in SqlRegistry(database).devices():
            try:
                if matches(filter_, DeviceFacts.from_body(device, body)):
                    found.append(device)
            except BadFile as error:  # an inventory that semantics cannot read matches no filter
                _log.warning("%s", error)
        return found

    return select
