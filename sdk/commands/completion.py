"""`edge completion`: the script that makes a shell complete edge's commands and options."""

import click

from edge.sdk.options import debug_option

SHELLS = {
    "bash": 'eval "$(edge completion bash)"          in ~/.bashrc',
    "zsh": 'eval "$(edge completion zsh)"           in ~/.zshrc',
    "fish": "edge completion fish > ~/.config/fish/completions/edge.fish",
}


@click.command("completion", epilog="\b\n" + "\n".join(SHELLS.values()))
@click.argument("shell", type=click.Choice(list(SHELLS)))
@debug_option
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    generator = get_completion_class(shell)
    assert generator is not None
    click.echo(generator(ctx.find_root().command, {}, "edge", "_EDGE_COMPLETE").source())
