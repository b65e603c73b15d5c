"""The steps by which a registry came to be what it is; see `edge.fleet.server.database.Migration`."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from edge.fleet.server import tables
from edge.fleet.server.database import Migration
from edge.fleet.server.updates import tables as updates

_REGISTRY = (
    tables.devices,
    tables.labels,
    tables.groups,
    tables.certificates,
    tables.tokens,
    tables.enrollments,
    tables.preapprovals,
    tables.jobs,
    tables.reports,
    tables.events,
    tables.audit,
    tables.settings,
)


def _registry(connection: Connection) -> None:
    tables.metadata.create_all(connection, tables=list(_REGISTRY))


def _audit_only_grows(connection: Connection) -> None:
    """The database itself refuses to change or remove what was audited."""
    if connection.dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
            )
        return
    connection.execute(
        sa.text(
            "CREATE OR REPLACE FUNCTION edge_audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
        )
    )
    connection.execute(
        sa.text(
            "CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION edge_audit_only_grows()"
        )
    )


# Who adds tables adds them to a module with the MetaData of `tables`, and a step with them here.
MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "registry", _registry),
    Migration(2, "the audit log only grows", _audit_only_grows),
    Migration(20, "updates", updates.create),
)
