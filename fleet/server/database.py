"""The registry's database: SQLite in one file by default, PostgreSQL by URL; transactions, migrations, outbox, audit.

What is committed here is durable (SQLite: WAL with synchronous FULL), and nothing is promised to a device before. Who
keeps a projection of it (the semantic store, the broker's files) follows the outbox: `emit` writes an event in the same
transaction as the change, `follow` reads those after the last one that was seen, in the order of commits.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

from edge.fleet.errors import FleetError
from edge.fleet.server import tables
from edge.runtime.fields import reason

_Item = TypeVar("_Item")

_LOCK = 0x65646765  # "edge": PostgreSQL's advisory lock that orders our writers
_TAKE_TURN = sa.text("SELECT pg_advisory_xact_lock(:key)")
_BUSY_SECONDS = 30.0


@dataclass(frozen=True)
class Migration:
    """One step of the schema. Steps are applied once each, in the order of their numbers, whoever added them.

    Numbers: 1 to 19 the registry, 20 to 39 updates, 40 to 59 semantics, 60 on the rest. A step must bear that the
    tables as they are defined today have been made by an earlier one (`create_all` is how every first one begins).
    """

    number: int
    name: str
    apply: Callable[[Connection], None]


@dataclass(frozen=True)
class Event:
    """What happened to what: `device.changed`, and the whole JSON of the device as it then was."""

    id: int
    kind: str
    subject: str
    body: dict[str, Any]
    at: float


class Database:
    """A connection pool and the rules of its use.

    Args:
        url: a path of a SQLite file (made if missing), or "postgresql://user@host/name".

    Raises:
        FleetError: the database cannot be opened, or is of a newer edge.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = _sqlalchemy_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        # One writer at a time is what SQLite can do: threads of one process wait here, where it is fair and cheap.
        self._writing = threading.RLock()
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS, "check_same_thread": False}}
        self.engine = sa.create_engine(self.url, **(options if self.is_sqlite else {"pool_pre_ping": True}))
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _configure_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        self._reader = self.engine.execution_options(edge_reads=True)
        try:
            self._migrate()
        except DBAPIError as error:
            raise FleetError(f"{self.shown}: cannot be opened ({reason(error.orig or error)})") from error

    @property
    def shown(self) -> str:
        """The database for messages: a path, or a URL without its password."""
        return (self.url.database or "") if self.is_sqlite else self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def transaction(self, in_turn: bool = True) -> Iterator[Connection]:
        """A connection in a transaction that may write: committed, durably, at a clean end; else rolled back.

        Writers take turns, of all processes: that keeps events and audit in order, and writers from waiting for rows of
        each other's. SQLite has no other way; on PostgreSQL an advisory lock does it.

        Args:
            in_turn: False for one that will neither `emit` nor `audit`, nor write what those that do might write in
                another order: PostgreSQL then lets it go beside others.
        """
        if self.is_sqlite:
            with self._writing, self.engine.begin() as connection:
                yield connection
        else:
            with self.engine.begin() as connection:
                if in_turn:
                    connection.execute(_TAKE_TURN, {"key": _LOCK})
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database and does not wait for writers."""
        with self._reader.begin() as connection:
            yield connection

    def follow(self, after: int, kinds: Iterable[str] | None = None, most: int = 1000) -> list[Event]:
        """Events with ids above `after`, oldest first, at most `most`; of some kinds ("device.changed"), or all."""
        query = sa.select(tables.events).where(tables.events.c.id > after).order_by(tables.events.c.id).limit(most)
        if kinds is not None:
            query = query.where(tables.events.c.kind.in_(tuple(kinds)))
        with self.reading() as connection:
            return [Event(**row._mapping) for row in connection.execute(query)]

    def last_event(self) -> int:
        """The id of the newest event, 0 if there is none."""
        with self.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(tables.events.c.id))) or 0

    def _migrate(self) -> None:
        from edge.fleet.server.migrations import MIGRATIONS

        known = sorted(MIGRATIONS, key=lambda step: step.number)
        assert len({step.number for step in known}) == len(known), "two migrations have one number"
        with self.transaction() as connection:
            tables.migrations.create(connection, checkfirst=True)
            done = set(connection.scalars(sa.select(tables.migrations.c.number)))
            if newer := done - {step.number for step in known}:
                raise FleetError(
                    f"{self.shown}: written by a newer edge (its schema has step {max(newer)}): update edge"
                )
            for step in known:
                if step.number not in done:
                    step.apply(connection)
                    row = {"number": step.number, "name": step.name, "at": time.time()}
                    connection.execute(tables.migrations.insert(), row)


def emit(connection: Connection, kind: str, subject: str, body: dict[str, Any]) -> None:
    """Adds an event to the outbox, within the transaction of the change that it tells of."""
    _in_turn(connection)
    row = {"kind": kind, "subject": subject, "body": body, "at": time.time()}
    connection.execute(tables.events.insert(), row)


def audit(connection: Connection, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Writes down who did what to what. Rows can only be added, and each is chained to the one before by a hash.

    Args:
        actor: a person ("root@host"), a device's id, or "fleet" for what the server does by itself.
        action: "token.create", "device.revoke".
        subject: what it was done to: a device's id, a key's fingerprint, a file.
        detail: more, as JSON.
    """
    _in_turn(connection)
    newest = sa.select(tables.audit.c.chain).order_by(tables.audit.c.id.desc()).limit(1)
    row = {"at": time.time(), "actor": actor, "action": action, "subject": subject, "detail": detail}
    chain = chain_hash(connection.scalar(newest) or "", row)
    connection.execute(tables.audit.insert(), {**row, "chain": chain})


