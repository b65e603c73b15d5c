"""`edge fleet`: what an operator does. Each subcommand lives in a module of its own."""

import click

from edge.sdk.lazy import LazyGroup
from edge.sdk.options import debug_option

# In the order in which an operator meets them.
COMMANDS = {
    "up": "fleet_up:up",
    "status": "fleet_up:status",
    "doctor": "fleet_up:doctor",
    "broker-config": "fleet_broker:broker_config",
    "token": "fleet_enroll:token",
    "pending": "fleet_enroll:pending",
    "approve": "fleet_enroll:approve",
    "reject": "fleet_enroll:reject",
    "devices": "fleet_up:devices",
    "label": "fleet_devices:label",
    "job": "fleet_devices:job",
    "shadow": "fleet_devices:shadow",
    "telemetry": "fleet_devices:telemetry",
    "revoke": "fleet_enroll:revoke",
    "remove": "fleet_enroll:remove",
    "query": "fleet_semantic:query",
    "publish": "fleet_updates:publish",
    "models": "fleet_updates:models",
    "withdraw": "fleet_updates:withdraw",
    "keys": "fleet_updates:keys",
    "deploy": "fleet_updates:deploy",
    "rollout": "fleet_rollout:rollout",
    "match": "fleet_semantic:match",
    "export-rdf": "fleet_semantic:export_rdf",
    "import-rdf": "fleet_semantic:import_rdf",
    "rebuild": "fleet_semantic:rebuild",
    "audit": "fleet_audit:audit",
    "simulate": "fleet_simulate:simulate",
}


@click.command("fleet", cls=LazyGroup, commands_in=COMMANDS, short_help="Run a fleet: enroll, find, update devices.")
@debug_option
def command() -> None:
    """Run a fleet of devices from one machine: enroll them, find them by what they are, update their models."""
