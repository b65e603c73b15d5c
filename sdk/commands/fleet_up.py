"""`edge fleet up`, `status`, `doctor`: the server, how it is, and what it lacks."""

import contextlib
import dataclasses
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.sdk.complete import fleet_names
from edge.sdk.fleet_options import named_state, open_database, state_option
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from edge.fleet.server.state import Settings

_PORT = click.IntRange(1, 65535)


@click.command("up", short_help="Start the fleet's server: authority, broker, registry.")
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: all]")
@click.option("--port", type=_PORT, help="Port for devices that are enrolled.  [default: 8883]")
@click.option("--boot-port", type=_PORT, help="Port for devices that enroll.  [default: 8884]")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Prometheus on loopback; 0: none.  [default: 9464]")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Another name or address of this machine.")
@click.option("--broker", metavar="URL", help="Use another broker: mqtts://a:8883,b:8883; '' for our own again.")
@click.option(
    "--boot", metavar="URL", help="Its listeners for devices that enroll.  [default: --boot-port of its hosts]"
)
@click.option(
    "--broker-reload", metavar="COMMAND", help="Has another broker read its files again; runs without a shell."
)
@click.option("--nats", metavar="URL", help="Let a NATS cluster ask who may come in: nats://a:8885,b:8885.")
@click.option("--db", "database", metavar="URL", help="Use PostgreSQL: postgresql://user@host/name.")
@click.option("--sparql", metavar="URL", help="Use a SPARQL endpoint instead of the store in the folder.")
@click.option(
    "--workers", type=click.IntRange(0, 32), help="Divide the devices among so many processes.  [default: 0: none]"
)
@click.option("--log", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["json", "text"]), help="[default: text on a terminal, else json]")
@state_option
@debug_option
def up(state: Path, log: str, log_format: str | None, **given: Any) -> None:
    """Start everything on this machine and run until Ctrl-C or SIGTERM.

    Nothing needs to be configured. What options say is remembered in the folder's fleet.json for the next start.
    """
    from edge.fleet.logs import log_to_stderr
    from edge.fleet.server.broker import refuse_taken
    from edge.fleet.server.metrics import serve
    from edge.fleet.server.running import running_pid
    from edge.fleet.server.services import Server
    from edge.fleet.server.state import Settings, State
    from edge.fleet.server.updates.service import Updates

    log_to_stderr(log, None if log_format is None else log_format == "json")
    said = {name: value for name, value in given.items() if value not in (None, ())}
    begun = State(state).begun
    settings = dataclasses.replace(State(state).settings() if begun else Settings(), **said)
    if not settings.broker and any(said.get(name) for name in ("boot", "broker_reload", "nats")):
        raise click.UsageError("--boot, --broker-reload and --nats go with --broker: our own broker needs none of them")
    _check(settings)
    if running_pid(State(state)) is None:
        if settings.metrics_port:
            refuse_taken("127.0.0.1", settings.metrics_port, "--metrics-port")
        if not begun:
            _try(settings)
    place = State.create(state)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = Server(place, settings)
    server.extensions = (*server.extensions, Updates)
    if settings.sparql:
        from edge.fleet.server.semantic.service import EndpointFollower

        server.extensions = (*server.extensions, EndpointFollower)
    server.start()
    place.save(settings)  # what does not work is not remembered
    stop_metrics = None
    try:
        if settings.metrics_port:
            stop_metrics = serve(server, settings.metrics_port)
        at = f"port {server.address.port}, new ones to {settings.boot_port}"
        if settings.broker:
            at = f"{settings.broker}, new ones to {settings.boot_url()}"
        click.echo(f"The fleet is up: devices connect to {at}.")
        named = named_state(state)
        watch = f"edge fleet devices{named} --watch"
        click.echo(f"In another terminal: 'edge fleet token{named}' lets a device in, '{watch}' shows them.")
        while not ended.wait(0.5):
            pass
    finally:
        if stop_metrics:
            stop_metrics()
        server.stop()
    click.echo("The fleet is down.")


