"""A PostgreSQL server of one's own, where Debian's is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def postgres_server(durable: bool = False) -> Iterator[str]:
    """The URL of an empty PostgreSQL server that listens on a socket in a folder of its own.

    Args:
        durable: whether it flushes what is committed to the disk, as one that is in use does.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed (apt install postgresql)")
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
        options = ["-c", "listen_addresses=", *([] if durable else ["-F"])]
        server = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", data, "-k", folder, *options],
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
                raise RuntimeError("PostgreSQL did not start")
            yield f"postgresql://edge@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
