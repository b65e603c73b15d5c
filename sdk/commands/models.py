"""`edge models`: the architectures that `edge export` knows by name."""

import click

from edge.sdk.options import debug_option, json_option, print_json


@click.command("models", short_help="List the built-in model architectures.")
@json_option
@debug_option
def command(as_json: bool) -> None:
    """List the built-in model architectures (needs the extra [export])."""
    from edge.export.models import registry

    infos = registry()
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "family": info.family,
                    "description": info.description,
                    "paper": info.paper,
                    "input_shape": list(info.input_shape),
                    "keep": list(info.keep),
                    "preprocess": info.preprocess,
                }
                for name, info in infos.items()
            ]
        )
        return
    from edge.sdk.console import print_table

    print_table(
        ("model", "family", "input", "paper", "description"),
        [
            (name, info.family, "×".join(str(size) for size in info.input_shape), info.paper, info.description)
            for name, info in infos.items()
        ],
    )
    click.echo("\nYour own: edge export path/to/file.py:factory --data …")
