"""`edge fleet broker-config`: what another broker than the fleet's own needs."""

from pathlib import Path

import click

from edge.sdk.fleet_options import state_option
from edge.sdk.options import debug_option


@click.command("broker-config", short_help="Write the configuration of a NATS cluster.")
@click.argument("kind", type=click.Choice(["nats"]))
@click.option("--nodes", required=True, metavar="HOST[:PORT],…", help="Its hosts, 3 or 5; each needs PORT to PORT+4.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for one folder a host, with keys in it.",
)
@state_option
@debug_option
def broker_config(kind: str, nodes: str, output: Path, state: Path) -> None:
    """Write what nats-server needs on each host of a cluster, and show how to start it and the fleet's server.

    PORT is 8883 if it is not given. The cluster asks the fleet's server who may come in: nothing has to be copied to it
    when devices come, go or are revoked. Run it again within a year to renew the certificates.
    """
    from edge.fleet.addresses import parse_list
    from edge.fleet.server.authority import Authority
    from edge.fleet.server.nats import nodes_of, write_cluster
    from edge.fleet.server.nats_admission import signing_key
    from edge.fleet.server.state import State

    members = nodes_of(parse_list(nodes, 8883, "--nodes"))
    place = State.create(state)
    authority = Authority(place.authority)
    names = place.settings().names
    authority.broker_certificate(place.broker / "broker.key", place.broker / "broker.pem", names)
    write_cluster(output, authority, signing_key(place), place.broker, members)
    for node in members:
        folder = output / node.name
        click.echo(f"on {node.at.host}: cd {folder} && nats-server -c node.conf, and nats-server -c boot.conf")
    devices, enrolling, server = (
        ",".join(str(getattr(node, name)) for node in members) for name in ("at", "boot", "server")
    )
    click.echo(f"here: edge fleet up --broker mqtts://{devices} --boot mqtts://{enrolling} --nats nats://{server}")
