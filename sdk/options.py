"""Options that several commands share, and what they leave behind for the one who reports errors."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.runtime.manifest import FORMAT_ENGINES
from edge.runtime.target import TARGETS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

BACKENDS = tuple(engine for engines in FORMAT_ENGINES.values() for engine in engines)
TARGET_NAMES = tuple(target.name for target in TARGETS)

_Command = TypeVar("_Command", bound=Callable[..., Any])


class NameList(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """Names such as "pte,onnx", each taken once; the value is a tuple of them.

    Args:
        names: those that there are.
        ordered: whether the value keeps the order in which they were given; else it has that of `names`.
    """

    name = "list"

    def __init__(self, names: tuple[str, ...], *, ordered: bool = True) -> None:
        self.names = names
        self.ordered = ordered

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        given = tuple(dict.fromkeys(word.strip().lower() for word in str(value).split(",") if word.strip()))
        unknown = [word for word in given if word not in self.names]
        if unknown or not given:
            self.fail(f"{', '.join(unknown) or 'nothing'}: choose among {','.join(self.names)}", param, ctx)
        return given if self.ordered else tuple(name for name in self.names if name in given)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """Completes the last name of the list with those that it has not yet."""
        from click.shell_completion import CompletionItem

        before, comma, last = incomplete.rpartition(",")
        left = (name for name in self.names if name not in before.split(","))
        return [CompletionItem(f"{before}{comma}{name}") for name in left if name.startswith(last)]


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
