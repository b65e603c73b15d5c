"""What a fleet needs of its machine, looked at one by one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from edge.fleet.addresses import parse_url
from edge.fleet.errors import FleetError
from edge.fleet.server.broker import find_mosquitto, leftovers
from edge.fleet.server.database import Database, setting
from edge.fleet.server.reload_command import SETTING
from edge.fleet.server.running import running_pid
from edge.fleet.server.state import NATS_PORT, Settings, State
from edge.fleet.server.updates import catalogue
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.store import BlobStore
from edge.fleet.server.workers import read_reports
from edge.runtime.errors import EdgeError
from edge.runtime.fields import reason


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `detail` says what to do where it is not as it should be."""

    what: str
    ok: bool
    detail: str


def examine(folder: Path) -> list[Finding]:
    """Looks at the broker's program, the folder, the database, the certificates, the disk."""
    try:
        state = State.at(folder)
    except FleetError as error:
        begun = (folder / "ca").exists()
        return [
            _program(),
            Finding("state", not begun, str(error) if begun else f"{error} (nothing is wrong with that)"),
        ]
    findings = []
    mode = folder.stat().st_mode & 0o777
    findings.append(
        Finding(
            "state", mode == 0o700, str(folder) if mode == 0o700 else f"{folder}: mode {mode:o}: chmod 700 {folder}"
        )
    )
    findings.append(_private(state))
    try:
        settings = state.settings()
        missing = state.missing(settings)
        findings += [Finding(what, False, f"{where}: gone: restore your backup of {folder}") for what, where in missing]
        findings[:0] = _brokers(settings) if settings.broker else [_program()]
        if any(what == "registry" for what, _ in missing):
            raise _Gone
        database = state.open_registry(settings)
        findings.append(Finding("registry", True, _database(database)))
        if not any(what == "signed models" for what, _ in missing):
            findings.append(_models(state, database))
        if settings.broker and settings.broker_reload:
            findings.append(_reload(database))
        database.close()
    except _Gone:
        pass  # said already
    except EdgeError as error:
        findings.append(Finding("registry", False, str(error)))
    pid = running_pid(state)
    findings.append(Finding("server", True, f"runs, process {pid}" if pid else "does not run (edge fleet up)"))
    findings.extend(_workers(state) if pid else _leftovers(state))
    free = shutil.disk_usage(folder).free
    findings.append(Finding("disk", free > 200_000_000, f"{free / 1e9:.1f} GB free at {folder}"))
    return findings


def _leftovers(state: State) -> list[Finding]:
    """A broker whose server was killed: devices stay connected to it, and nobody takes in what they say."""
    found = leftovers(state.broker)
    if not found:
        return []
    processes = ", ".join(map(str, found))
    detail = f"left over by a server that was killed, process {processes}: 'edge fleet up' ends it and starts its own"
    return [Finding("broker", False, detail)]


class _Gone(Exception):
    """There is no registry that could be looked at."""


def _models(state: State, database: Database) -> Finding:
    """Whether what the registry says is published is what devices are shown: a backup may be of one alone."""
    published = {
        (row["name"], row["version"], variant["variant"])
        for row in catalogue.published(database)
        for variant in row["variants"]
    }
    variants = ModelRepository(state.tuf).variants().values()
    signed = {(one.model, one.version, one.name) for one in variants}
    if not published and not signed:
        return Finding("signed models", True, "none yet")
    todo = "they are not of one fleet or time: restore both from one backup"
    for which, lacks, help in (
        ("tuf/ lacks what the registry has", published - signed, todo),
        ("the registry lacks what tuf/ has", signed - published, f"publish it again; if there is more, {todo}"),
    ):
        if lacks:
            name, version, variant = min(lacks)
            return Finding("signed models", False, f"{which}: {name}:{version} {variant}, {len(lacks)} in all: {help}")
    store = BlobStore(state.models)
    for one in variants:
        if not store.holds(one.blob):
            what = f"models/ lacks {one.model}:{one.version} {one.name}, or has another file there"
            return Finding("signed models", False, f"{what}: publish the same bundle again, or restore your backup")
    return Finding("signed models", True, f"{len(signed)} variants, as the registry has them")


def _workers(state: State) -> list[Finding]:
    """The running server's, if it has any: it says every few seconds how they do."""
    try:
        reports = read_reports(state)
    except FleetError as error:
        return [Finding("workers", False, str(error))]
    down = [report for report in reports if not report.up]
    if not reports:
        return []
    restarts = sum(report.restarts for report in reports)
    detail = f"{len(reports)} run, {restarts} restarts"
    if down:
        names = ", ".join(str(report.worker) for report in down)
        detail = f"not connected: {names} of {len(reports)}: the server's log says why"
    return [Finding("workers", not down, detail)]


def _program() -> Finding:
    program = find_mosquitto()
    if program is None:
        return Finding("mosquitto", False, "not installed (only this machine can connect): sudo apt install mosquitto")
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout.splitlines()
    version = said[0].removeprefix("mosquitto version ").strip() if said else "unknown"
    numbers = version.split(".")
    recent = numbers[0].isdigit() and int(numbers[0]) >= 2
    return Finding("mosquitto", recent, f"{version} ({program})" if recent else f"{version}: 2.0 or later is needed")


def _brokers(settings: Settings) -> list[Finding]:
    """Whether every address of another broker takes a connection."""
    listeners = [("broker", address) for address in parse_url(settings.broker, 8883, "--broker")]
    listeners += [("enrollment", address) for address in settings.boot_addresses()]
    if settings.nats:
        listeners += [("NATS", address) for address in parse_url(settings.nats, NATS_PORT, "--nats", "nats")]
    found = []
    for what, address in listeners:
        try:
            socket.create_connection((address.host, address.port), 3).close()
            found.append(Finding(what, True, f"{address} listens"))
        except OSError as error:
            found.append(Finding(what, False, f"{address} does not answer ({reason(error)})"))
    return found


def _database(database: Database) -> str:
    """The registry's place; of PostgreSQL also its version and size."""
    if database.is_sqlite:
        return database.shown
    with database.reading() as connection:
        version = connection.scalar(sa.text("SHOW server_version"))
        size = connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0
    return f"{database.shown}: PostgreSQL {str(version).split()[0]}, {size / 1e6:.0f} MB"


def _reload(database: Database) -> Finding:
    with database.reading() as connection:
        last = setting(connection, SETTING, None)
    if last is None:
        return Finding("broker reload", True, "has not run yet")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
    return Finding("broker reload", not last["error"], f"{when}: {last['error'] or 'went well'}")


def _private(state: State) -> Finding:
    """No key may be readable by others."""
    for path in (*state.authority.glob("*.key"), *state.broker.glob("*.key"), *state.broker.glob("*.pem")):
        if path.suffix == ".key" and path.stat().st_mode & 0o077:
            return Finding("keys", False, f"{path}: others may read it: chmod 600 {path}")
        if not os.access(path, os.R_OK):
            return Finding("keys", False, f"{path}: cannot be read: run edge as the user who started the fleet")
    root = state.authority / "root.key"
    return Finding("keys", True, "private" if not root.exists() else f"private (you may move {root} to a safe)")
