"""Simulated devices as members of the fleet: the claim tokens that let them in, and their removal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from edge.fleet.errors import FleetError, Refused
from edge.fleet.server import enrollment, registry, tables
from edge.fleet.server.database import Database, batches, emit, setting
from edge.fleet.simulate.inventories import SIMULATED

_IN_A_TRANSACTION = 250
_TOKEN_SECONDS = 6 * 3600.0


def issue_tokens(
    database: Database, names: Sequence[str], actor: str, told: Callable[[int], None] = lambda done: None
) -> dict[str, str]:
    """A claim token for each of the devices, good for it alone, that needs no approval.

    Raises:
        FleetError: the fleet has never been up.
        Refused: a device of one of the names is in the registry already.
    """
    known = set(names) & _ids(database)
    if known:
        raise Refused(
            f"{min(known)}: is in the registry, but its key is not here: take simulated devices out "
            "('edge fleet simulate --remove'), or choose another --prefix"
        )
    made: dict[str, str] = {}
    for part in batches(names, _IN_A_TRANSACTION):
        with database.transaction() as connection:
            key = setting(connection, "broker_key")
            if key is None:
                raise FleetError("the fleet has not been up yet, so that its broker has no key: start 'edge fleet up'")
            for name in part:
                token = enrollment.create_token(connection, key, actor, _TOKEN_SECONDS, name, True, SIMULATED)
                made[name] = str(token)
        told(len(made))
    return made


def close_unused(database: Database, devices: Sequence[str]) -> int:
    """Closes the tokens for these devices that nobody has used; returns how many."""
    table, closed = tables.tokens, 0
    with database.transaction() as connection:
        for part in batches(devices, _IN_A_TRANSACTION):
            query = table.update().where(
                table.c.device.in_(part),
                table.c.used_by.is_(None),
                table.c.closed_at.is_(None),
            )
            closed += connection.execute(query.values(closed_at=time.time())).rowcount
        if closed:
            emit(connection, "token.changed", "", {})
    return closed


def simulated(database: Database, prefix: str) -> list[str]:
    """Ids of the simulated devices in the registry that begin with `prefix` and a hyphen.

    What counts is the label that came with their claim tokens; what a device says of itself does not.
    """
    table, ((name, value),) = tables.labels, SIMULATED.items()
    query = sa.select(table.c.device).where(table.c.name == name, table.c.value == value)
    with database.reading() as connection:
        return sorted(one for one in connection.scalars(query) if one.startswith(f"{prefix}-"))


def remove(
    database: Database, names: Sequence[str], folder: Path, actor: str, told: Callable[[int], None] = lambda done: None
) -> None:
    """Revokes simulated devices, forgets them, and deletes their folders. Interrupted, it can be called again."""
    done = 0
    for part in batches(names, _IN_A_TRANSACTION):
        with database.transaction() as connection:
            for name in part:
                enrollment.revoke(connection, name, actor, "simulated device removed")
                registry.remove(connection, name, actor)
        for name in part:
            shutil.rmtree(folder / name, ignore_errors=True)
        done += len(part)
        told(done)
    if not any(folder.glob("*-*")):  # nobody's link is left
        shutil.rmtree(folder / "bundles", ignore_errors=True)


def _ids(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.scalars(sa.select(tables.devices.c.id)))
