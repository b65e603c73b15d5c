"""`edge firmware run`: an emulated board whose serial line is a TCP port, or this terminal."""

import click

from edge.sdk.complete import files
from edge.sdk.options import debug_option


@click.command("run")
@click.argument("firmware", type=click.Path(), shell_complete=files((".elf",)))
@click.option("--board", required=True, metavar="BOARD", help="The board that it was built for.")
@click.option("--emulator", type=click.Choice(("unicorn", "qemu")), help="[default: the first that has the board]")
@click.option("--storage", type=click.Path(dir_okay=False), help="File that keeps the board's storage.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port of 127.0.0.1.  [default: a free one]")
@click.option("--stdio", is_flag=True, help="The serial line is standard input and output instead.")
@debug_option
def run(firmware: str, board: str, emulator: str | None, storage: str | None, port: int, stdio: bool) -> None:
    """Start an emulated board and bridge its serial line to a TCP port.

    FIRMWARE is what `edge firmware build` wrote. The other commands of `edge firmware` reach the board as
    socket://127.0.0.1:PORT; Ctrl-C ends it.
    """
    from edge.firmware_bridge.bridge import serve_stdio, serve_tcp
    from edge.firmware_bridge.emulate import start_board
    from edge.runtime.errors import BadInput

    if firmware.endswith(".bin") and storage is None and _is_code_alone(firmware, board):
        raise BadInput(f"{firmware}: has no device and no model in it: give the .elf, or --storage")
    with start_board(board, firmware, storage=storage, emulator=emulator) as emulated:  # type: ignore[arg-type]
        if stdio:
            serve_stdio(emulated)
        else:
            serve_tcp(emulated, port, lambda url: click.echo(url))


def _is_code_alone(firmware: str, board: str) -> bool:
    from edge.firmware_bridge.board import find_board
    from edge.firmware_bridge.image import read_image

    return not read_image(find_board(board), firmware).storage
