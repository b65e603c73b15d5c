"""`edge fleet label`, `job`, `shadow`, `telemetry`: what devices are called, do, should be, and have measured."""

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.sdk.commands.fleet_enroll import Duration, Label
from edge.sdk.complete import fleet_names
from edge.sdk.failure import EXIT_WAITING
from edge.sdk.fleet_options import device_first, one_or_where, open_database, operator, state_option, where_option
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.fleet.server.database import Database

_BARS = "▁▂▃▄▅▆▇█"
_CHART_WIDTH = 40


class Setting(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """ "heartbeat=60", "log=debug", "night=true"; "heartbeat=" removes it. What is no number, true or false is text."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value}: like heartbeat=60", param, ctx)
        try:
            read = json.loads(content)
        except ValueError:
            read = None
        return name, read if isinstance(read, bool | int | float) else content or None


@click.command("label", short_help="Label devices, and group them.")
@click.argument("words", nargs=-1, metavar="[DEVICE] [NAME=VALUE]…", shell_complete=fleet_names("device"))
@where_option
@click.option("--group", "joined", multiple=True, metavar="NAME", help="Put it into a group.")
@click.option("--ungroup", "left", multiple=True, metavar="NAME", help="Take it out of a group.")
@state_option
@debug_option
def label(
    words: tuple[str, ...],
    where: str | None,
    joined: tuple[str, ...],
    left: tuple[str, ...],
    state: Path,
) -> None:
    """Set labels of devices ('building=7'; 'building=' removes one), and the groups that they are in."""
    from edge.fleet.server import registry

    named, rest = device_first(words)
    labels = dict(Label().convert(word, None, None) for word in rest)
    with open_database(state) as database:
        devices = one_or_where(database, named, where)
        with database.transaction() as connection:
            for device in devices:
                if labels:
                    registry.set_labels(connection, device, labels, operator())
                for group in joined:
                    registry.set_group(connection, device, group, True, operator())
                for group in left:
                    registry.set_group(connection, device, group, False, operator())
            rows = [registry.describe(connection, device) for device in devices]
    for row in rows:
        shown = [f"{name}={value}" for name, value in sorted(row["labels"].items())]
        click.echo(" ".join([f"{row['id']}:", *shown, *(f"[{group}]" for group in row["groups"])]))


@click.command("job", short_help="Have devices do something.")
@click.argument("words", nargs=-1, required=True, metavar="[DEVICE] KIND", shell_complete=fleet_names("device"))
@where_option
@click.option("--arguments", default="{}", metavar="JSON", help="What the job takes.")
@click.option("--wait", type=Duration(), help="Wait so long for it to end, and show how it did.")
@state_option
@json_option
@debug_option
@click.pass_context
def job(
    ctx: click.Context,
    words: tuple[str, ...],
    where: str | None,
    arguments: str,
    wait: float | None,
    state: Path,
    as_json: bool,
) -> None:
    """Queue a job: 'ping', 'hello' (report the inventory), or one that the device's version of edge knows.

    It is sent when the device is there, and until the device has answered.
    """
    from edge.fleet.messages import FINAL_JOB_STATES
    from edge.fleet.server import registry

    if len(words) != (1 if where is not None else 2):
        raise click.UsageError("give a device and what it is to do, or --where FILTER and what they are to do")
    try:
        given = json.loads(arguments)
        if not isinstance(given, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise click.UsageError(f"--arguments: {error}") from None
    with open_database(state) as database:
        devices = one_or_where(database, None if where is not None else words[0], where)
        with database.transaction() as connection:
            made = [registry.create_job(connection, name, words[-1], given, operator()) for name in devices]
        until = time.monotonic() + (wait or 0)
        while True:
            with database.reading() as connection:
                rows = registry.jobs(connection, made)
            if all(row["state"] in FINAL_JOB_STATES for row in rows) or time.monotonic() >= until:
                break
            time.sleep(0.1)
    if as_json:
        print_json(rows if where is not None else rows[0])
    else:
        for row in rows:
            of = f"{row['device']}: " if where is not None else ""
            click.echo(": ".join(filter(None, (f"{of}job {row['id']}: {row['state']}", row["detail"]))))
    if any(row["state"] in ("failed", "rolled-back") for row in rows):
        ctx.exit(1)
    if wait is not None and not all(row["state"] in FINAL_JOB_STATES for row in rows):
        ctx.exit(EXIT_WAITING)


@click.command("shadow", short_help="Show or set what devices should be.")
@click.argument("words", nargs=-1, metavar="[DEVICE] [NAME=VALUE]…", shell_complete=fleet_names("device"))
@where_option
@click.option("--wait", type=Duration(), help="Wait so long for the devices to say that they are.")
@state_option
@json_option
@debug_option
@click.pass_context
def shadow(
    ctx: click.Context, words: tuple[str, ...], where: str | None, wait: float | None, state: Path, as_json: bool
) -> None:
    """Show what devices should be and what they say that they are; or set it: 'heartbeat=60'; 'heartbeat=' takes a
    setting away.

    It reaches a device when that is there. The agent obeys heartbeat (seconds) and log (debug, info, warning, error);
    other settings are for programs on the device.
    """
    from edge.fleet.server import registry

    named, rest = device_first(words)
    settings = dict(Setting().convert(word, None, ctx) for word in rest)
    with open_database(state) as database:
        names = one_or_where(database, named, where)
        if settings:
            with database.transaction() as connection:
                for name in names:
                    registry.set_desired(connection, name, settings, operator())
        rows = _shadows(database, names)
        until = time.monotonic() + (wait or 0)
        while not all(row["reached"] for row in rows) and time.monotonic() < until:
            time.sleep(0.2)
            rows = _shadows(database, names)
    if as_json:
        print_json(rows)
    else:
        from edge.sdk.console import print_table

        print_table(
            ("device", "setting", "desired", "reported"),
            [
                (row["device"], name, _told(row["desired"].get(name)), _told(row["reported"].get(name)))
                for row in rows
                for name in sorted({*row["desired"], *row["reported"]})
            ],
        )
        for row in rows:
            if row["refused"]:
                click.echo(f"{row['device']} refuses: {row['refused']}", err=True)
    if wait is not None and not all(row["reached"] for row in rows):
        ctx.exit(1)


def _told(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _shadows(database: "Database", names: list[str]) -> list[dict[str, Any]]:
    import sqlalchemy as sa

    from edge.fleet.server import registry
    from edge.fleet.server.tables import jobs

    with database.reading() as connection:
        rows = [registry.describe(connection, names[0])] if len(names) == 1 else None
        rows = rows or registry.describe_all(connection, names)
        failed = sa.select(jobs.c.device, jobs.c.detail, jobs.c.body).where(
            jobs.c.kind == "shadow", jobs.c.state == "failed"
        )
        why = {(row.device, row.body.get("version")): row.detail for row in connection.execute(failed)}
    return [
        {
            "device": row["id"],
            "desired": row["desired"],
            "reported": row["reported"],
            "version": row["desired_version"],
            "reached": row["reported_version"] == row["desired_version"],
            "refused": why.get((row["id"], row["desired_version"]), ""),
        }
        for row in rows
    ]


@click.command("telemetry", short_help="Show what a device has measured.")
@click.argument("device", shell_complete=fleet_names("device"))
@click.option("--since", type=Duration(), default="1h", show_default=True, help="How far back.")
@click.option("--name", "wanted", multiple=True, metavar="NAME", help="Only these values.")
@click.option("--csv", "target", type=click.File("w"), metavar="FILE", help="Write all values, one a line.")
@state_option
@json_option
@debug_option
def telemetry(device: str, since: float, wanted: tuple[str, ...], target: Any, state: Path, as_json: bool) -> None:
    """Show the values that DEVICE has reported: the last of each, the least, the mean, the greatest, and their course.

    The newest 10,000 reports are looked at; reports are kept for 30 days.
    """
    from edge.fleet.server import registry

    with open_database(state) as database, database.reading() as connection:
        found = registry.telemetry(connection, device, time.time() - since)
    rows = [(at, {name: values[name] for name in values if not wanted or name in wanted}) for at, values in found]
    if target is not None:
        writer = csv.writer(target)
        writer.writerow(("at", "name", "value"))
        writer.writerows((at, name, value) for at, values in rows for name, value in values.items())
        return
    if as_json:
        print_json([{"at": at, "values": values} for at, values in rows])
        return
    from edge.sdk.console import print_table

    courses: dict[str, list[tuple[float, Any]]] = {}
    for at, values in rows:
        for name, value in values.items():
            courses.setdefault(name, []).append((at, value))
    if not courses:
        click.echo(f"{device} has reported nothing of that within the time", err=True)
        return
    print_table(
        ("value", "reports", "last", "least", "mean", "greatest", "course"),
        [(name, len(course), *_summary(course)) for name, course in sorted(courses.items())],
    )


def _summary(course: list[tuple[float, Any]]) -> tuple[str | None, ...]:
    """The last value, least, mean, greatest and a chart of what are numbers."""
    last = course[-1][1]
    numbers = [(at, float(value)) for at, value in course if not isinstance(value, bool | str)]
    if not numbers:
        return (_told(last), None, None, None, None)
    values = [value for _, value in numbers]
    figures = (min(values), sum(values) / len(values), max(values))
    return (_told(last), *(f"{figure:.4g}" for figure in figures), _chart(numbers))


def _chart(numbers: list[tuple[float, float]]) -> str:
    """The course of a value over time, a character a span of it: the mean of what was measured then."""
    begin, end = numbers[0][0], numbers[-1][0]
    width = min(_CHART_WIDTH, len(numbers))
    spans: list[list[float]] = [[] for _ in range(width)]
    for at, value in numbers:
        spans[min(width - 1, max(0, int((at - begin) / ((end - begin) or 1) * width)))].append(value)
    means = [sum(span) / len(span) if span else None for span in spans]
    known = [mean for mean in means if mean is not None]
    least, range_ = min(known), (max(known) - min(known)) or 1
    steps = len(_BARS) - 1
    return "".join(" " if mean is None else _BARS[round((mean - least) / range_ * steps)] for mean in means)
