"""The boards that firmware is built for: what `boards/NAME.toml` says, checked."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge.firmware_bridge.cpu import CPUS
from edge.runtime.errors import BadFile, BadInput

BOARDS = Path(__file__).parent / "boards"
# Emulators map memory in pages of this many bytes.
PAGE = 4096
# Above every memory and peripheral of the boards; firmware_bridge/emulate puts its page of registers here.
_STORAGE_KEPT = ("saved", "memory-backend", "read-only")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}\Z")


@dataclass(frozen=True)
class Region:
    """A piece of a board's address space.

    Attributes:
        origin: Its first address.
        bytes: How long it is.
    """

    origin: int
    bytes: int

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.origin + self.bytes

    def holds(self, address: int, count: int = 1) -> bool:
        """Whether `count` bytes from `address` on lie in it."""
        return self.origin <= address and address + count <= self.end


@dataclass(frozen=True)
class Storage(Region):
    """Where model slots and learned weights are kept.

    Attributes:
        erase_bytes: What is erased at once.
        program_bytes: What is programmed at once: 4, 8 or 16.
        learned: Bytes for each of two copies of learned weights; 0 is a sixteenth of the storage.
    """

    erase_bytes: int
    program_bytes: int
    learned: int = 0

    @property
    def learned_bytes(self) -> int:
        """Of each copy of learned weights, before it is rounded up to sectors."""
        return self.learned or self.bytes // 16


@dataclass(frozen=True)
class Uart:
    """The serial line.

    Attributes:
        driver: The header in firmware/drivers, and the model that the unicorn board has of it.
        base: Address of its first register.
        irq: Number of its interrupt.
    """

    driver: str
    base: int
    irq: int


@dataclass(frozen=True)
class Qemu:
    """How QEMU runs the board.

    Attributes:
        machine: What `-machine` takes.
        options: Words that follow.
        storage: "saved": plain memory that is read out when the board is stopped, and lost when QEMU is killed;
            "memory-backend": the machine's main memory, kept in a file at every moment; "read-only": flash that QEMU
            cannot program.
        memory: The machine's main memory, if storage is at its start.
    """

    machine: str
    options: tuple[str, ...]
    storage: Literal["saved", "memory-backend", "read-only"]
    memory: Region | None


@dataclass(frozen=True)
class Board:
    """A board: docs/boards.md says how one is added.

    Attributes:
        name: What `--board` takes; the file's name.
        title: What people call it.
        target: The class of machine that a bundle is exported for, and that a signed manifest names.
        cpu: A key of edge.firmware_bridge.cpu.CPUS.
        flash: Code; it starts at the first address. Storage may lie behind it in the same flash.
        ram: All of it.
        storage: Model slots and learned weights.
        stack_bytes: Reserved at the start of RAM.
        uart: The serial line.
        runs: Whether an emulator runs it; else firmware is only built.
        qemu: How QEMU runs it, or None.
        unicorn: unicorn's name of the CPU, or None.
        folder: Where its C file is.
    """

    name: str
    title: str
    target: str
    cpu: str
    flash: Region
    ram: Region
    storage: Storage
    stack_bytes: int
    uart: Uart
    runs: bool
    qemu: Qemu | None
    unicorn: str | None
    folder: Path = field(repr=False)

    @property
    def code(self) -> Region:
        """The part of flash that is the code's: up to the storage, if that is in it."""
        if self.flash.holds(self.storage.origin):
            return Region(self.flash.origin, self.storage.origin - self.flash.origin)
        return self.flash

    @property
    def emulators(self) -> tuple[str, ...]:
        """Those that have a model of it; the first is the default."""
        return tuple(name for name, model in (("unicorn", self.unicorn), ("qemu", self.qemu)) if model is not None)

    def to_dict(self) -> dict[str, object]:
        """The board as JSON-ready values."""
        return {
            "name": self.name,
            "title": self.title,
            "target": self.target,
            "cpu": self.cpu,
            "flash_bytes": self.flash.bytes,
            "code_bytes": self.code.bytes,
            "storage_bytes": self.storage.bytes,
            "ram_bytes": self.ram.bytes,
            "stack_bytes": self.stack_bytes,
            "uart": self.uart.driver,
            "emulators": list(self.emulators),
        }


def board_names() -> tuple[str, ...]:
    """The boards that there are, in alphabetical order."""
    return tuple(sorted(path.stem for path in BOARDS.glob("*.toml")))


def find_board(name: str) -> Board:
    """The board called `name`, or the one that the file `name` (a path that ends in .toml) describes.

    Raises:
        BadInput: There is none; the message lists those there are.
        BadFile: The file is not a board's; the message says which key is wrong.
    """
    if name.endswith(".toml"):
        return read_board(Path(name))
    if name not in board_names():
        raise BadInput(f'there is no board "{name}": choose one of {", ".join(board_names())}, or give a .toml file')
    return read_board(BOARDS / f"{name}.toml")


