"""`edge firmware boards` and `edge firmware build`."""

import click

from edge.sdk.options import debug_option, json_option, print_json


@click.command("boards")
@json_option
@debug_option
def boards(as_json: bool) -> None:
    """List the boards that firmware is built for, and which emulators run them."""
    from edge.firmware_bridge.board import board_names, find_board

    known = [find_board(name) for name in board_names()]
    if as_json:
        print_json([board.to_dict() for board in known])
        return
    from edge.sdk.console import print_table

    print_table(
        ("board", "machine", "target", "flash", "storage", "RAM", "emulators"),
        [
            (
                board.name,
                board.title,
                board.target,
                _kib(board.code.bytes),
                _kib(board.storage.bytes),
                _kib(board.ram.bytes),
                " ".join(board.emulators) if board.runs else "build only",
            )
            for board in known
        ],
    )


def _kib(count: int) -> str:
    return f"{count / 1024:,.0f} KiB"


@click.command("build")
@debug_option
def build() -> None:
    """Build firmware for a board."""
    raise NotImplementedError
