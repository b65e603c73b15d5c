"""`edge fleet rollout`: how rollouts go, and how they are stopped, resumed and taken back."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.sdk.complete import fleet_names
from edge.sdk.fleet_options import confirm, open_database, operator, state_option
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edge.fleet.server.updates.rollout import Rollouts

_ENDED = ("done", "aborted", "rolled-back")
_BAR = 30


@click.group("rollout", short_help="Watch rollouts, stop them, take them back.")
@debug_option
def rollout() -> None:
    """Rollouts: list and show them, pause, resume, abort and roll them back."""


@rollout.command("list", short_help="List rollouts, newest first.")
@state_option
@json_option
@debug_option
def list_(state: Path, as_json: bool) -> None:
    """List the rollouts, the newest first."""
    with open_database(state) as database:
        rows = _rollouts(database).all()
    if as_json:
        print_json(rows)
        return
    from edge.sdk.console import print_table

    print_table(
        ("rollout", "model", "state", "phase", "active", "failed", "waiting", "begun"),
        [
            (
                row["id"],
                f"{row['model']}:{row['version']}",
                row["state"],
                f"{row['phase'] + 1} of {len(row['plan']['steps'])}",
                row["devices"].get("active", 0),
                sum(row["devices"].get(state, 0) for state in ("failed", "rolled-back", "silent")),
                row["devices"].get("waiting", 0),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_at"])),
            )
            for row in rows
        ],
    )


@rollout.command("show", short_help="Show a rollout: how many devices are how far.")
@click.argument("id", metavar="ROLLOUT", shell_complete=fleet_names("rollout"))
@click.option("--watch", is_flag=True, help="Show it again every second until it has ended.")
@state_option
@json_option
@debug_option
def show(id: str, watch: bool, state: Path, as_json: bool) -> None:
    """Show how many devices of ROLLOUT are how far, and what went wrong where."""
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    with open_database(state) as database:
        rollouts = _rollouts(database)
        if as_json:
            print_json(rollouts.show(id))
            return
        from edge.sdk.console import console

        out = console()
        if not watch:
            out.print(_funnel(rollouts.show(id)))
            return
        from rich.live import Live

        with Live(_funnel(rollouts.show(id)), console=out, auto_refresh=False) as live:
            while True:
                shown = rollouts.show(id)
                live.update(_funnel(shown), refresh=True)
                if shown["state"] in _ENDED:
                    return
                time.sleep(1)


@rollout.command("pause", short_help="Start no further device.")
@click.argument("id", metavar="ROLLOUT", shell_complete=fleet_names("rollout"))
@state_option
@debug_option
def pause(id: str, state: Path) -> None:
    """Start no further device of ROLLOUT until it is resumed; those that have begun go on."""
    with open_database(state) as database:
        _rollouts(database).pause(id, operator())
    click.echo(f"{id} is paused")


@rollout.command("resume", short_help="Go on with a paused rollout.")
@click.argument("id", metavar="ROLLOUT", shell_complete=fleet_names("rollout"))
@state_option
@debug_option
def resume(id: str, state: Path) -> None:
    """Go on with ROLLOUT; where a phase is over, with the next one."""
    with open_database(state) as database:
        rollouts = _rollouts(database)
        rollouts.resume(id, operator())
        click.echo(f"{id} is {rollouts.show(id)['state']}")


@rollout.command("abort", short_help="End a rollout.")
@click.argument("id", metavar="ROLLOUT", shell_complete=fleet_names("rollout"))
@click.option("--reason", default="", help="Kept with it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@debug_option
def abort(id: str, reason: str, yes: bool, state: Path) -> None:
    """End ROLLOUT for good. Devices that have activated the new model keep it; see rollback."""
    with open_database(state) as database:
        rollouts = _rollouts(database)
        shown = rollouts.show(id)
        if not yes:
            moving = sum(shown["devices"].get(state, 0) for state in ("started", "staged"))
            confirm(f"Abort {id}? {moving} devices are under way; it cannot be resumed")
        rollouts.abort(id, operator(), reason)
    click.echo(f"{id} is aborted")


@rollout.command("rollback", short_help="Give devices back what they had.")
@click.argument("id", metavar="ROLLOUT", shell_complete=fleet_names("rollout"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@debug_option
def rollback(id: str, yes: bool, state: Path) -> None:
    """Take the model of ROLLOUT back: each device where it is active gets the version that it had before."""
    with open_database(state) as database:
        rollouts = _rollouts(database)
        shown = rollouts.show(id)
        if not yes:
            active = shown["devices"].get("active", 0)
            confirm(f"Take {shown['model']}:{shown['version']} back from {active} devices?")
        count = rollouts.rollback(id, operator())
    click.echo(f"{count} devices are asked to go back")


def _rollouts(database: Any) -> "Rollouts":
    from edge.fleet.server.updates.rollout import Rollouts
    from edge.fleet.server.updates.selection import selector

    return Rollouts(database, selector(database))


def _funnel(shown: dict[str, Any]) -> "RenderableType":
    """A line for each stage that devices are in, with its share of all as a bar; then what went wrong."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from edge.fleet.server.updates.record import FUNNEL, REVERTED

    counts, total = shown["devices"], sum(shown["devices"].values())
    title = f"{shown['id']}: {shown['state']}"
    if shown["reason"]:
        title += f" ({shown['reason']})"
    steps = shown["steps"]
    phases = " → ".join(
        f"[{step['devices']}]" if step["phase"] == shown["phase"] else str(step["devices"]) for step in steps
    )
    parts: list[RenderableType] = [
        Text(title, style="bold"),
        Text(f"{shown['model']}:{shown['version']}, phase {shown['phase'] + 1} of {len(steps)}: {phases} devices"),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in (*FUNNEL, *REVERTED):
        if name in counts or name in ("waiting", "started", "staged", "active"):
            count = counts.get(name, 0)
            bar = "█" * (max(1, round(_BAR * count / total)) if count else 0)
            table.add_row(name, Text(str(count), justify="right"), bar)
    parts.append(table)
    if shown["problems"]:
        problems = Table(box=None, show_header=False, pad_edge=False)
        for row in shown["problems"][:20]:
            problems.add_row(row["device"], row["state"], Text(row["detail"], overflow="fold"))
        parts.append(problems)
        if len(shown["problems"]) > 20:
            parts.append(Text(f"and {len(shown['problems']) - 20} more (--json)"))
    return Group(*parts)
