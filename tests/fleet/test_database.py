"""The registry's database: durable, in order, append-only where it must be, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from edge.fleet.errors import FleetError
from edge.fleet.server import tables
from edge.fleet.server.database import (
    Database,
    audit,
    chain_hash,
    emit,
    insert_new,
    set_setting,
    setting,
    upsert,
)


def test_a_transaction_is_whole_or_not_at_all(any_database: Database) -> None:
    with any_database.transaction() as connection:
        set_setting(connection, "a", {"n": 1})
    with pytest.raises(ZeroDivisionError), any_database.transaction() as connection:
        set_setting(connection, "a", {"n": 2})
        emit(connection, "device.changed", "attic", {})
        raise ZeroDivisionError
    with any_database.reading() as connection:
        assert setting(connection, "a") == {"n": 1}
        assert setting(connection, "b", 7) == 7
    assert any_database.last_event() == 0


def test_migrations_run_once(any_database: Database) -> None:
    url = any_database.url.render_as_string(hide_password=False)
    again = Database(url)
    with again.transaction() as connection:
        numbers = list(connection.scalars(sa.select(tables.migrations.c.number)))
        assert len(numbers) == len(set(numbers)) >= 2
        connection.execute(tables.migrations.insert(), {"number": 9999, "name": "later", "at": 0})
    again.close()
    with pytest.raises(FleetError, match="newer edge"):
        Database(url)


def test_the_outbox_is_followed_in_order(any_database: Database) -> None:
    def write(name: str) -> None:
        for number in range(20):
            with any_database.transaction() as connection:
                emit(connection, "device.changed", name, {"n": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    seen: list[tuple[str, int]] = []
    after = 0
    while len(seen) < 60:
        for event in any_database.follow(after, ["device.changed"], most=7):
            after = event.id
            seen.append((event.subject, event.body["n"]))
    for thread in threads:
        thread.join()
    for name in "abc":
        assert [number for subject, number in seen if subject == name] == list(range(20))
    assert any_database.follow(after) == []
    assert any_database.follow(0, ["model.published"]) == []


def test_the_audit_log_only_grows(any_database: Database) -> None:
    with any_database.transaction() as connection:
        audit(connection, "root@host", "token.create", "tabc", expires=1.5)
        audit(connection, "root@host", "device.approve", "attic")
    with any_database.reading() as connection:
        rows = connection.execute(sa.select(tables.audit).order_by(tables.audit.c.id)).all()
    before = ""
    for row in rows:
        before = chain_hash(before, dict(row._mapping))
        assert row.chain == before
    for statement in (
        tables.audit.update().values(actor="nobody"),
        tables.audit.delete(),
    ):
        with pytest.raises(sa.exc.DBAPIError, match="only grows"), any_database.transaction() as connection:
            connection.execute(statement)


def test_inserting_what_is_there(any_database: Database) -> None:
    row = {"device": "a", "boot": "b", "seq": 1, "kind": "tel", "at": 1.0, "received_at": 1.0, "body": "{}"}
    with any_database.transaction() as connection:
        insert_new(connection, tables.reports, [row, row, {**row, "seq": 2}])
        insert_new(connection, tables.reports, [{**row, "body": "other"}])
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.reports)) == 2
        upsert(connection, tables.preapprovals, {"subject": "a", "created_at": 1.0, "created_by": "x"})
        upsert(connection, tables.preapprovals, [{"subject": "a", "created_at": 2.0, "created_by": "x"}])
        assert connection.scalar(sa.select(tables.preapprovals.c.created_at)) == 2.0


def test_two_processes_take_turns(database: Database) -> None:
    other = Database(database.url.database or "")
    done = threading.Event()

    def write() -> None:
        with other.transaction() as connection:
            set_setting(connection, "who", "other")
        done.set()

    with database.transaction() as connection:
        thread = threading.Thread(target=write)
        thread.start()
        set_setting(connection, "who", "first")
        assert not done.wait(0.1)
    thread.join()
    with database.reading() as connection:
        assert setting(connection, "who") == "other"
    other.close()


def test_what_cannot_be_a_database(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="SQLite or PostgreSQL"):
        Database("mysql://host/name")
    (tmp_path / "x.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(FleetError, match=r"x\.sqlite: cannot be opened"):
        Database(tmp_path / "x.sqlite")
    with pytest.raises(FleetError, match="cannot be opened"):
        Database(tmp_path / "missing" / "x.sqlite")
    with pytest.raises(FleetError, match="cannot be opened") as caught:
        Database("postgresql://edge:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
