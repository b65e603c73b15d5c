"""The command `edge`: finds the command asked for, runs it, and turns what goes wrong into a line and an exit code.

Exit codes: 0 done · 1 an error that the message explains · 2 the command line is wrong · 70 a bug · 130 Ctrl-C.
With `--json`, standard output holds one JSON document or nothing, and an error is a JSON object on standard error:
{"error": "…", "kind": "BadFile", "exit_code": 1}.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from edge.runtime.errors import EdgeError, Interrupted
from edge.sdk.extras import missing_dependency
from edge.sdk.options import Invocation, debug_option

EXIT_ERROR, EXIT_USAGE, EXIT_BUG, EXIT_INTERRUPTED = 1, 2, 70, 130

# In the order in which a person meets them. Each is edge.sdk.commands.<name>.command.
COMMANDS = ("export", "run", "inspect", "bench", "models", "targets", "doctor", "completion")


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
            code = _report(error, as_json="--json" in words, debug=invocation.debug)
        else:
            if not standalone_mode:
                return result
            code = result if isinstance(result, int) else 0
        sys.exit(code)


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Shows `error` on standard error and returns the exit code."""
    kind, message, code = _describe(error)
    if debug and code != EXIT_USAGE:
        traceback.print_exception(error)
        if log := getattr(error, "log", None):  # what a child process of an export printed
            click.echo(log, err=True)
    if as_json:
        click.echo(json.dumps({"error": message, "kind": kind, "exit_code": code}), err=True)
    elif isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
    else:
        click.echo(f"edge: error: {message}", err=True)
    return code


def _describe(error: Exception) -> tuple[str, str, int]:
    """The kind of `error`, one line about it, and the exit code it calls for."""
    kind = type(error).__name__
    if isinstance(error, click.Abort):
        return "Interrupted", "interrupted", EXIT_INTERRUPTED
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "edge"
        return kind, f"{_one_line(error.format_message())} (see '{path} --help')", EXIT_USAGE
    if isinstance(error, click.ClickException):
        return kind, _one_line(error.format_message()), error.exit_code
    if isinstance(error, EdgeError):
        return kind, _one_line(str(error)), EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_ERROR
    if isinstance(error, ModuleNotFoundError) and (message := missing_dependency(error)):
        return "MissingDependency", message, EXIT_ERROR
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return kind, f"{error.strerror}{where}", EXIT_ERROR
    if isinstance(error, MemoryError):
        return kind, "not enough memory: try a smaller model, --batch-size or --limit", EXIT_ERROR
    return kind, f"a bug in edge: {kind}: {_one_line(str(error))} (--debug shows where)", EXIT_BUG


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
