"""`edge fleet token`, `pending`, `approve`, `reject`, `revoke`, `remove`: who belongs to the fleet."""

import re
import time
from pathlib import Path
from typing import Any

import click

from edge.sdk.complete import fleet_names
from edge.sdk.fleet_options import confirm, open_database, operator, state_option
from edge.sdk.options import debug_option, json_option, print_json

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """ "90s", "30m", "24h", "7d", in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if not match or not int(match[1]):
            self.fail(f"{value}: a number with s, m, h or d, like 24h", param, ctx)
        return float(int(match[1]) * _UNITS[match[2]])


class Label(click.ParamType):  # type: ignore[type-arg]
    """ "building=7"; "building=" removes it."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str | None]:
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not equals or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
            self.fail(f"{value}: like building=7", param, ctx)
        return name, content or None


def _check_id(device: str | None, option: str) -> None:
    from edge.fleet.errors import FleetError
    from edge.fleet.identity import device_id

    try:
        if device is not None:
            device_id(device, option)
    except FleetError as error:
        raise click.UsageError(str(error)) from error


@click.command("token", short_help="Make a claim token, which lets one device in.")
@click.option("--device", metavar="ID", help="The only id that the token is good for.")
@click.option("--expires", type=Duration(), default="24h", show_default=True, help="How long it may be used.")
@click.option("--approve", is_flag=True, help="Whoever comes with it needs no further approval.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="NAME=VALUE", help="Given to the device.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Make several.")
@click.option("--host", metavar="ADDRESS", help="This machine as devices call it, for the command that is shown.")
@click.option("--list", "listing", is_flag=True, help="List the tokens that are open.")
@click.option("--close", metavar="ID", help="Make the token with this id good for nothing.")
@state_option
@json_option
@debug_option
def token(
    device: str | None,
    expires: float,
    approve: bool,
    labels: tuple[tuple[str, str | None], ...],
    count: int,
    host: str | None,
    listing: bool,
    close: str | None,
    state: Path,
    as_json: bool,
) -> None:
    """Make a claim token. It is good for one device, once, and is shown only now."""
    _check_id(device, "--device")
    if count > 1 and device:
        raise click.UsageError("--count and --device exclude each other: an id is one device's")
    from edge.fleet.errors import FleetError
    from edge.fleet.server import enrollment
    from edge.fleet.server.database import setting
    from edge.fleet.server.state import State

    with open_database(state) as database:
        if close:
            with database.transaction() as connection:
                enrollment.close_token(connection, close, operator())
            return
        if listing:
            _list_tokens(database, as_json)
            return
        settings = State.existing(state).settings()
        with database.transaction() as connection:
            key = setting(connection, "broker_key")
            if key is None:
                raise FleetError("the fleet has not been up yet, so that its broker has no key: start 'edge fleet up'")
            given = {name: value for name, value in labels if value is not None}
            made = [
                enrollment.create_token(connection, key, operator(), expires, device, approve, given)
                for _ in range(count)
            ]
    url = settings.boot_url(host or "")
    if as_json:
        until = time.time() + expires
        print_json([{"id": one.id, "token": str(one), "expires_at": until, "url": url} for one in made])
        return
    for one in made:
        click.echo(str(one) if count > 1 else f"edge device enroll --token {one} {url}")


def _list_tokens(database: Any, as_json: bool) -> None:
    import sqlalchemy as sa

    from edge.fleet.server.tables import tokens

    with database.reading() as connection:
        query = sa.select(tokens).where(tokens.c.closed_at.is_(None)).order_by(tokens.c.created_at)
        rows = [dict(row._mapping) for row in connection.execute(query)]
    for row in rows:
        del row["key"], row["password"]
    if as_json:
        print_json(rows)
        return
    from edge.sdk.console import print_table

    print_table(
        ("token", "for", "approved", "by", "state"),
        [
            (
                row["id"],
                row["device"],
                "yes" if row["approve"] else "no",
                row["created_by"],
                "used" if row["used_by"] else "expired" if row["expires_at"] < time.time() else "open",
            )
            for row in rows
        ],
    )


@click.command("pending", short_help="List devices that wait for approval.")
@state_option
@json_option
@debug_option
def pending(state: Path, as_json: bool) -> None:
    """List requests that wait for your decision, oldest first.

    Compare the key with what the device shows if you must be sure who asks.
    """
    from edge.fleet.server import enrollment

    with open_database(state) as database, database.reading() as connection:
        rows = enrollment.pending(connection)
    if as_json:
        print_json(rows)
        return
    from edge.sdk.console import print_table

    print_table(
        ("device", "key", "came by", "what it is", "note"),
        [
            (
                row["device"],
                row["key"][:12],
                row["gateway"] or row["token"],
                " ".join(filter(None, (row["inventory"].get("cpu"), row["inventory"].get("os")))) or None,
                "a device of this name exists: --replace or --as" if row["replaces"] else None,
            )
            for row in rows
        ],
    )


@click.command("approve", short_help="Let devices in.")
@click.argument("names", nargs=-1, metavar="[DEVICE|KEY]…", shell_complete=fleet_names("pending"))
@click.option("--all", "everyone", is_flag=True, help="All that wait, but those whose name is taken.")
@click.option("--as", "device", metavar="ID", help="Give the device this id.")
@click.option("--replace", is_flag=True, help="It takes the place of the device of its name; that one's key is void.")
@click.option(
    "--ahead", multiple=True, metavar="DEVICE|KEY", help="Approve before it asks, by its id or its key's fingerprint."
)
@click.option("--list", "listed", type=click.File(), metavar="FILE", help="The same for each line of a file.")
@state_option
@debug_option
def approve(
    names: tuple[str, ...],
    everyone: bool,
    device: str | None,
    replace: bool,
    ahead: tuple[str, ...],
    listed: Any,
    state: Path,
) -> None:
    """Let waiting devices in, by id or by the first digits of their key; or approve ahead of their coming."""
    from edge.fleet.server import enrollment

    if not (names or everyone or ahead or listed):
        raise click.UsageError("name a device, or --all, --ahead, --list")
    _check_id(device, "--as")
    if device and len(names) != 1:
        raise click.UsageError("--as takes one device")
    try:
        lines = [line.split("#")[0].strip() for line in listed] if listed else []
    except UnicodeDecodeError:
        raise click.UsageError(f"--list {listed.name}: not a text file: one device or key a line") from None
    subjects = [*ahead, *(line for line in lines if line)]
    with open_database(state) as database, database.transaction() as connection:
        if subjects:
            click.echo(f"{enrollment.preapprove(connection, subjects, operator())} approved ahead")
        if everyone:
            chosen = [row["key"] for row in enrollment.pending(connection) if not row["replaces"]]
        else:
            chosen = [enrollment.find_pending(connection, name)["key"] for name in names]
        for key in chosen:
            click.echo(f"{enrollment.approve_request(connection, key, operator(), device, replace)} approved")


@click.command("reject", short_help="Turn devices down.")
@click.argument("names", nargs=-1, required=True, metavar="DEVICE|KEY…", shell_complete=fleet_names("pending"))
@click.option("--reason", default="", help="Told to the device.")
@state_option
@debug_option
def reject(names: tuple[str, ...], reason: str, state: Path) -> None:
    """Turn waiting devices down, for good: their claim tokens are used up."""
    from edge.fleet.server import enrollment

    with open_database(state) as database, database.transaction() as connection:
        for name in names:
            row = enrollment.find_pending(connection, name)
            enrollment.reject_request(connection, row["key"], operator(), reason)
            click.echo(f"{row['device']} rejected")


@click.command("revoke", short_help="Shut devices out.")
@click.argument("names", nargs=-1, required=True, metavar="DEVICE…", shell_complete=fleet_names("device"))
@click.option("--reason", default="", help="For the audit log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@debug_option
def revoke(names: tuple[str, ...], reason: str, yes: bool, state: Path) -> None:
    """Take devices' certificates back. They are disconnected within seconds and do not come in again.

    A device comes back only by a new claim token and 'edge fleet approve --replace'.
    """
    from edge.fleet.server import enrollment

    if not yes:
        confirm(f"Shut out {', '.join(names)}? Each needs a new claim token to come back")
    with open_database(state) as database, database.transaction() as connection:
        for name in names:
            count = enrollment.revoke(connection, name, operator(), reason)
            click.echo(f"{name} revoked ({count} certificates)")


@click.command("remove", short_help="Forget devices that are revoked.")
@click.argument("names", nargs=-1, required=True, metavar="DEVICE…", shell_complete=fleet_names("device"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@debug_option
def remove(names: tuple[str, ...], yes: bool, state: Path) -> None:
    """Remove revoked devices with their labels, groups and jobs. The audit log keeps what happened."""
    from edge.fleet.server import registry

    if not yes:
        confirm(f"Forget {', '.join(names)}?")
    with open_database(state) as database, database.transaction() as connection:
        for name in names:
            registry.remove(connection, name, operator())
            click.echo(f"{name} removed")
