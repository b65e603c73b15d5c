"""`edge firmware flash`, `rollback`, `key` and `sign`: new models for boards, and who may send them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.runtime.errors import BadInput
from edge.runtime.file_bytes import read_bounded
from edge.sdk.commands.firmware_link import DEFAULT_KEY, address_argument, info_document, key_option
from edge.sdk.complete import files
from edge.sdk.options import debug_option, json_option, print_json

if TYPE_CHECKING:
    from edge.firmware_bridge.device import Device
    from edge.firmware_bridge.signature import FirmwareKey

_MODELS = (".edge", ".pte", ".slot")
_LARGEST = 64 << 20


@click.command("key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@debug_option
def key(file: Path, as_json: bool) -> None:
    """Make the key FILE of an owner of boards: it signs models, and proves commands to boards that know it.

    Only you can read it (mode 0600). Whoever has it can change your boards; without it nobody can.
    """
    from edge.firmware_bridge.signature import FirmwareKey, write_key

    made = FirmwareKey.generate()
    write_key(file, made)
    if as_json:
        print_json({"file": str(file), "public": made.public.hex(), "id": made.id.hex()})
    else:
        click.echo(f"{file}: public key {made.public.hex()}, id {made.id.hex()}")


@click.command("sign")
@click.argument("model", type=click.Path(path_type=Path), shell_complete=files((".edge", ".pte")))
@key_option
@click.option("--sequence", type=click.IntRange(1, 0xFFFFFFFF), required=True, help="Higher than of any image before.")
@click.option("--board", default="", metavar="BOARD", help="The only board that may run it.  [default: any]")
@click.option("--target", default="", metavar="CLASS", help="The only class of CPU, as cortex-m4.  [default: any]")
@click.option("--days", type=click.IntRange(1, 36500), help="It expires so many days from now.  [default: never]")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .slot file.")
@debug_option
def sign(model: Path, key: Path | None, sequence: int, board: str, target: str, days: int | None, output: Path) -> None:
    """Sign MODEL (.edge or .pte) as an image that `edge firmware flash` sends, on another machine perhaps."""
    from edge.runtime.whole_file import whole_file

    expiry = int(time.time()) + days * 86400 if days else 0
    image = _signed(model, _key(key), sequence=sequence, board=board, target=target, expiry=expiry)
    with whole_file(output) as file:
        file.write(image)
    click.echo(f"{output}: {len(image):,} bytes, sequence {sequence}")


@click.command("flash")
@address_argument
@click.argument("model", type=click.Path(path_type=Path), shell_complete=files(_MODELS))
@key_option
@click.option(
    "--sequence",
    type=click.IntRange(1, 0xFFFFFFFF),
    help="Of the image that is signed.  [default: the one after the board's]",
)
@json_option
@debug_option
def flash(address: str, baud: int, model: Path, key: Path | None, sequence: int | None, as_json: bool) -> None:
    """Send MODEL to the board at ADDRESS, which checks it, tries it, and goes back to the one before if it fails.

    MODEL is a .edge or .pte, which is signed for this board, or a .slot that `edge firmware sign` made. What was cut
    goes on where it was when the command is given again.
    """
    from edge.firmware_bridge.device import Device
    from edge.firmware_bridge.slot_image import check_image, read_manifest
    from edge.sdk.console import progress

    owner = _key(key)
    with Device.open(address, owner, baud=baud) as device:
        if model.suffix == ".slot":
            if sequence is not None:
                raise click.UsageError("a .slot has its sequence number: leave --sequence out")
            image = _read(model)
            check_image(image, where=str(model))
        else:
            image = _image_for(device, model, owner, sequence)
            if sequence is None and read_manifest(image).sha256[:8] == device.info.model_digest:
                # Sent again, it would take the place of the model that a rollback goes to.
                raise BadInput(f"{address}: runs {model} already; --sequence {device.info.floor + 1} sends it again")
        with _told_of_going_on(), progress() as bars:
            begun = False

            def show(done: int, total: int) -> None:
                nonlocal begun
                if not begun:
                    bars.stage("sending", total)
                    begun = True
                bars.update(done)

            device.flash(image, show)
        document = info_document(device)
    if as_json:
        print_json(document)
    else:
        click.echo(
            f"{address}: runs {document['model']} {document['model_version']}, sequence {document['running_sequence']}"
        )


@contextmanager
def _told_of_going_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nthe board keeps its model until it has a whole new one; the same command goes on", err=True)
        raise


@click.command("rollback")
@address_argument
@key_option
@json_option
@debug_option
def rollback(address: str, baud: int, key: Path | None, as_json: bool) -> None:
    """Have the board at ADDRESS go back to the model that it ran before; once more, and it comes back to this one."""
    from edge.firmware_bridge.device import Device

    with Device.open(address, _key(key), baud=baud) as device:
        device.roll_back()
        device.reset()
        document = info_document(device)
    if as_json:
        print_json(document)
    else:
        click.echo(
            f"{address}: runs {document['model']} {document['model_version']} again, "
            f"sequence {document['running_sequence']}"
        )


def _key(path: Path | None) -> "FirmwareKey":
    from edge.firmware_bridge.signature import read_key

    if path is None and not Path(DEFAULT_KEY).exists():
        raise BadInput(f"give the owner's key: --key FILE, or {DEFAULT_KEY} here (edge firmware key makes one)")
    return read_key(path or Path(DEFAULT_KEY))


def _image_for(device: "Device", model: Path, owner: "FirmwareKey", sequence: int | None) -> bytes:
    """The signed image of a model for a board. A transfer that was cut goes on only with the same image: the sequence
    is that of a model that the board has as a whole, so it stays the same until the update is through."""
    info = device.info
    number = info.floor + 1 if sequence is None else sequence
    return _signed(model, owner, sequence=number, board=info.board, target=info.target)


def _signed(
    model: Path, owner: "FirmwareKey", *, sequence: int, board: str = "", target: str = "", expiry: int = 0
) -> bytes:
    from edge.firmware_bridge.slot_image import slot_image

    if model.suffix == ".edge":
        from edge.runtime.bundle import Bundle

        with Bundle.open(model) as bundle:
            manifest = bundle.manifest
            names = manifest.files_for("core")
            if not names:
                raise BadInput(f"{model}: holds no .pte for the core: export it with --formats pte")
            program = bytes(bundle.read(names[0]))
            return slot_image(
                program,
                owner,
                sequence=sequence,
                board=board,
                target=target,
                expiry=expiry,
                name=manifest.name[:32],
                version=manifest.version[:16],
                manifest=manifest,
            )
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in model.stem)[:32] or "model"
    return slot_image(_read(model), owner, sequence=sequence, board=board, target=target, expiry=expiry, name=name)


def _read(path: Path) -> bytes:
    return read_bounded(path, _LARGEST, "no model for a microcontroller")
