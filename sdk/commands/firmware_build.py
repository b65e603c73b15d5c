"""`edge firmware boards` and `edge firmware build`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.sdk.commands.firmware_link import DEFAULT_KEY
from edge.sdk.complete import files
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.firmware_bridge.report import Report
    from edge.firmware_bridge.signature import FirmwareKey


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
@click.argument("model", type=click.Path(path_type=Path), shell_complete=files((".edge", ".pte")))
@click.option("--board", required=True, metavar="BOARD", help="One of edge firmware boards, or a board's .toml file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The ELF file.  [default: MODEL-BOARD.elf]")
@click.option("--toolchain", type=click.Choice(("zig", "gcc")), default="zig", show_default=True, help="The compiler.")
@click.option(
    "--operators",
    default="model",
    show_default=True,
    metavar="model|all|NAME,…",
    help="Operators in the firmware: the model's, or some more for models to come.",
)
@click.option("--learning/--no-learning", default=True, help="Whether the device can learn; 10 KB of flash.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    envvar="EDGE_FIRMWARE_KEY",
    help=f"Key file that signs the model.  [default: {DEFAULT_KEY}]",
)
@click.option(
    "--sequence", type=click.IntRange(1, 2**32 - 1), default=1, help="Of the model; updates have higher ones."
)
@click.option("--device-id", metavar="HEX", help="The device's, 32 hexadecimal digits.  [default: drawn]")
@json_option
@debug_option
def build(
    model: Path,
    board: str,
    output: Path | None,
    toolchain: str,
    operators: str,
    learning: bool,
    key: Path | None,
    sequence: int,
    device_id: str | None,
    as_json: bool,
) -> None:
    """Build firmware for a board, with MODEL (.edge or .pte) signed in its first slot.

    Writes an ELF file, the plain binaries beside it, and what they take of flash and RAM. A model that does not fit is
    refused with the numbers and its largest layers.
    """
    from edge.firmware_bridge.board import find_board
    from edge.firmware_bridge.build import build_firmware, read_model
    from edge.runtime.errors import BadInput

    chosen = find_board(board)
    try:
        identity = None if device_id is None else bytes.fromhex(device_id)
    except ValueError:
        identity = b""
    if identity is not None and len(identity) != 16:
        raise BadInput("--device-id: expected 32 hexadecimal digits")
    written = output or Path(f"{model.stem}-{chosen.name}.elf")
    if written.suffix != ".elf":
        raise BadInput(f"{written}: the name of the firmware ends in .elf")

    def tell(step: str) -> None:
        if not as_json:
            click.echo(f"{step} …", err=True)

    made = build_firmware(
        read_model(model),
        chosen,
        written,
        _key(key or Path(DEFAULT_KEY), new=key is None),
        toolchain=toolchain,
        operators=operators,
        learning=learning,
        sequence=sequence,
        device_id=identity,
        progress=tell,
    )
    files_written = [{"file": str(path), "address": address} for path, address in made.files]
    if as_json:
        print_json({"elf": str(made.elf), "binaries": files_written, **made.report.to_dict()})
        return
    _show(made.report)
    click.echo(f"{made.elf}")
    for entry in files_written:
        click.echo(f"{entry['file']}: to be written to {entry['address']:#010x}")


def _key(path: Path, *, new: bool) -> "FirmwareKey":
    """Reads the key; makes one where there is none and none was named."""
    from edge.firmware_bridge.signature import FirmwareKey, read_key, write_key

    if new and not path.exists():
        write_key(path, FirmwareKey.generate())
        click.echo(f"{path}: a new key; keep it, because the device takes only models that it signs", err=True)
    return read_key(path)


def _show(report: "Report") -> None:
    from edge.sdk.console import print_table

    print_table(
        ("flash", "bytes", "of"),
        [
            ("code", f"{report.code_bytes:,}", f"{report.code_room:,}"),
            *((f"  {name}", f"{count:,}", None) for name, count in report.parts.items() if count),
            ("model", f"{report.image_bytes:,}", f"{report.slot_bytes:,}"),
            ("  program", f"{report.program_bytes:,}", None),
            ("  weights", f"{report.weight_bytes:,}", None),
            (
                "  signature, description",
                f"{report.image_bytes - report.program_bytes - report.weight_bytes:,}",
                None,
            ),
        ],
    )
    click.echo()
    used = "" if report.stack_used is None else f" ({report.stack_used:,} used)"
    print_table(
        ("RAM", "bytes", "of"),
        [
            (f"  stack{used}", f"{report.stack_bytes:,}", None),
            ("  buffers", f"{report.buffer_bytes:,}", None),
            ("  tables", f"{report.state_bytes:,}", None),
            ("  arena", f"{report.arena_bytes:,}", None),
            ("  scratch", f"{report.scratch_bytes:,}", None),
            ("  packed weights", f"{report.packed_bytes:,}", None),
            ("used", f"{report.ram_used:,}", f"{report.ram_bytes:,}"),
            ("left", f"{report.ram_left:,}", None),
        ],
    )
    click.echo()
    if report.instructions:
        click.echo(f"one run: {report.instructions:,} instructions of a {report.target}")
    click.echo(f"memory, stack and instructions were measured on an emulated {report.measured_on}")
    for note in report.notes:
        click.echo(note)