def read_board(path: Path) -> Board:
    """Reads and checks a board's file.

    Raises:
        BadFile: It cannot be read, or a key is missing, of the wrong type or out of range.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: is no TOML: {error}") from error
    board = _read(_Table(path, "", data), path)
    _check(board, path)
    return board


class _Table:
    """A TOML table whose keys are taken one after the other; what is left over is an error."""

    def __init__(self, path: Path, name: str, data: Any) -> None:
        if not isinstance(data, dict):
            raise BadFile(f"{path}: [{name}] is no table")
        self._path = path
        self._name = name
        self._left = dict(data)

    def fail(self, key: str, what: str) -> BadFile:
        where = f"{self._name}.{key}" if self._name else key
        return BadFile(f"{self._path}: {where} {what}")

    def text(self, key: str) -> str:
        value = self._left.pop(key, None)
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise self.fail(key, "must be a text")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._left.pop(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"must be a whole number from {low} to {high:#x}")
        return value

    def truth(self, key: str) -> bool:
        value = self._left.pop(key, None)
        if not isinstance(value, bool):
            raise self.fail(key, "must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._left.pop(key, None)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.fail(key, "must be a list of texts")
        return tuple(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self.fail(key, f"must be one of {', '.join(choices)}")
        return value

    def table(self, key: str) -> _Table | None:
        data = self._left.pop(key, None)
        return None if data is None else _Table(self._path, key, data)

    def need(self, key: str) -> _Table:
        table = self.table(key)
        if table is None:
            raise self.fail(key, "is missing")
        return table

    def region(self) -> Region:
        return Region(self.number("origin", 0, 2**32 - 1), self.number("bytes", 1, 2**30))

    def end(self) -> None:
        for key in self._left:
            raise self.fail(key, "is no key of a board's file: docs/boards.md lists them")


def _read(top: _Table, path: Path) -> Board:
    name = top.text("name")
    if not _NAME.match(name) or name != path.stem:
        raise top.fail("name", f'must be the file\'s own, "{path.stem}", in a-z, 0-9, "_", "." and "-"')
    cpu = top.choice("cpu", tuple(CPUS))
    flash, ram, storage = top.need("flash"), top.need("ram"), top.need("storage")
    uart, qemu, unicorn = top.need("uart"), top.table("qemu"), top.table("unicorn")
    board = Board(
        name=name,
        title=top.text("title"),
        target=top.choice("target", tuple(dict.fromkeys(known.target for known in CPUS.values()))),
        cpu=cpu,
        flash=flash.region(),
        ram=ram.region(),
        storage=Storage(
            storage.number("origin", 0, 2**32 - 1),
            storage.number("bytes", 1, 2**28),
            erase_bytes=storage.number("erase_bytes", 16, 2**20),
            program_bytes=storage.number("program_bytes", 1, 256),
            learned=storage.number("learned_bytes", 0, 2**24, 0),
        ),
        stack_bytes=top.number("stack_bytes", 512, 2**20),
        uart=Uart(
            driver=uart.choice("driver", tuple(sorted(p.stem for p in DRIVERS.glob("*.h") if p.stem in UART_DRIVERS))),
            base=uart.number("base", 0, 2**32 - 1),
            irq=uart.number("irq", 0, 1023),
        ),
        runs=top.truth("runs"),
        qemu=None if qemu is None else _read_qemu(qemu),
        unicorn=None if unicorn is None else unicorn.text("cpu"),
        folder=path.parent / name,
    )
    for table in (top, flash, ram, storage, uart, qemu, unicorn):
        if table is not None:
            table.end()
    return board


DRIVERS = Path(__file__).parent / "firmware" / "drivers"
UART_DRIVERS = ("cmsdk", "nrf", "ns16550", "pl011")


def _read_qemu(table: _Table) -> Qemu:
    kept = table.choice("storage", _STORAGE_KEPT)
    memory = None
    if kept == "memory-backend":
        memory = Region(table.number("memory_origin", 0, 2**32 - 1), table.number("memory_bytes", 1, 2**31))
    return Qemu(
        machine=table.text("machine"),
        options=table.texts("options"),
        storage=kept,  # type: ignore[arg-type]  # one of the choices
        memory=memory,
    )


def _check(board: Board, path: Path) -> None:
    """What single keys cannot say."""

    def require(truth: bool, what: str) -> None:
        if not truth:
            raise BadFile(f"{path}: {what}")

    storage = board.storage
    require(CPUS[board.cpu].target == board.target, f"a {board.cpu} is no {board.target}: target must be its class")
    for region, name in ((board.flash, "flash"), (board.ram, "ram"), (storage, "storage")):
        require(region.end <= 2**32, f"{name} ends behind the 32-bit address space")
        require(region.origin % PAGE == 0, f"{name}.origin must be a multiple of {PAGE}")
        require(region.bytes % PAGE == 0, f"{name}.bytes must be a multiple of {PAGE}")
    require(storage.program_bytes in (4, 8, 16), "storage.program_bytes must be 4, 8 or 16")
    require(storage.erase_bytes & (storage.erase_bytes - 1) == 0, "storage.erase_bytes must be a power of two")
    require(storage.bytes % storage.erase_bytes == 0, "storage.bytes must be a multiple of storage.erase_bytes")
    require(storage.origin % storage.erase_bytes == 0, "storage.origin must be a multiple of storage.erase_bytes")
    require(board.flash.end <= board.ram.origin or board.ram.end <= board.flash.origin, "flash and ram overlap")
    require(storage.end <= board.ram.origin or board.ram.end <= storage.origin, "storage and ram overlap")
    if storage.origin < board.flash.end and board.flash.origin < storage.end:
        inside = board.flash.origin < storage.origin and storage.end == board.flash.end
        require(inside, "storage must be the end of flash, or outside of it")
    require(board.stack_bytes % 8 == 0, "stack_bytes must be a multiple of 8")
    require(board.stack_bytes < board.ram.bytes, "stack_bytes must be less than ram.bytes")
    require((board.folder / "board.c").is_file(), f"{board.folder / 'board.c'} is missing: it implements board.h")
    require(not board.runs or bool(board.emulators), "runs = true needs a [qemu] or [unicorn] that can run it")
    if board.qemu is not None and board.qemu.memory is not None:
        memory = board.qemu.memory
        require(memory.origin == storage.origin, "qemu.memory_origin must be storage.origin")
        require(memory.bytes >= storage.bytes, "qemu.memory_bytes must hold the storage")
