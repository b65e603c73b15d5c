"""`edge firmware`: models on microcontrollers. Each command's module is imported when it is asked for."""

import importlib

import click

from edge.sdk.options import debug_option

# In the order in which a person meets them: name to (module of edge.sdk.commands, its attribute).
COMMANDS: dict[str, tuple[str, str]] = {
    "boards": ("firmware_build", "boards"),
    "build": ("firmware_build", "build"),
    "run": ("firmware_run", "run"),
    "ports": ("firmware_link", "ports"),
    "info": ("firmware_link", "info"),
    "infer": ("firmware_link", "infer"),
    "flash": ("firmware_flash", "flash"),
    "rollback": ("firmware_flash", "rollback"),
    "stats": ("firmware_link", "stats"),
    "key": ("firmware_flash", "key"),
    "sign": ("firmware_flash", "sign"),
    "gateway": ("firmware_link", "gateway"),
}


class FirmwareGroup(click.Group):
    """A group that imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"edge.sdk.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


@click.command("firmware", cls=FirmwareGroup)
@debug_option
def command() -> None:
    """Run a model on a microcontroller, real or emulated.

    \b
    edge firmware build kws.edge --board lm3s6965evb -o kws.elf
    edge firmware run kws.elf --board lm3s6965evb        an emulated board on a TCP port
    edge firmware infer /dev/ttyUSB0 yes.wav             a model on a board
    edge firmware flash /dev/ttyUSB0 kws.edge            a new model for it
    """
