"""The command `edge`: finds the command asked for, runs it, and has `edge.sdk.failure` tell what goes wrong."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from edge.sdk.failure import report
from edge.sdk.options import Invocation, debug_option

# In the order in which a person meets them. Each is edge.sdk.commands.<name>.command.
COMMANDS = ("export", "run", "learn", "inspect", "bench", "firmware", "models", "targets", "doctor", "completion")


class LazyGroup(click.Group):
    """A group that imports a command's module when it is asked for, so that `edge --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"edge.sdk.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line and leaves with its exit code (or returns, if not `standalone_mode`)."""
        words = list(sys.argv[1:] if args is None else args)
        prog_name = prog_name or "edge"
        invocation = Invocation()
        try:
            extra.setdefault("obj", invocation)
            result = super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except Exception as error:
            if not standalone_mode:
                raise
            code = report(error, as_json="--json" in words, debug=invocation.debug)
        else:
            if not standalone_mode:
                return result
            code = result if isinstance(result, int) else 0
        sys.exit(code)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from edge.sdk.version import version

    click.echo(f"edge {version()}")
    ctx.exit()


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@debug_option
def cli() -> None:
    """Train small models with ternary (1.58-bit) weights and run them without PyTorch.

    \b
    edge export --bits 1.58 -o digits.edge   trains and exports the built-in example
    edge run digits.edge                     runs it with numpy alone
    """


def main() -> None:
    """Entry point of the console script."""
    cli.main(prog_name="edge")


if __name__ == "__main__":
    main()