def _check(settings: "Settings") -> None:
    """Refuses what cannot be meant, before it is remembered.

    Raises:
        click.UsageError: with the option's name.
    """
    from edge.fleet.addresses import is_host, parse_url
    from edge.fleet.errors import FleetError
    from edge.fleet.server.reload_command import parse_command
    from edge.fleet.server.state import NATS_PORT

    for option, names in (("--name", settings.names), ("--host", (settings.host,) if settings.host else ())):
        for name in names:
            if not is_host(name):
                raise click.UsageError(f"{option} {name[:80]!r}: expected a host name or an address")
    if settings.database and (parts := _split(settings.database)).scheme not in ("postgresql", "postgres"):
        shown = settings.database if not parts.password else f"{parts.scheme}://…"
        raise click.UsageError(f"--db {shown[:80]}: expected postgresql://user@host/name; '' is the folder's own file")
    for url in settings.sparql.split():
        parts = _split(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError(f"--sparql {url[:80]}: expected http://host/path; '' is the folder's own store")
    try:
        if settings.broker:
            parse_url(settings.broker, 8883, "--broker")
            settings.boot_addresses()
        if settings.broker_reload:
            parse_command(settings.broker_reload)
        if settings.nats:
            parse_url(settings.nats, NATS_PORT, "--nats", "nats")
    except FleetError as error:
        raise click.UsageError(str(error)) from error
    ports = {} if settings.broker else {"--port": settings.port, "--boot-port": settings.boot_port}
    if settings.metrics_port:
        ports["--metrics-port"] = settings.metrics_port
    for option, port in ports.items():
        if same := [other for other, taken in ports.items() if taken == port and other != option]:
            raise click.UsageError(f"{option} and {same[0]}: both are {port}")


def _split(url: str) -> "SplitResult":
    from urllib.parse import urlsplit

    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _try(settings: "Settings") -> None:
    """Looks, before a new fleet's folder is made, at what its start would fail of.

    Raises:
        FleetError: a port is taken, or the database or the broker does not answer.
    """
    from edge.fleet.addresses import parse_url
    from edge.fleet.errors import FleetError
    from edge.fleet.server.broker import refuse_taken
    from edge.fleet.server.database import Database
    from edge.runtime.fields import reason

    if settings.database:
        Database(settings.database).close()
    if not settings.broker:
        refuse_taken(settings.host, settings.port, "--port")
        refuse_taken(settings.host, settings.boot_port, "--boot-port")
        return
    why = ""
    for address in parse_url(settings.broker, 8883, "--broker"):
        try:
            socket.create_connection((address.host, address.port), 5).close()
            return
        except OSError as error:
            why = f"{address}: {reason(error)}"
    raise FleetError(f"--broker {settings.broker}: nobody answers ({why})")


@click.command("status", short_help="Show how the fleet is.")
@state_option
@json_option
@debug_option
def status(state: Path, as_json: bool) -> None:
    """Show whether the server runs, where it listens, and what it holds."""
    from edge.fleet.server.overview import overview
    from edge.fleet.server.running import running_pid
    from edge.fleet.server.state import State
    from edge.fleet.server.workers import read_reports

    place = State.existing(state)
    settings = place.settings()
    running = running_pid(place)
    with open_database(state) as database:
        report: dict[str, Any] = {
            "state": str(state),
            "running": running,
            "broker": settings.broker or f"mqtts://{settings.host or socket.gethostname()}:{settings.port}",
            "boot_port": settings.boot_port,
            "boot": settings.boot_url(),
            "database": database.shown,
            **overview(database),
            "workers": [dataclasses.asdict(worker) for worker in read_reports(place)] if running else [],
        }
    if as_json:
        print_json(report)
        return
    click.echo(
        f"server: {f'runs, process {running}' if running else f'does not run (edge fleet up{named_state(state)})'}"
    )
    click.echo(f"broker: {report['broker']}, for devices that are enrolled")
    click.echo(f"new devices: {report['boot']} (edge device enroll --token … {report['boot']})")
    for worker in report["workers"]:
        how = f"runs, process {worker['pid']}" if worker["up"] else "is not connected"
        click.echo(
            f"worker {worker['worker']}: {how}, {worker['devices']} devices; {worker['committed']} reports committed, "
            f"{worker['refused']} refused, {worker['dropped']} dropped; {worker['restarts']} restarts"
        )
    click.echo(f"registry: {report['database']}")
    click.echo(
        f"devices: {report['devices']} ({report['online']} online, {report['revoked']} revoked), "
        f"{report['pending']} waiting for approval"
    )
    click.echo(f"open: {report['tokens']} tokens, {report['jobs']} jobs")
    if report["expiring"]:
        click.echo(f"certificates: {report['expiring']} end within five days: are those devices on?")


@click.command("doctor", short_help="Check what a fleet needs on this machine.")
@state_option
@json_option
@debug_option
@click.pass_context
def doctor(ctx: click.Context, state: Path, as_json: bool) -> None:
    """Check the broker's program, the folder, the keys, the registry. Exits with 1 if one is wrong."""
    from edge.fleet.server.doctor import examine

    findings = examine(state)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        from edge.sdk.console import print_table

        rows = [("ok" if finding.ok else "wrong", finding.what, finding.detail) for finding in findings]
        print_table(("", "what", "detail"), rows)
    if not all(finding.ok for finding in findings):
        ctx.exit(1)


@click.command("devices", short_help="List devices, or watch them.")
@click.argument("names", nargs=-1, metavar="[DEVICE]…", shell_complete=fleet_names("device"))
@click.option("--watch", is_flag=True, help="Show them again every second until Ctrl-C.")
@state_option
@json_option
@debug_option
def devices(names: tuple[str, ...], watch: bool, state: Path, as_json: bool) -> None:
    """List the fleet's devices: what they are, whether they are there, when they were last heard of."""
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    with open_database(state) as database:
        if watch:
            with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
                _watch(database, names)
            return
        rows = _described(database, names)
        if as_json:
            print_json(rows)
            return
        from edge.sdk.console import print_table

        print_table(_COLUMNS, [_row(row) for row in rows])


_COLUMNS = ("device", "state", "seen", "kind", "cpu", "RAM", "labels", "models")


def _described(database: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    from edge.fleet.server.registry import describe, describe_all

    with database.reading() as connection:
        return [describe(connection, name) for name in names] if names else describe_all(connection)


def _row(device: dict[str, Any]) -> tuple[object, ...]:
    inventory = device["inventory"]
    seen = device["last_seen"]
    state = device["state"] if device["state"] != "active" else "online" if device["online"] else "offline"
    labels = " ".join(f"{name}={value}" for name, value in sorted(device["labels"].items()))
    models = " ".join(f"{m['name']}:{m['version']}" for m in inventory.get("models", ()) if m.get("active"))
    ram = inventory.get("ram_kb")
    return (
        device["id"],
        state,
        _ago(seen),
        inventory.get("board") or inventory.get("kind"),
        inventory.get("cpu") or inventory.get("arch"),
        f"{ram / 1024:.0f} MB" if ram else None,  # of 1,048,576 bytes, as filters count
        labels or None,
        models or None,
    )


def _ago(moment: float | None) -> str | None:
    if moment is None:
        return None
    seconds = max(0, int(time.time() - moment))
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"


def _watch(database: Any, names: tuple[str, ...]) -> None:
    from rich.live import Live
    from rich.table import Table

    from edge.sdk.console import console, print_table

    if not sys.stdout.isatty():  # nothing can be drawn over: a table whenever something changed
        shown: list[tuple[object, ...]] | None = None
        while True:
            rows = [_row(row) for row in _described(database, names)]
            if [row[:2] for row in rows] != [row[:2] for row in shown or ()] or shown is None:
                print_table(_COLUMNS, rows)
                sys.stdout.flush()
                shown = rows
            time.sleep(1)

    def table() -> Table:
        drawn = Table(box=None, pad_edge=False)
        for column in _COLUMNS:
            drawn.add_column(column)
        for device in _described(database, names):
            drawn.add_row(*("-" if cell is None else str(cell) for cell in _row(device)))
        return drawn

    with Live(table(), console=console(), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(1)
            live.update(table(), refresh=True)
