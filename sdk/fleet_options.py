"""What the commands of `edge fleet` share: where the fleet's state lies, its database, and who the operator is."""

import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edge.fleet.server.database import Database

_Command = TypeVar("_Command", bound=Callable[..., Any])


def default_state() -> Path:
    """$XDG_DATA_HOME/edge/fleet, normally ~/.local/share/edge/fleet."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "edge" / "fleet"


def state_option(command: _Command) -> _Command:
    """Adds `--state` (parameter `state`, a Path)."""
    return click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="EDGE_FLEET",
        default=default_state,
        show_default="~/.local/share/edge/fleet",
        help="Folder of the fleet's state, or $EDGE_FLEET.",
    )(command)


@contextmanager
def open_database(state: Path) -> Iterator["Database"]:
    """The registry of the fleet in the folder `state`, whether `edge fleet up` runs or not.

    Raises:
        FleetError: there is no fleet yet; or the registry fails within the block: its disk is full, its server away.
    """
    from sqlalchemy.exc import DBAPIError

    from edge.fleet.errors import FleetError, cause
    from edge.fleet.server.state import State
    from edge.sdk.failure import is_outage

    database = State.existing(state).database()
    try:
        yield database
    except DBAPIError as error:
        if not is_outage(error):
            raise
        raise FleetError(f"{database.shown}: registry: {cause(error)}") from error
    finally:
        database.close()


def confirm(question: str) -> None:
    """Asks before what cannot be undone.

    Raises:
        click.Abort: the answer is no.
        click.UsageError: nobody is there to answer.
    """
    try:
        yes = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise click.UsageError("standard input is not a terminal: give --yes") from None
    if not yes:
        raise click.Abort


def operator() -> str:
    """Who is at the keyboard, for the audit log: "ana@hostname"; through sudo, who called it."""
    name = os.environ.get("SUDO_USER") or getpass.getuser()
    return f"{name}@{socket.gethostname()}"


def where_option(command: _Command) -> _Command:
    """Adds `--where` (parameter `where`, a text or None)."""
    return click.option(
        "--where", metavar="FILTER", help="All devices that FILTER names, as 'building=7 and ram>=256KB'."
    )(command)


def device_first(words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Takes "attic floor=2" apart into the device, if one is named, and what is set: no device has "=" in its name."""
    named = words[0] if words and "=" not in words[0] else None
    return named, words[named is not None :]


def one_or_where(database: "Database", device: str | None, where: str | None) -> list[str]:
    """The devices that a command is for: the one that is named, or all that a filter finds.

    Raises:
        click.UsageError: neither is given, or both.
        FleetError: the filter finds none.
        BadInput: it is no filter.
    """
    from edge.fleet.errors import FleetError
    from edge.fleet.server.updates.selection import selector

    if (device is None) == (where is None):
        raise click.UsageError("name a device, or --where FILTER")
    if device is not None:
        return [device]
    found = selector(database)(where or "")
    if not found:
        raise FleetError(f"--where {where}: no device is found")
    return found
