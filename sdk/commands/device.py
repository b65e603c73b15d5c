"""`edge device`: what runs on a device of a fleet. Each subcommand lives in a module of its own."""

import click

from edge.sdk.lazy import LazyGroup
from edge.sdk.options import debug_option

COMMANDS = {
    "enroll": "device_agent:enroll",
    "run": "device_agent:run",
    "status": "device_agent:status",
}


@click.command("device", cls=LazyGroup, commands_in=COMMANDS, short_help="Be a device of a fleet: enroll, run.")
@debug_option
def command() -> None:
    """Make this machine a device of a fleet: enroll it with a key of its own, and run its agent."""
