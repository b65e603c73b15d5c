"""What the tests of the fleet share: databases, and a PostgreSQL server of their own where Debian's is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the fleet's server needs SQLAlchemy: edge-deploy[fleet]")

from edge.fleet.server.database import Database
from tests.fleet.postgres import postgres_programs, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL server that listens on a socket in a folder of its own."""
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    with postgres_server() as url:
        yield url


@pytest.fixture
def empty_postgres(postgres: str) -> str:
    """The URL of an empty database in PostgreSQL."""
    import psycopg

    name = f"t{os.urandom(6).hex()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type,unused-ignore]
    return postgres.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty registry, in SQLite and in PostgreSQL."""
    if request.param == "sqlite":
        url: str | Path = tmp_path / "registry.sqlite"
    else:
        url = request.getfixturevalue("empty_postgres")
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty registry in SQLite."""
    database = Database(tmp_path / "registry.sqlite")
    yield database
    database.close()
