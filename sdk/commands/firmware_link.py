"""`edge firmware ports`, `info`, `infer`, `stats` and `gateway`: talking to boards, real or emulated."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.runtime.errors import BadInput
from edge.sdk.complete import files
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.firmware_bridge.device import Device
    from edge.runtime.backends.session import OpProfile

# What edge firmware build makes where it is given none, in the folder that one is in.
DEFAULT_KEY = "firmware.key"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def address_argument(command: _Command) -> _Command:
    """Adds `ADDRESS` (parameter `address`) and `--baud`."""
    command = click.option(
        "--baud", type=click.IntRange(300, 4_000_000), default=115200, show_default=True, help="Of a serial port."
    )(command)
    return click.argument("address")(command)


def key_option(command: _Command) -> _Command:
    """Adds `--key` (parameter `key`, a path or None)."""
    return click.option(
        "--key",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="EDGE_FIRMWARE_KEY",
        show_envvar=True,
        help=f"The owner's key file (edge firmware key).  [default: {DEFAULT_KEY}]",
    )(command)


@click.command("ports")
@json_option
@debug_option
def ports(as_json: bool) -> None:
    """List the serial ports of this machine, and the boards that can be emulated."""
    from serial.tools.list_ports import comports

    from edge.firmware_bridge.board import board_names, find_board

    found = [
        {"address": port.device, "kind": "serial port", "what": port.description or ""}
        for port in sorted(comports(), key=lambda port: str(port.device))
    ]
    emulated = [
        {"address": f"emulate:{board.name}:FILE", "kind": "emulated board", "what": board.title}
        for board in map(find_board, board_names())
        if board.runs
    ]
    if as_json:
        print_json({"serial": found, "emulated": emulated})
        return
    from edge.sdk.console import print_table

    print_table(("address", "kind", "what"), [tuple(row.values()) for row in found + emulated])
    if not found:
        click.echo("\nThis machine has no serial port: plug a board in, or give the address of an emulated one.")


@click.command("info")
@address_argument
@json_option
@debug_option
def info(address: str, baud: int, as_json: bool) -> None:
    """Say what the board at ADDRESS is and which model it runs.

    ADDRESS is a serial port, socket://HOST:PORT, emulate:BOARD:FILE, or gateway://HOST:PORT/NAME.
    """
    from edge.firmware_bridge.device import Device

    with Device.open(address, baud=baud) as device:
        document = info_document(device)
    if as_json:
        print_json(document)
        return
    from edge.sdk.console import print_table

    print_table(("", ""), [(name.replace("_", " "), _shown(value)) for name, value in document.items()], title=address)


def info_document(device: "Device") -> dict[str, Any]:
    """What a device says of itself, as JSON-ready values."""
    from edge.firmware_bridge.messages import status_text

    found = device.info
    document: dict[str, Any] = asdict(found)
    document["device_id"] = found.device_id.hex()
    document["model_digest"] = found.model_digest.hex()
    document["trial_result"] = status_text(found.trial_result)
    document["trouble"] = device.trouble()
    return document


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


@click.command("infer")
@address_argument
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), shell_complete=files((".npy", ".wav", ".png")))
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show for each input.")
@click.option("--profile", is_flag=True, help="Show what each operator takes, on zeros, and run no input.")
@json_option
@debug_option
@click.pass_context
def infer(
    ctx: click.Context, address: str, baud: int, inputs: tuple[Path, ...], top: int, profile: bool, as_json: bool
) -> None:
    """Run the model on the board at ADDRESS on INPUTS: images, WAV files, .npy arrays, or folders of them."""
    from edge.firmware_bridge import connect
    from edge.sdk.commands.run import predict_all, tell_results

    if bool(inputs) == profile:
        raise click.UsageError("give inputs, or --profile")
    with connect(address, baud=baud) as model:
        if profile:
            _show_profile(address, model.profile(), as_json)
            return
        results, failures = predict_all(model, inputs, top)
    document = {"model": address, "backend": "device", "results": results}
    tell_results(ctx, document, failures, as_json)


def _show_profile(address: str, ops: "list[OpProfile]", as_json: bool) -> None:
    rows = [{"op": op.op, "instructions": op.instructions, "macs": op.macs, "shape": op.shape} for op in ops]
    total = sum(op.instructions or 0 for op in ops)
    if as_json:
        print_json({"model": address, "instructions": total, "operators": rows})
        return
    from edge.sdk.console import format_share, print_table

    print_table(
        ("operator", "output", "macs", "instructions", "share"),
        [
            (
                op.op,
                "×".join(map(str, op.shape or ())),
                f"{op.macs:,}" if op.macs else None,
                f"{op.instructions or 0:,}",
                format_share((op.instructions or 0) / total if total else None, 1),
            )
            for op in ops
        ],
        title=f"{address}: {total:,} instructions (or cycles, where the board counts those)",
    )


@click.command("stats")
@address_argument
@json_option
@debug_option
def stats(address: str, baud: int, as_json: bool) -> None:
    """Show what the board at ADDRESS has counted since it started: frames, runs, refusals."""
    from edge.firmware_bridge.device import Device

    with Device.open(address, baud=baud) as device:
        document = asdict(device.stats())
    if as_json:
        print_json(document)
        return
    from edge.sdk.console import print_table

    print_table(("", ""), [(name.replace("_", " "), f"{value:,}") for name, value in document.items()], title=address)


@click.command("gateway")
@click.option("--board", "boards", multiple=True, metavar="NAME=ADDRESS", help="A board; may be given several times.")
@click.option("--config", type=click.Path(path_type=Path), help='TOML file with a table [boards] of NAME = "ADDRESS".')
@click.option("--unix", type=click.Path(path_type=Path), help="Unix socket that clients of your own user connect to.")
@click.option("--tcp", metavar="HOST:PORT", help="TCP address that clients connect to.  [default: 127.0.0.1:7690]")
@click.option("--list", "listed", metavar="ADDRESS", help="Show the boards of a gateway that runs, and end.")
@json_option
@debug_option
def gateway(
    boards: tuple[str, ...], config: Path | None, unix: Path | None, tcp: str | None, listed: str | None, as_json: bool
) -> None:
    """Own the links to several boards and offer each to other programs as gateway://HOST:PORT/NAME.

    Links that drop are opened again. Runs until Ctrl-C or SIGTERM.
    """
    if listed is not None:
        _show_boards(listed, as_json)
        return
    import signal
    import threading

    from edge.firmware_bridge.gateway import Gateway, read_boards

    known = read_boards(config) if config else {}
    for word in boards:
        name, equals, address = word.partition("=")
        if not equals:
            raise click.UsageError(f"--board {word}: expected NAME=ADDRESS")
        known[name] = address
    if not known:
        raise click.UsageError("give a board by --board or --config")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Gateway(known) as running:
        addresses = [running.listen_unix(unix)] if unix else []
        if tcp or not unix:
            addresses.append(running.listen_tcp(*_host_and_port(tcp or "127.0.0.1:7690")))
        for address in addresses:
            for name in known:
                click.echo(f"{address}/{name}")
        before: dict[str, bool] = {}
        while not stop.wait(0.2):
            for state in running.devices():
                if before.get(state.name) != state.up and (state.up or state.why != "not opened yet"):
                    before[state.name] = state.up
                    click.echo(f"{state.name}: {'up' if state.up else 'down: ' + state.why}", err=True)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, number = text.rpartition(":")
    if not host or not number.isdecimal() or int(number) > 65535:
        raise BadInput(f"--tcp {text}: expected HOST:PORT")
    return host, int(number)


def _show_boards(address: str, as_json: bool) -> None:
    from edge.firmware_bridge.gateway_client import list_boards

    rows = list_boards(address)
    if as_json:
        print_json({"gateway": address, "boards": rows})
        return
    from edge.sdk.console import print_table

    print_table(
        ("name", "address", "up", "used", "drops", "board", "model", "sequence"),
        [
            (
                row.get("name"),
                row.get("address"),
                "yes" if row.get("up") else f"no: {row.get('why')}",
                "yes" if row.get("used") else "no",
                row.get("drops"),
                row.get("board"),
                row.get("model"),
                row.get("sequence"),
            )
            for row in rows
        ],
        title=address,
    )
