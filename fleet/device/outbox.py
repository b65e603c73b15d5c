"""Messages that wait, on the disk, until the fleet acknowledges them: a power cut loses none.

SQLite of the standard library, in WAL mode with synchronous FULL: when `put` returns, the message is on the disk. It
keeps the (boot, seq) that it got then, through restarts of the device, so that the server knows a repeat as one.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge.fleet.errors import FleetError
from edge.fleet.messages import Envelope, encode, new_boot

MOST = 20_000
"""Messages; beyond, the oldest telemetry gives way to the newest. Other kinds are never dropped."""


class Outbox:
    """The messages of one device that were not acknowledged.

    Args:
        path: the file; made if missing. One that SQLite cannot read is put aside, and a new one begun.
        most: how many messages are kept.

    Raises:
        FleetError: the file cannot be opened: the disk is full, the folder not ours.
    """

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.boot = new_boot()
        self._seq = 0
        try:
            self._database = self._open(path)
        except sqlite3.OperationalError as error:  # a full disk, a folder that cannot be written: the file is whole
            raise FleetError(f"{path}: cannot be opened ({error})") from error
        except sqlite3.DatabaseError:
            path.replace(path.with_suffix(f".damaged-{int(time.time())}"))
            self._database = self._open(path)
        self._count = int(self._database.execute("SELECT count(*) FROM messages").fetchone()[0])

    def _open(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        path.chmod(0o600)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT, seq INTEGER, "
            "kind TEXT, at REAL, body TEXT, UNIQUE (boot, seq))"
        )
        database.execute("CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, state TEXT, at REAL)")
        return database

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def put(self, kind: str, body: dict[str, Any]) -> None:
        """Keeps a message; `kind` is what follows "up/" in its topic: "tel", "job/7f3a".

        Raises:
            FleetError: the disk is full or broken.
            BadMessage: the message is too large to be sent.
        """
        self.put_all([(kind, body)])

    def put_all(self, messages: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Keeps several messages in one write."""
        rows = []
        for kind, body in messages:
            encode({"body": body, "room": "x" * 200})
            rows.append((kind, time.time(), json.dumps(body, allow_nan=False)))
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                for kind, at, body_text in rows:
                    self._seq += 1
                    if kind == "hello":
                        # One that was lost on its way is sent again, perhaps behind this one: it must tell no older
                        # story.
                        self._database.execute("UPDATE messages SET body = ? WHERE kind = 'hello'", (body_text,))
                    self._database.execute(
                        "INSERT INTO messages (boot, seq, kind, at, body) VALUES (?, ?, ?, ?, ?)",
                        (self.boot, self._seq, kind, at, body_text),
                    )
                over = self._count + len(rows) - self._most
                if over > 0:
                    gone = self._database.execute(
                        "DELETE FROM messages WHERE id IN "
                        "(SELECT id FROM messages WHERE kind = 'tel' ORDER BY id LIMIT ?)",
                        (over,),
                    ).rowcount
                else:
                    gone = 0
                self._database.execute("COMMIT")
                self._count += len(rows) - gone
            except sqlite3.Error as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise FleetError(f"the outbox cannot be written ({error})") from error

    def waiting(self, after: int = 0, most: int = 100) -> list[tuple[int, str, Envelope]]:
        """Messages with ids above `after`, oldest first: (id, kind, envelope)."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id, kind, boot, seq, at, body FROM messages WHERE id > ? ORDER BY id LIMIT ?", (after, most)
            ).fetchall()
        return [(row[0], row[1], Envelope(row[2], row[3], row[4], json.loads(row[5]))) for row in rows]

    def acknowledged(self, boot: str, seqs: Iterable[int]) -> None:
        """Forgets messages that the server has."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            for seq in seqs:
                self._count -= self._database.execute(
                    "DELETE FROM messages WHERE boot = ? AND seq = ?", (boot, seq)
                ).rowcount
            self._database.execute("COMMIT")

    @property
    def is_full(self) -> bool:
        """Whether there is no more telemetry that could give way."""
        return self._count > self._most

    def __len__(self) -> int:
        return self._count

    def job_state(self, job: str) -> str | None:
        """How far a job had come when it was last noted, in this start or an earlier one."""
        with self._lock:
            row = self._database.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
        return None if row is None else str(row[0])

    def note_job(self, job: str, state: str) -> None:
        """Remembers how far a job has come; the thousand newest are remembered."""
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", (job, state, time.time()))
            self._database.execute("DELETE FROM jobs WHERE id NOT IN (SELECT id FROM jobs ORDER BY at DESC LIMIT 1000)")
