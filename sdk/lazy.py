"""Groups of commands that import a command's module only when it is asked for, so that `edge --help` stays fast."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own.

    Args:
        commands_in: name of each command, in the order of the help, and where it is: "module:attribute", the module
            in `edge.sdk.commands`.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, str], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self._commands_in = dict(commands_in)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._commands_in.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(f"edge.sdk.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command
