"""A board around unicorn's CPU: memories, a serial port, and a page of registers for what hardware differs in.

Nothing is ever interrupted: the firmware polls. The CPU runs in a thread of its own, and sleeps where the firmware
does.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import Any

from edge.firmware_bridge.board import PAGE, Board, Region
from edge.firmware_bridge.cpu import CPUS
from edge.firmware_bridge.emulate.board import EmulatedBoard
from edge.firmware_bridge.emulate.flash import Flash, PowerFailed
from edge.firmware_bridge.emulate.hook import NEVER, REASON_LIMIT, REASON_WATCHDOG, Counter, count_block
from edge.firmware_bridge.emulate.uart import UARTS, Line, Uart
from edge.firmware_bridge.image import ERASED, Image, first_storage
from edge.runtime.errors import BadFile, BadInput, MissingDependency

# Of firmware/emulator_page.h.
_TICKS, _RANDOM, _WAIT, _RESET, _FEED, _FAULT = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14
_OFFSET, _ADDRESS, _BYTES, _COMMAND = 0x20, 0x24, 0x28, 0x2C
_ERASE, _PROGRAM = 1, 2
# No memory or peripheral of a board is there.
_PAGE_ADDRESS = 0xF000_0000
# The word of an image that holds the page's address.
_PAGE_WORD = {"arm": 0x20, "riscv": 0x04}
# Registers that take anything and read as 0: clocks, pins, timers; the system control space.
_IGNORED = {"arm": (Region(0x4000_0000, 0x10_0000), Region(0xE000_E000, 0x1000)), "riscv": ()}
# What RAM holds when power comes on.
PAINT = 0xA5
# Instructions without feeding the watchdog: some seconds of such a CPU.
WATCHDOG = 400_000_000
_NAP_SECONDS = 0.02
_MOST_FAULTS = 100


class UnicornBoard(EmulatedBoard):
    """See EmulatedBoard; every instruction is counted."""

    def __init__(self, board: Board, image: Image, storage: Path | None) -> None:
        """Powers the board on.

        Raises:
            MissingDependency: unicorn is not installed.
            BadFile: The image is not this firmware's, or the storage file cannot be opened.
            BadInput: The storage file is of another size.
        """
        self.name = board.name
        self.faults: list[str] = []
        self.resets = 0
        self._board = board
        self._arch = CPUS[board.cpu].arch
        self._line = Line()
        self._uart: Uart = UARTS[board.uart.driver](self._line)
        self._registers: dict[int, int] = {}
        self._powered = True
        self._why = ""
        code = self._patched(image.code)
        self._code = (ctypes.c_uint8 * board.code.bytes).from_buffer(
            bytearray(code + bytes([ERASED]) * (board.code.bytes - len(code)))
        )
        self._ram = (ctypes.c_uint8 * board.ram.bytes).from_buffer(bytearray([PAINT]) * board.ram.bytes)
        self._flash = Flash(board.storage, first_storage(board, image), storage)
        self._counter = Counter(limit=NEVER, watchdog=NEVER, riscv=int(self._arch == "riscv"))
        self._uc = self._make_cpu()
        self._power_on = self._uc.context_save()
        self._thread = threading.Thread(target=self._run, name=f"emulated {board.name}", daemon=True)
        self._thread.start()

    def read(self, size: int = 1, timeout: float | None = None) -> bytes:
        return self._line.receive(size, timeout)

    def write(self, data: bytes) -> int:
        self._line.send(data)
        return len(data)

    @property
    def powered(self) -> bool:
        return self._powered

    @property
    def instructions(self) -> int:
        return int(self._counter.instructions)

    def reset(self) -> None:
        self._line.clear()
        self._stop("reset")
        self._line.wake()

    def cut_power(
        self, *, after_storage_operations: int | None = None, after_instructions: int | None = None, seed: int = 0
    ) -> None:
        if after_storage_operations is not None:
            self._flash.fail_at(after_storage_operations, seed)
        if after_instructions is not None:
            self._counter.limit = self._counter.instructions + after_instructions
        if after_storage_operations is None and after_instructions is None:
            self._stop("cut")
            self._line.wake()
            self._thread.join()

    def storage(self) -> bytes:
        return self._flash.contents()

    def memory(self, address: int, count: int) -> bytes:
        for region, held in ((self._board.ram, self._ram), (self._board.code, self._code)):
            if region.holds(address, count):
                return bytes(held[address - region.origin : address - region.origin + count])
        raise BadInput(f"{self.name} has no memory at {address:#x}")

    def stack_used(self) -> int:
        stack = bytes(self._ram[: self._board.stack_bytes])
        return len(stack) - (len(stack) - len(stack.lstrip(bytes([PAINT]))))

    def close(self) -> None:
        if self._powered:
            self.cut_power()
        self._thread.join()
        self._flash.close()

    def _patched(self, code: bytes) -> bytes:
        at = _PAGE_WORD[self._arch]
        if len(code) < at + 4 or code[at : at + 4] != bytes(4):
            raise BadFile(f"the image is not firmware that `edge firmware build` made for {self.name}")
        return code[:at] + _PAGE_ADDRESS.to_bytes(4, "little") + code[at + 4 :]

    def _make_cpu(self) -> Any:
        try:
            import unicorn
            import unicorn.arm_const
            import unicorn.riscv_const
            from unicorn.unicorn_py3.unicorn import uclib
        except ModuleNotFoundError as error:
            raise MissingDependency(
                "the emulator unicorn is not installed: pip install 'edge-deploy[firmware]'"
            ) from error
        board = self._board
        if self._arch == "arm":
            uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
            uc.ctl_set_cpu_model(getattr(unicorn.arm_const, f"UC_CPU_ARM_{board.unicorn}"))
            self._pc_register = unicorn.arm_const.UC_ARM_REG_PC
            self._sp_register = unicorn.arm_const.UC_ARM_REG_SP
        else:
            uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
            uc.ctl_set_cpu_model(getattr(unicorn.riscv_const, f"UC_CPU_RISCV32_{board.unicorn}"))
            self._pc_register = unicorn.riscv_const.UC_RISCV_REG_PC
            self._sp_register = unicorn.riscv_const.UC_RISCV_REG_SP
        self._error = unicorn.UcError
        read, write = unicorn.UC_PROT_READ, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE | unicorn.UC_PROT_EXEC
        uc.mem_map_ptr(board.code.origin, board.code.bytes, read | unicorn.UC_PROT_EXEC, ctypes.addressof(self._code))
        uc.mem_map_ptr(board.storage.origin, board.storage.bytes, read, self._flash.address)
        uc.mem_map_ptr(board.ram.origin, board.ram.bytes, write, ctypes.addressof(self._ram))
        uart = Region(board.uart.base & -PAGE, PAGE)
        uc.mmio_map(uart.origin, uart.bytes, self._uart_read, None, self._uart_write, None)
        uc.mmio_map(_PAGE_ADDRESS, PAGE, self._page_read, None, self._page_write, None)
        for region in _IGNORED[self._arch]:
            for piece in _without(region, uart):
                uc.mmio_map(piece.origin, piece.bytes, lambda *_: 0, None, lambda *_: None, None)
        uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self._add_counter(uc, uclib, unicorn.UC_HOOK_BLOCK)
        return uc

    def _add_counter(self, uc: Any, library: Any, kind: int) -> None:
        counter = self._counter
        counter.code_origin, counter.code_bytes = self._board.code.origin, self._board.code.bytes
        counter.code = ctypes.addressof(self._code)
        counter.ram_origin, counter.ram_bytes = self._board.ram.origin, self._board.ram.bytes
        counter.ram = ctypes.addressof(self._ram)
        counter.stop = ctypes.cast(library.uc_emu_stop, ctypes.c_void_p).value
        handle = ctypes.c_size_t()
        failed = library.uc_hook_add(
            uc._uch,
            ctypes.byref(handle),
            kind,
            count_block(),
            ctypes.c_void_p(ctypes.addressof(counter)),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if failed:
            raise self._error(failed)

    def _run(self) -> None:
        """The CPU's thread: from power-on to power-off, with any number of resets between."""
        try:
            while self._powered:
                self._why = ""
                self._counter.reason = 0
                self._counter.watchdog = NEVER
                self._start()
                if self._counter.reason == REASON_LIMIT:
                    self._why = "cut"
                elif self._counter.reason == REASON_WATCHDOG:
                    self._fault("the watchdog was not fed")
                if self._why == "cut":
                    self._powered = False
                else:
                    self.resets += 1
                    self._uc.context_restore(self._power_on)
        finally:
            self._powered = False
            self._line.cut()

    def _start(self) -> None:
        if self._arch == "arm":
            self._uc.reg_write(self._sp_register, int.from_bytes(self._code[0:4], "little"))
            entry = int.from_bytes(self._code[4:8], "little")
        else:
            entry = self._board.code.origin
        try:
            self._uc.emu_start(entry, 0xFFFF_FFFE)
        except self._error as error:
            if not self._why:
                self._fault(str(error))

    def _fault(self, what: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(f"{what} at {self._uc.reg_read(self._pc_register):#x}")

    def _stop(self, why: str) -> None:
        if self._why != "cut":
            self._why = why
        self._uc.emu_stop()

    def _on_exception(self, uc: Any, number: int, user: object) -> None:
        self._fault(f"exception {number}")
        self._stop("fault")

    def _uart_read(self, uc: Any, offset: int, size: int, user: object) -> int:
        return self._uart.read(offset)

    def _uart_write(self, uc: Any, offset: int, size: int, value: int, user: object) -> None:
        if not self._why:
            self._uart.write(offset, value)

    def _page_read(self, uc: Any, offset: int, size: int, user: object) -> int:
        if offset == _TICKS:
            # With the whole block that reads it: the same for every call from one place, so differences are exact.
            return int(self._counter.instructions) & 0xFFFF_FFFF
        if offset == _RANDOM:
            return int.from_bytes(os.urandom(4), "little")
        return self._registers.get(offset, 0)

    def _page_write(self, uc: Any, offset: int, size: int, value: int, user: object) -> None:
        if self._why:
            return
        if offset == _WAIT:
            self._line.wait_for_board(_NAP_SECONDS)
        elif offset == _RESET:
            self._stop("reset")
        elif offset == _FEED:
            self._counter.watchdog = self._counter.instructions + WATCHDOG
        elif offset == _FAULT:
            self._fault("a fault")
        elif offset == _COMMAND:
            try:
                self._registers[_COMMAND] = int(self._storage_command(value))
            except PowerFailed:
                self._stop("cut")
        else:
            self._registers[offset] = value

    def _storage_command(self, command: int) -> bool:
        offset = self._registers.get(_OFFSET, 0)
        if command == _ERASE:
            return self._flash.erase(offset)
        if command != _PROGRAM:
            return False
        count = self._registers.get(_BYTES, 0)
        if count > self._board.storage.bytes:
            return False
        try:
            data = bytes(self._uc.mem_read(self._registers.get(_ADDRESS, 0), count))
        except self._error:
            return False
        return self._flash.program(offset, data)


def _without(region: Region, hole: Region) -> list[Region]:
    """What is left of `region`."""
    if not region.holds(hole.origin, hole.bytes):
        return [region]
    pieces = (Region(region.origin, hole.origin - region.origin), Region(hole.end, region.end - hole.end))
    return [piece for piece in pieces if piece.bytes > 0]
