"""From a bundle to what is flashed: firmware with the operators of a model, the model signed in its first slot."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.firmware_bridge.board import Board
from edge.firmware_bridge.compile import build_elf, generated
from edge.firmware_bridge.elf import measure_sizes
from edge.firmware_bridge.image import ERASED, Image, read_image
from edge.firmware_bridge.measure import measure_program, reference_board
from edge.firmware_bridge.operators import choose_operators
from edge.firmware_bridge.report import DoesNotFit, Layer, Report
from edge.firmware_bridge.signature import DEVICE_ID_BYTES, FirmwareKey
from edge.firmware_bridge.slot_image import slot_image
from edge.firmware_bridge.sources import FLAGS, firmware_parts
from edge.firmware_bridge.storage import Identity, Layout, first_storage_image
from edge.firmware_bridge.toolchain import COLD, Source, Toolchain, find_toolchain
from edge.runtime.bundle import Bundle
from edge.runtime.errors import BadFile, BadInput, EdgeError, MissingDependency, Unsupported
from edge.runtime.layouts import LAYOUTS
from edge.runtime.manifest import Manifest
from edge.runtime.target import TARGETS, find_target
from edge.runtime.whole_file import whole_file

_OVERFLOW = re.compile(r"(will not fit|overflowed)")
_NUMBER_BYTES = {"float32": 4, "int32": 4, "int64": 8, "float64": 8, "int16": 2}

# Firmware has its device's secret in it.
_OWNERS_ALONE = 0o600


@dataclass(frozen=True)
class Model:
    """A program and what its bundle says of it.

    Attributes:
        name: Of the file.
        pte: The program.
        manifest: The bundle's, or None of a bare .pte.
        operators: Those that it needs.
        layers: Its layers' sizes.
        weight_bytes: Of all its constants.
        layout: In which its ternary weights lie: one of edge.runtime.layouts.LAYOUTS.
        rows: Whether some of them lie row-major.
    """

    name: str
    pte: bytes
    manifest: Manifest | None
    operators: tuple[str, ...]
    layers: tuple[Layer, ...]
    weight_bytes: int
    layout: str
    rows: bool = True


@dataclass(frozen=True)
class Firmware:
    """What a build wrote.

    Attributes:
        report: Its sizes.
        elf: With symbols, and the storage's first contents as a section.
        files: The plain binaries and the address that each goes to.
    """

    report: Report
    elf: Path
    files: tuple[tuple[Path, int], ...]


def read_model(path: Path) -> Model:
    """Reads the program of a bundle (.edge), or a bare one (.pte).

    Raises:
        BadFile: It is missing or damaged.
        Unsupported: It has no program for the core, or one that the core refuses.
    """
    manifest = None
    if path.suffix.lower() == ".pte":
        try:
            pte = path.read_bytes()
        except OSError as error:
            raise BadFile(f"{path}: cannot be read ({error.strerror or error})") from error
    else:
        with Bundle.open(path) as bundle:
            names = bundle.manifest.files_for("core")
            if not names:
                raise Unsupported(f"{path}: holds no .pte: export it with --formats pte")
            pte = bytes(bundle.read(names[0]))
            manifest = bundle.manifest
    return describe_program(path.name, pte, manifest)


def describe_program(name: str, pte: bytes, manifest: Manifest | None = None) -> Model:
    """What firmware needs to know of a program.

    Raises:
        BadFile, Unsupported: The core does not run it; the message starts with `name`.
    """
    from edge.runtime._core import CoreError, Program
    from edge.runtime.backends.core import told

    try:
        program = Program(pte)
        instructions = program.instructions
    except CoreError as error:
        kind = Unsupported if error.args[0] == "unsupported" else BadFile
        raise kind(f"{name}: {told(error)}") from error
    layers = []
    layout = LAYOUTS[0]
    weight_bytes = 0
    seen: set[int] = set()
    for place, (operator, _, arguments) in enumerate(instructions):
        tensors = [argument for argument in arguments if isinstance(argument, tuple) and argument[0] == "tensor"]
        constant = sum(_bytes(tensor) for tensor in tensors if tensor[3])
        moving = sum(_bytes(tensor) for tensor in tensors if not tensor[3])
        layers.append(Layer(f"{place} {operator.rpartition('.')[0]}", constant, moving))
        weight_bytes += constant
        if "::ternary_" in operator and len(tensors) > 1:
            extra = len(tensors[1][2]) - 2
            seen.add(extra)
    foreign = max(seen, default=0)
    if 0 < foreign < len(LAYOUTS):
        layout = LAYOUTS[foreign]
    operators = tuple(dict.fromkeys(operator for operator, _, _ in instructions))
    return Model(name, pte, manifest, operators, tuple(layers), min(weight_bytes, len(pte)), layout, 0 in seen)


def build_firmware(
    model: Model,
    board: Board,
    output: Path,
    key: FirmwareKey,
    *,
    toolchain: str = "zig",
    operators: str = "model",
    learning: bool = True,
    sequence: int = 1,
    device_id: bytes | None = None,
    progress: Callable[[str], object] = lambda step: None,
) -> Firmware:
    """Builds firmware that starts with `model` in its first slot.

    Args:
        model: A program for the board's class.
        board: The board.
        output: The ELF file; the plain binaries are written beside it.
        key: Signs the model; the device takes updates that it signs.
        toolchain: "zig" or "gcc".
        operators: As choose_operators takes them.
        learning: Whether the device can learn; that takes some 10 KB of flash.
        sequence: Of the model; updates must have higher ones.
        device_id: 16 bytes; None draws them.
        progress: Is told what is being done.

    Raises:
        DoesNotFit: The board is too small; the message has the numbers.
        BadInput: The model is for another class of boards, or an operator is unknown.
        MissingDependency: The toolchain or emulator is not installed.
        EdgeError: It does not compile, or the file cannot be written.
    """
    notes = _check_class(model, board)
    if not output.parent.is_dir():
        raise BadInput(f"{output}: there is no folder {output.parent}")
    compiler = find_toolchain(toolchain, board.cpu)
    chosen = choose_operators(operators, model.operators)
    rows = model.rows or operators == "all"
    layout = Layout(board.storage.bytes, board.storage.erase_bytes, board.storage.learned_bytes)
    progress("compiling the core, measuring the model")
    needs = measure_program(board, compiler, model.pte, chosen, rows)
    image = slot_image(
        model.pte,
        key,
        sequence=sequence,
        target=board.target,
        name=_word(model.name.rpartition(".")[0], 32),
        version=_word(model.manifest.version if model.manifest else "1", 16),
        manifest=model.manifest,
        needs=(needs.state_bytes, needs.arena_bytes, needs.scratch_bytes),
    )
    report = Report(
        model=model.name,
        board=board.name,
        target=board.target,
        toolchain=f"{compiler.name} {compiler.version}",
        operators=chosen,
        learning=learning,
        code_bytes=0,
        code_room=board.code.bytes,
        parts={},
        program_bytes=len(model.pte) - model.weight_bytes,
        weight_bytes=model.weight_bytes,
        image_bytes=len(image),
        slot_bytes=layout.slot_bytes,
        ram_bytes=board.ram.bytes,
        stack_bytes=board.stack_bytes,
        stack_used=needs.stack_bytes,
        buffer_bytes=0,
        state_bytes=needs.state_bytes,
        arena_bytes=needs.arena_bytes,
        scratch_bytes=needs.scratch_bytes,
        packed_bytes=needs.packed_bytes,
        instructions=sum(needs.instructions),
        measured_on=needs.measured_on,
        layers=model.layers,
        notes=tuple(notes),
    )
    report.check()
    progress("compiling the firmware")
    identity = Identity.of(key, device_id or os.urandom(DEVICE_ID_BYTES))
    storage = first_storage_image(layout, identity, [image])
    # An older file stays as it is until it is known that this one fits and starts.
    linked = output.with_name(f".{output.stem}.{os.urandom(4).hex()}.elf")
    try:
        report = _link(report, board, compiler, chosen, learning, rows, storage, linked)
        progress("starting the firmware on an emulated board")
        report = _measure_stack(report, board, compiler, chosen, learning, rows, key, image)
        report.check()
        linked.chmod(_OWNERS_ALONE)
        linked.replace(output)
    finally:
        linked.unlink(missing_ok=True)
    return Firmware(report, output, _write_binaries(board, output))


def _check_class(model: Model, board: Board) -> list[str]:
    own = find_target(board.target).layout
    if model.layout == own:
        return []
    if model.layout == LAYOUTS[0]:
        return [f"exported for any machine: --target {board.target} of edge export makes it faster here"]
    others = ", ".join(target.name for target in TARGETS if target.layout == model.layout)
    raise BadInput(
        f"{model.name} was exported for {others}; {board.name} is of the class {board.target}: "
        f"edge export --target {board.target}"
    )


def _link(
    report: Report,
    board: Board,
    compiler: Toolchain,
    operators: Sequence[str],
    learning: bool,
    rows: bool,
    storage: bytes,
    output: Path,
) -> Report:
    parts = firmware_parts(board, operators, learning, rows)
    held = generated("storage.bin", storage) / "storage.bin"
    text = f'__asm__(".section .storage,\\"a\\"\\n.incbin \\"{held}\\"\\n");\n'
    section = Source(generated("storage.c", text) / "storage.c", COLD)
    everything = {**parts.sources, "storage": [section]}
    try:
        objects = build_elf(
            board, compiler, everything, output, include=parts.include, flags=FLAGS, left_out=parts.left_out
        )
    except EdgeError as error:
        if not _OVERFLOW.search(str(error)):
            raise
        raise DoesNotFit(f"{report.model} does not fit {board.name}: {error}") from error
    del objects["storage"]
    sizes = measure_sizes(output, objects)
    return replace(report, code_bytes=sizes.code, parts=sizes.parts, buffer_bytes=sizes.data_bytes)


def _measure_stack(
    report: Report,
    board: Board,
    compiler: Toolchain,
    operators: Sequence[str],
    learning: bool,
    rows: bool,
    key: FirmwareKey,
    image: bytes,
) -> Report:
    """Starts the firmware, as for this board but on one that is emulated and has room, and runs the model once."""
    from edge.firmware_bridge.device import Device
    from edge.firmware_bridge.emulate.unicorn_board import UnicornBoard
    from edge.firmware_bridge.measure import roomy

    reference = reference_board(board)
    if reference.unicorn is None:
        return replace(report, stack_used=None)
    there = roomy(reference, 4 * len(image) + 16 * 4096)
    layout = Layout(there.storage.bytes, there.storage.erase_bytes)
    storage = first_storage_image(layout, Identity.of(key, bytes(DEVICE_ID_BYTES)), [image])
    parts = firmware_parts(there, operators, learning, rows)
    from edge.runtime.cache import cache_dir

    elf = cache_dir() / "firmware" / "measure" / f"{there.name}-{compiler.name}-full.elf"
    build_elf(there, compiler, parts.sources, elf, include=parts.include, flags=FLAGS, left_out=parts.left_out)
    started = UnicornBoard(there, Image(read_image(there, elf).code, storage), None)
    with Device(started, f"emulated {there.name}", key) as device:
        trouble = device.trouble()
        if trouble:
            raise EdgeError(f"{report.model} does not start on an emulated {there.name}: {trouble}")
        inputs, _ = device.ports()
        device.write_inputs(bytes(sum(_bytes(("tensor", spec.dtype, spec.shape)) for spec in inputs)))
        device.run()
        used = started.stack_used()
        if started.faults:
            raise EdgeError(f"{report.model} fails on an emulated {there.name}: {started.faults[0]}")
    return replace(report, stack_used=max(used, report.stack_used or 0))


def _write_binaries(board: Board, elf: Path) -> tuple[tuple[Path, int], ...]:
    image = read_image(board, elf)
    plain = elf.with_suffix(".bin")
    if board.code.end == board.storage.origin:
        whole = image.code + bytes([ERASED]) * (board.code.bytes - len(image.code)) + image.storage
        files = [(plain, board.flash.origin, whole)]
    else:
        files = [(plain, board.flash.origin, image.code)]
        files.append((elf.with_suffix(".storage.bin"), board.storage.origin, image.storage))
    for path, _, data in files:
        with whole_file(path) as file:
            file.write(data)
        path.chmod(_OWNERS_ALONE)
    # What an emulated board kept beside an older file of this name was another device's.
    for path in (elf, plain):
        path.with_name(f"{path.name}.storage").unlink(missing_ok=True)
    return tuple((path, address) for path, address, _ in files)


def _bytes(tensor: tuple[Any, ...]) -> int:
    return int(math.prod(tensor[2])) * _NUMBER_BYTES.get(tensor[1], 1)


def _word(text: str, longest: int) -> str:
    """Of a name what a manifest may hold."""
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).lstrip(".+-")[:longest]
    return kept or "model"


__all__ = ["DoesNotFit", "Firmware", "MissingDependency", "Model", "build_firmware", "describe_program", "read_model"]
