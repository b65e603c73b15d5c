"""`edge device enroll`, `run`, `status`: the device's side of a fleet."""

import shlex
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.fleet.inventory import Inventory

_Command = TypeVar("_Command", bound=Callable[..., Any])
_BOOT_PORT = 8884


def home_option(command: _Command) -> _Command:
    """Adds `--home` (parameter `home`, a Path or None)."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the device's key and outbox.  [default: $EDGE_DEVICE, /var/lib/edge for root, else "
        "~/.local/share/edge/device]",
    )(command)


def _home(folder: Path | None, *, make: bool = False) -> Any:
    from edge.fleet.device.home import Home, default_home

    return Home(folder or default_home(), make=make)


def _named(folder: Path | None) -> str:
    """How the next command names the same home: " --home d3", or nothing."""
    return f" --home {shlex.quote(str(folder))}" if folder else ""


def _labels(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    labels = dict(item.partition("=")[::2] for item in value)
    if not all(labels.values()):
        raise click.BadParameter("like building=7", ctx, param)
    return labels


def _boards(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    found = dict(item.partition("=")[::2] for item in value)
    if len(found) != len(value) or not all(name and address for name, address in found.items()):
        raise click.BadParameter("like mic1=/dev/ttyUSB0, each name once", ctx, param)
    return found


@click.command("enroll", short_help="Join a fleet with a claim token.")
@click.argument("url", metavar="mqtts://HOST[:PORT][,…]")
@click.option("--token", required=True, metavar="TOKEN", help="What 'edge fleet token' printed; - reads it from stdin.")
@click.option(
    "--name", default="", metavar="ID", help="The id that this device would like.  [default: host name and key]"
)
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", callback=_labels, help="May be repeated.")
@click.option("--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="For approval.  [default: without end]")
@click.option("--again", is_flag=True, help="Enroll a device that is enrolled already; the old key counts until then.")
@home_option
@json_option
@debug_option
def enroll(
    url: str,
    token: str,
    name: str,
    labels: dict[str, str],
    wait: float | None,
    again: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make a key on this machine, ask the fleet for a certificate, and wait until an operator approves.

    The key never leaves this machine. If the waiting is interrupted, the same command goes on with it.
    """
    import platform
    import sys

    from edge.fleet.addresses import parse_url
    from edge.fleet.device.describe import linux_inventory
    from edge.fleet.device.enroll import enroll as join
    from edge.fleet.errors import FleetError
    from edge.fleet.identity import ClaimToken, device_id, suggested_id
    from edge.runtime.errors import Interrupted, StillWaiting

    try:
        first, *others = parse_url(url, _BOOT_PORT, "address")
    except FleetError as error:
        raise click.UsageError(str(error)) from error
    try:
        claim = ClaimToken.parse(sys.stdin.readline() if token == "-" else token)  # noqa: S105
        if name:
            device_id(name, "--name")
    except FleetError as error:
        raise click.UsageError(str(error)) from error
    place = _home(home, make=True)
    joining = place
    if place.is_enrolled:
        if not again:
            raise FleetError(
                f"{place.folder}: enrolled already as {place.place().id}: 'edge device run{_named(home)}', or --again"
            )
        joining = place.joining()
    _, _, key = joining.next_request()
    wanted = device_id(name, "--name") if name else suggested_id(platform.node(), key)
    click.echo(f"key {key[:12]}, asks to be {wanted}", err=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    found = join(
        joining,
        claim,
        first.host,
        first.port,
        linux_inventory(labels),
        wanted,
        wait,
        lambda text: click.echo(text, err=True),
        stop,
        others,
    )
    if found is None:
        told = "not approved yet: the same command goes on waiting"
        raise Interrupted(told) if stop.is_set() else StillWaiting(told)
    place.save_labels(labels)
    start = f"Start it with 'edge device run{_named(home)}'."
    if joining is not place:
        try:
            with place.only_agent():
                place.adopt()
        except FleetError:  # the agent still is what the device was
            start = f"Its agent runs (process {place.agent_pid()}): start that anew."
    if as_json:
        print_json({"device": found.id, "host": found.host, "port": found.port, "home": str(place.folder)})
    else:
        click.echo(f"This device is {found.id}. {start}")


@click.command("run", short_help="Run the device's agent.")
@click.option("--heartbeat", type=click.FloatRange(min=0.1), default=30, show_default=True, metavar="SECONDS")
@click.option("--sensor", "sensors", multiple=True, metavar="NAME", help="A sensor that the kernel does not know.")
@click.option(
    "--board",
    "boards",
    multiple=True,
    metavar="NAME=ADDRESS",
    callback=_boards,
    help="A board, as mic1=/dev/ttyUSB0; needs edge-deploy[firmware].",
)
@click.option(
    "--board-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of the owner's key; boards get no models without it.",
)
@click.option("--log", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["json", "text"]), help="[default: text on a terminal, else json]")
@home_option
@debug_option
def run(
    heartbeat: float,
    sensors: tuple[str, ...],
    boards: dict[str, str],
    board_key: Path | None,
    log: str,
    log_format: str | None,
    home: Path | None,
) -> None:
    """Keep this device connected to its fleet until Ctrl-C or SIGTERM: report, and do what the operator asks.

    Boards that are attached to it become devices of their own, THISDEVICE.NAME, once the operator has approved them.
    """
    from edge.fleet.logs import log_to_stderr

    log_to_stderr(log, None if log_format is None else log_format == "json")
    place = _home(home)
    if not place.is_enrolled and not place.has_joined:
        raise _not_enrolled(place, home)
    with place.only_agent():
        place.adopt()
        _run(place, heartbeat, sensors, boards, board_key)


