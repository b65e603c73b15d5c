"""`edge targets`: the machines that an export can be meant for, and which engines run there."""

import click

from edge.sdk.options import debug_option, json_option, print_json


@click.command("targets")
@json_option
@debug_option
def command(as_json: bool) -> None:
    """List target machines and the engines that run on them."""
    from edge.runtime.target import TARGETS

    if as_json:
        print_json([target.to_dict() for target in TARGETS])
        return
    from edge.sdk.console import print_table

    print_table(
        ("target", "machine", "processor", "cores", "RAM", "engines", "formats"),
        [
            (
                target.name,
                target.title,
                target.cpu,
                target.cores or None,
                f"{target.ram_mb} MiB" if target.ram_mb else None,
                " ".join(target.engines),
                " ".join(target.formats),
            )
            for target in TARGETS
        ],
    )
    click.echo()
    for target in TARGETS:
        click.echo(f"{target.name}: {target.note}")
