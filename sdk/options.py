"""Options that several commands share, and what they leave behind for the one who reports errors."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass
class Invocation:
    """What the options of one invocation say to `edge.sdk.cli`; it is the click context's object."""

    debug: bool = False


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    invocation = ctx.find_object(Invocation)
    if value and invocation is not None:
        invocation.debug = True


def debug_option(command: _Command) -> _Command:
    """Adds `--debug`: show the traceback behind an error. It may stand before or after the command's name."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_debug,
        help="Show tracebacks of errors.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Adds `--json` (parameter `as_json`): print one JSON document on standard output and nothing else."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def threads_option(command: _Command) -> _Command:
    """Adds `--threads` (parameter `threads`, None if not given)."""
    return click.option(
        "--threads", type=click.IntRange(min=1), help="Threads that the engine may use.  [default: the engine's choice]"
    )(command)


def print_json(document: Mapping[str, object] | list[Any]) -> None:
    """Prints `document`; numbers that JSON has no word for (NaN) are an error here, not the reader's surprise."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))
