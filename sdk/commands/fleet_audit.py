"""`edge fleet audit`: who did what to what, when; and that nobody changed it since."""

import json
import time
from pathlib import Path
from typing import Any

import click

from edge.sdk.fleet_options import open_database, state_option
from edge.sdk.options import debug_option, json_option, print_json


@click.command("audit", short_help="Show who did what, when.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show the newest N entries.")
@click.option("--subject", metavar="NAME", help="Only what was done to NAME: a device, a token, a model.")
@click.option(
    "--export", type=click.File("w"), metavar="FILE", help="Write all entries, a JSON object a line, oldest first."
)
@state_option
@json_option
@debug_option
def audit(limit: int, subject: str | None, export: Any, state: Path, as_json: bool) -> None:
    """Show the audit log, newest entry first; or export it whole.

    Entries can only be added. Each holds a hash over itself and the one before; an export ends with an error if one
    does not match.
    """
    from edge.fleet.server.audit import entries, verified_entries

    with open_database(state) as database:
        if export is not None:
            count = 0
            for entry in verified_entries(database):
                export.write(json.dumps(entry) + "\n")
                count += 1
            export.flush()
            click.echo(f"{count} entries, each as it was written", err=True)
            return
        rows = entries(database, limit, subject)
    if as_json:
        print_json(rows)
        return
    from edge.sdk.console import print_table

    print_table(
        ("when", "who", "what", "to", "detail"),
        [
            (
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"])),
                row["actor"],
                row["action"],
                row["subject"],
                " ".join(f"{name}={value}" for name, value in row["detail"].items()),
            )
            for row in rows
        ],
    )
