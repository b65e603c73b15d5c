"""`edge fleet simulate`: thousands of devices without a device."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.sdk.commands.fleet_enroll import Duration, Label
from edge.sdk.commands.fleet_updates import Share
from edge.sdk.fleet_options import confirm, open_database, operator, state_option
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from edge.fleet.simulate.simulation import Simulation, Totals

_LOOK_SECONDS, _LINE_SECONDS = 1.0, 10.0


@click.command("simulate", short_help="Simulate devices, up to thousands.")
@click.argument("count", type=click.IntRange(1, 99_999), metavar="N", required=False)
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=30, show_default=True, metavar="SECONDS", help="Between reports."
)
@click.option(
    "--for", "lasting", type=Duration(), help="End so long after all have connected, like 5m.  [default: Ctrl-C]"
)
@click.option("--prefix", default="sim", show_default=True, metavar="NAME", help="Devices are NAME-00001 and so on.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="NAME=VALUE", help="That all devices have.")
@click.option(
    "--processes", type=click.IntRange(1, 256), metavar="K", help="Share the devices out.  [default: one for 2,500]"
)
@click.option(
    "--fail-share",
    type=Share(),
    default="0%",
    show_default=True,
    metavar="SHARE",
    help="On so many devices each new model fails its health check.",
)
@click.option("--broker", default="", metavar="URL", help="Where they connect.  [default: the fleet's own broker]")
@click.option("--remove", "removing", is_flag=True, help="Take the simulated devices out of the registry.")
@click.option("--yes", is_flag=True, help="With --remove: do not ask.")
@click.option("--log", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True)
@state_option
@json_option
@debug_option
def simulate(
    count: int | None,
    every: float,
    lasting: float | None,
    prefix: str,
    labels: tuple[tuple[str, str | None], ...],
    processes: int | None,
    fail_share: float,
    broker: str,
    removing: bool,
    yes: bool,
    log: str,
    state: Path,
    as_json: bool,
) -> None:
    """Simulate N devices of the fleet that runs here, until Ctrl-C.

    Each has a key, a certificate and a connection of its own, reports, does jobs and installs models for real. They
    enroll the first time; later runs take the same devices again.
    """
    if removing:
        if count is not None:
            raise click.UsageError("--remove takes out all devices of a --prefix: leave N away")
        _remove(state, prefix, yes, as_json)
        return
    if count is None:
        raise click.UsageError("say how many: edge fleet simulate 100")
    from edge.fleet.logs import log_to_stderr
    from edge.fleet.server.state import State
    from edge.fleet.simulate.simulation import Options, Simulation

    log_to_stderr(log)
    options = Options(
        count=count,
        every=every,
        prefix=prefix,
        labels={name: value for name, value in labels if value is not None},
        processes=processes or 0,
        fail_share=fail_share,
        broker=broker,
        log=log,
    )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    simulation = Simulation(State.existing(state), options, operator())
    began = time.monotonic()
    try:
        new = simulation.start()
        if new:
            _enroll(simulation, new, ended)
        _watch(simulation, ended, lasting)
        if not ended.is_set():
            simulation.drain()
        connected = simulation.totals().connected
    finally:
        totals = simulation.stop()
    summary = {
        **vars(totals),
        "connected": connected,
        "reconnects": max(0, totals.connects - totals.devices),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        print_json(summary)
    else:
        click.echo(
            f"{totals.devices} devices, {connected} of them connected at the end: {totals.sent} messages, "
            f"{totals.acknowledged} acknowledged, {totals.unacknowledged} not; {summary['reconnects']} reconnects"
        )
    if totals.failures:
        from edge.fleet.errors import FleetError

        name, why = next(iter(totals.failed.items()))
        raise FleetError(f"{totals.failures} devices could not be simulated; {name}: {why}")


def _enroll(simulation: "Simulation", count: int, ended: threading.Event) -> None:
    from edge.sdk.console import progress

    with progress() as shown:
        shown.stage("enrolling", count)
        while not ended.wait(0.5):
            totals = simulation.totals()
            shown.update(totals.enrolled + totals.failures, connected=float(totals.connected))
            if totals.enrolled + totals.failures >= count:
                break


class _Rates:
    """Messages a second, over the last few looks."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int, int]] = []

    def look(self, totals: "Totals") -> tuple[float, float]:
        """Sent and acknowledged a second."""
        self._seen = [*self._seen[-9:], (time.monotonic(), totals.sent, totals.acknowledged)]
        (begin, sent, acknowledged), (end, sent_now, acknowledged_now) = self._seen[0], self._seen[-1]
        seconds = end - begin or 1.0
        return (sent_now - sent) / seconds, (acknowledged_now - acknowledged) / seconds


def _watch(simulation: "Simulation", ended: threading.Event, lasting: float | None) -> None:
    """Shows how it stands until it is to end: drawn over on a terminal, a line now and then elsewhere."""
    from rich.live import Live

    from edge.sdk.console import console

    rates = _Rates()
    all_in: float | None = None  # when all had connected

    def over() -> bool:
        nonlocal all_in
        totals = simulation.totals()
        if all_in is None and totals.devices and totals.connects >= totals.devices:
            all_in = time.monotonic()
        if ended.wait(_LOOK_SECONDS):
            return True
        return lasting is not None and all_in is not None and time.monotonic() - all_in >= lasting

    if sys.stderr.isatty():
        with Live(console=console(stderr=True), auto_refresh=False) as live:
            while not over():
                totals = simulation.totals()
                live.update(_table(totals, *rates.look(totals)), refresh=True)
        return
    told = 0.0
    while not over():
        totals = simulation.totals()
        sent, acknowledged = rates.look(totals)
        if time.monotonic() - told >= _LINE_SECONDS:
            told = time.monotonic()
            click.echo("  ".join(f"{name} {value}" for name, value in _rows(totals, sent, acknowledged)), err=True)


def _rows(totals: "Totals", sent: float, acknowledged: float) -> list[tuple[str, str]]:
    rows = [
        ("connected", f"{totals.connected}/{totals.devices}"),
        ("sent", f"{sent:.1f}/s"),
        ("acknowledged", f"{acknowledged:.1f}/s"),
        ("unacknowledged", str(totals.unacknowledged)),
        ("reconnects", str(max(0, totals.connects - totals.devices))),
    ]
    for name, found in (("jobs", totals.jobs), ("models", totals.models)):
        if found:
            rows.append((name, ", ".join(f"{key} {value}" for key, value in sorted(found.items()))))
    return rows


def _table(totals: "Totals", sent: float, acknowledged: float) -> "Table":
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _rows(totals, sent, acknowledged):
        table.add_row(name, value)
    return table


def _remove(state: Path, prefix: str, yes: bool, as_json: bool) -> None:
    from edge.fleet.server.state import State
    from edge.fleet.simulate import membership
    from edge.fleet.simulate.simulation import folder_of, only_one
    from edge.sdk.console import progress

    folder = folder_of(State.existing(state))
    with open_database(state) as database, only_one(folder):
        names = membership.simulated(database, prefix)
        if names and not yes:
            confirm(f"Shut out and forget {len(names)} simulated devices?")
        if names:
            with progress() as shown:
                shown.stage("removing", len(names))
                told: Callable[[int], None] = shown.update
                membership.remove(database, names, folder, operator(), told)
    if as_json:
        print_json({"removed": len(names)})
    else:
        click.echo(f"{len(names)} simulated devices removed")