def chain_hash(before: str, row: dict[str, Any]) -> str:
    """The `chain` of an audit row, from the one before it ("" for the first) and the row's other columns but id."""
    names = ("at", "actor", "action", "subject", "detail")
    body = json.dumps([before, *(row[name] for name in names)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


def setting(connection: Connection, name: str, default: Any = None) -> Any:
    """A value that the fleet keeps for itself, or `default`."""
    row = connection.execute(sa.select(tables.settings.c.value).where(tables.settings.c.name == name)).first()
    return default if row is None else row.value


def set_setting(connection: Connection, name: str, value: Any) -> None:
    upsert(connection, tables.settings, {"name": name, "value": value})


def upsert(connection: Connection, table: Table, rows: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Inserts rows; where the primary key is taken, the row there gets the values."""
    first = rows if isinstance(rows, dict) else rows[0]
    keys = [column.name for column in table.primary_key]
    statement = _insert(connection, table)
    changed = {name: statement.excluded[name] for name in first if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def insert_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Inserts those of the rows whose key is not taken."""
    connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)


def claim(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Inserts those of the rows, of different keys, whose key is not taken, and returns the keys of those.

    Of several transactions that insert the same key at once, in whatever processes, one gets it: the others wait until
    it is committed. They do not wait for each other, because each inserts in the order of the keys.
    """
    names = [column.name for column in table.primary_key]
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in names))
    if connection.dialect.name != "sqlite":
        arrays = tuple([row[name] for row in ordered] for name in rows[0])
        found = connection.exec_driver_sql(_unnest(table, tuple(rows[0])), arrays)
        return {tuple(row) for row in found}
    keys = {tuple(row[name] for name in names) for row in rows}
    savepoint = connection.begin_nested()
    if connection.execute(_insert(connection, table).on_conflict_do_nothing(), ordered).rowcount == len(rows):
        savepoint.commit()
        return keys
    savepoint.rollback()
    # Some are there: rare, and SQLite's only writer may look before it writes.
    columns = [table.c[name] for name in names]
    taken: set[tuple[Any, ...]] = set()
    for part in batches(sorted(keys), 300):
        query = sa.select(*columns).where(sa.tuple_(*columns).in_(part))
        taken |= {tuple(row) for row in connection.execute(query)}
    fresh = keys - taken
    if fresh:
        insert_new(connection, table, [row for row in ordered if tuple(row[name] for name in names) in fresh])
    return fresh


def batches(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    """`items` in parts of at most `most`, as a statement takes some ten thousand values, no more."""
    return (items[start : start + most] for start in range(0, len(items), most))


@lru_cache(maxsize=8)
def _unnest(table: Table, names: tuple[str, ...]) -> str:
    """PostgreSQL's statement that inserts from one array for each column, and returns the keys of what is new."""
    from sqlalchemy.dialects import postgresql

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    arrays = ", ".join(f"%s::{table.c[name].type.compile(dialect)}[]" for name in names)
    keys = ", ".join(column.name for column in table.primary_key)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM unnest({arrays}) "  # noqa: S608 (names of ours)
        f"ON CONFLICT DO NOTHING RETURNING {keys}"
    )


def _insert(connection: Connection, table: Table) -> Any:
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table)


def _in_turn(connection: Connection) -> None:
    """On PostgreSQL ids are given before the commit: whoever writes events or audit does so after the one before.

    `Database.transaction` has seen to that already where it was asked to; taken again, the lock costs a round trip.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(_TAKE_TURN, {"key": _LOCK})


def _sqlalchemy_url(url: str | Path) -> sa.URL:
    if isinstance(url, str) and "://" in url:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            return parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise FleetError(
                f"{parsed.drivername}: the registry is kept in SQLite or PostgreSQL: postgresql://user@host/name"
            )
        return parsed
    return sa.URL.create("sqlite", database=str(url))


def _configure_sqlite(dbapi: Any, record: object) -> None:
    dbapi.isolation_level = None  # begin and commit are ours, not sqlite3's
    cursor = dbapi.cursor()
    # FULL: a commit is on the disk before it is told of; NORMAL would lose the last ones at a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: a transaction that began by reading could not become a writer once another has written.
    reads = connection.get_execution_options().get("edge_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
