"""What the tests of the fleet share: databases, and a PostgreSQL server of their own where Debian's is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the fleet's server needs SQLAlchemy: edge-deploy[fleet]")

from edge.fleet.server.database import Database


def _postgres_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL server that listens on a socket in a folder of its own."""
    programs = _postgres_bin()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    # The server refuses to run as root, and a socket's path may have 107 characters at most.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="edge-pg-", dir="/tmp"))
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        subprocess.run(
            [*as_user, programs / "initdb", "-D", data, "-A", "trust", "-U", "edge", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        server = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        try:
            ready = [programs / "pg_isready", "-h", folder, "-t", "1"]
            for _ in range(100):
                if subprocess.run(ready, capture_output=True).returncode == 0:
                    break
            else:
                pytest.fail("PostgreSQL did not start")
            yield f"postgresql://edge@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
