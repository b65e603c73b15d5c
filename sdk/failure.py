"""What people and programs are told when something goes wrong: a line on standard error, and an exit code.

Exit codes: 0 done · 1 an error that the message explains · 2 the command line is wrong · 3 waited in vain · 70 a bug ·
130 Ctrl-C.
With `--json`, an error is a JSON object on standard error: {"error": "…", "kind": "BadFile", "exit_code": 1}.
"""

import json
import sys
import traceback

import click

from edge.runtime.errors import EdgeError, Interrupted, StillWaiting
from edge.sdk.extras import missing_dependency

EXIT_ERROR, EXIT_USAGE, EXIT_WAITING, EXIT_BUG, EXIT_INTERRUPTED = 1, 2, 3, 70, 130


def report(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Shows `error` in a line on standard error (with `debug`, its traceback before it) and returns the exit code."""
    kind, line, code = _describe(error)
    if debug and code != EXIT_USAGE:
        traceback.print_exception(error)
        if log := getattr(error, "log", None):  # what a child process of an export printed
            click.echo(log, err=True)
    if as_json:
        click.echo(json.dumps({"error": line, "kind": kind, "exit_code": code}), err=True)
    elif isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
    else:
        click.echo(f"edge: error: {line}", err=True)
    return code


def message(error: Exception) -> str:
    """One line about `error`."""
    return _describe(error)[1]


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
        if isinstance(error, Interrupted):
            return kind, _one_line(str(error)), EXIT_INTERRUPTED
        return kind, _one_line(str(error)), EXIT_WAITING if isinstance(error, StillWaiting) else EXIT_ERROR
    if isinstance(error, ModuleNotFoundError) and (line := missing_dependency(error)):
        return "MissingDependency", line, EXIT_ERROR
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return kind, f"{error.strerror}{where}", EXIT_ERROR
    if is_outage(error):
        from edge.fleet.errors import cause

        return kind, f"registry: {_one_line(cause(error))}", EXIT_ERROR
    if isinstance(error, MemoryError):
        return kind, "not enough memory: try a smaller model, --batch-size or --limit", EXIT_ERROR
    return kind, f"a bug in edge: {kind}: {_one_line(str(error))} (--debug shows where)", EXIT_BUG


def is_outage(error: Exception) -> bool:
    """Whether a database fails at what is no fault of edge's: a full disk, a file that is locked, a server away."""
    loaded = sys.modules.get("sqlalchemy.exc")  # not imported for the question
    if loaded is None or not isinstance(error, loaded.DBAPIError):
        return False
    ours = (loaded.ProgrammingError, loaded.IntegrityError, loaded.DataError, loaded.NotSupportedError)
    return not isinstance(error, ours)


def _one_line(text: str) -> str:
    return " ".join(text.split())