def _not_enrolled(place: Any, home: Path | None) -> Exception:
    from edge.fleet.errors import FleetError

    return FleetError(
        f"{place.folder}: this device is not enrolled: edge device enroll{_named(home)} --token … mqtts://host:port"
    )


def _run(
    place: Any, heartbeat: float, sensors: tuple[str, ...], boards: dict[str, str], board_key: Path | None
) -> None:
    """Runs the agent and what is attached to it until a signal ends them."""
    from edge.fleet.device.agent import Agent
    from edge.fleet.device.bridge_board import BridgeBoard, open_bridge
    from edge.fleet.device.describe import linux_inventory
    from edge.fleet.device.gateway import Gateway
    from edge.fleet.device.updates import Updates, with_models

    labels = place.labels()
    attached: list[str] = []

    def describe() -> "Inventory":
        return replace(linux_inventory(labels, sensors), boards=tuple(attached))

    agent = Agent(place, with_models(place, describe), heartbeat, _load)
    updates = Updates(agent)
    bridges = [
        BridgeBoard(name, place.folder / "boards" / name, open_bridge(address, board_key), updates.for_board)
        for name, address in boards.items()
    ]
    gateway = Gateway(agent, bridges, heartbeat)
    attached.extend(gateway.ids)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: agent.stop())
    updates.start()
    if bridges:
        gateway.start()
    try:
        agent.run()
    finally:
        updates.stop()
        for bridge in bridges:
            bridge.stop()
        if bridges:
            gateway.stop()


def _load() -> dict[str, float | int | str | bool]:
    """What is reported at each heartbeat."""
    import os

    values: dict[str, float | int | str | bool] = {"load": round(os.getloadavg()[0], 2)}
    try:
        text = Path("/sys/class/thermal/thermal_zone0/temp").read_text()
        values["cpu_celsius"] = int(text) / 1000
    except (OSError, ValueError):
        pass
    return values


@click.command("status", short_help="Show who this device is.")
@home_option
@json_option
@debug_option
def status(home: Path | None, as_json: bool) -> None:
    """Show the device's id, whether its agent runs and is connected, its certificate's end, how many messages wait."""
    from edge.fleet.device.outbox import Outbox
    from edge.fleet.device.refusal import REVOKED

    place = _home(home)
    found = place.place()
    if found is None:
        raise _not_enrolled(place, home)
    outbox = Outbox(place.outbox)
    running, connection = place.agent_pid(), place.connection() or {}
    joining = place.joining_place()
    report = {
        "device": found.id,
        "host": found.host,
        "port": found.port,
        "renewal_at": place.renewal_due(),
        "expired": place.expired(),
        "agent": running,
        "connected": bool(running and connection.get("connected")),
        "connected_at": connection.get("at"),
        "refusal": connection.get("refusal") or None,
        "next": joining.id if joining else None,
        "waiting": len(outbox),
        "home": str(place.folder),
    }
    outbox.close()
    if as_json:
        print_json(report)
        return
    click.echo(f"{found.id}, of the fleet at {found.host}:{found.port}")
    click.echo(f"agent: {f'runs, process {running}' if running else f'does not run (edge device run{_named(home)})'}")
    if report["connected_at"] is None:
        click.echo("broker: never connected")
    else:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report["connected_at"]))
        click.echo(f"broker: connected since {when}" if report["connected"] else f"broker: last connected at {when}")
    if report["refusal"] == REVOKED:
        click.echo("certificate: revoked by the operator: ask for a new claim token and enroll with --again")
    elif report["refusal"]:
        click.echo(f"broker: refuses this device: {report['refusal']}")
    if report["next"]:
        click.echo(f"next: this device is {report['next']} when its agent is started anew")
    if report["expired"]:
        click.echo("certificate: expired: ask the operator for a new claim token and enroll with --again")
    else:
        click.echo(f"certificate: renewed from {time.strftime('%Y-%m-%d', time.localtime(place.renewal_due()))} on")
    click.echo(f"waiting to be acknowledged: {report['waiting']} messages")
