"""The firmware built for this machine (host/board_host.c): the same C, in a process, under a sanitizer if wanted."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edge.firmware_bridge.compile import generated
from edge.firmware_bridge.errors import LinkLost
from edge.firmware_bridge.monocypher_source import monocypher_folder, small_source
from edge.firmware_bridge.signature import FirmwareKey
from edge.firmware_bridge.storage import Identity, Layout, first_storage_image
from tests.conftest import ROOT, made_once, source_hash
from tests.runtime.compilers import CORE, SANITIZERS, c_compiler, sanitizing_compiler

FIRMWARE = ROOT / "firmware_bridge" / "firmware"
HERE = Path(__file__).parent / "host"
LAYOUT = Layout(0x30000, 1024)
CUT, RULE_BROKEN = 3, 4
_SOURCES = ("runtime/core/**/*.[ch]", "firmware_bridge/firmware/**/*.[ch]", "tests/firmware_bridge/host/*")


def build(*, sanitized: bool = False, defines: Sequence[str] = ()) -> Path:
    """The program, compiled the first time."""
    compiler = sanitizing_compiler() if sanitized else c_compiler()
    # No name begins with another and a dash: that would count as an older one of it.
    name = "-".join(
        ["board-program", "sanitized" if sanitized else "plain", *(w.lower() for w in defines or ["as-is"])]
    )
    objects = _core_objects(compiler, sanitized)

    def make(folder: Path) -> None:
        monocypher = monocypher_folder()
        small = generated("monocypher.c", small_source((monocypher / "monocypher.c").read_text(encoding="utf-8")))
        include = [
            f"-I{path}" for path in (CORE, FIRMWARE, FIRMWARE / "protocol", HERE, monocypher, FIRMWARE / "signature")
        ]
        sources = [*sorted(FIRMWARE.glob("protocol/*.c")), HERE / "board_host.c", small / "monocypher.c"]
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror", *_flags(sanitized)]
        words = [f"-D{word}" for word in defines]
        command = [compiler, *flags, *words, *include, *map(str, sources), *map(str, objects), "-lm"]
        result = subprocess.run([*command, "-o", str(folder / "board_host")], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    return made_once(name, source_hash(*_SOURCES), make) / "board_host"


def _flags(sanitized: bool) -> list[str]:
    return [
        "-O1",
        "-g",
        "-ffp-contract=off",
        "-DEDGE_NO_THREADS",
        "-DEDGE_BARE_METAL",
        *(SANITIZERS if sanitized else ()),
    ]


def _core_objects(compiler: str, sanitized: bool) -> list[Path]:
    # As on a microcontroller: kernels are chosen by the compiler, and this machine has none but the scalar ones.
    folders = (".", "ops", "learn", "kernels", "kernels/scalar", "kernels/micro")
    sources = sorted(path for folder in folders for path in (CORE / folder).glob("*.c"))

    def make(folder: Path) -> None:
        def compile_one(pair: tuple[int, Path]) -> None:
            number, source = pair
            command = [compiler, "-std=c11", f"-I{CORE}", *_flags(sanitized), "-c", str(source)]
            result = subprocess.run([*command, "-o", str(folder / f"{number}.o")], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(compile_one, enumerate(sources)))

    name = "board-core-sanitized" if sanitized else "board-core-plain"
    return sorted(made_once(name, source_hash("runtime/core/**/*.[ch]"), make).glob("*.o"))


def write_storage(path: Path, key: FirmwareKey, *images: bytes, device_id: bytes = b"0123456789abcdef") -> Path:
    """A new device's storage."""
    first = first_storage_image(LAYOUT, Identity.of(key, device_id), images)
    path.write_bytes(first + b"\xff" * (LAYOUT.storage_bytes - len(first)))
    return path


class HostBoard:
    """A running board; it is a port."""

    def __init__(self, program: Path, storage: Path, *, cut: int | None = None, seed: int = 0) -> None:
        command: list[Any] = [program, storage]
        if cut is not None:
            command += [cut, seed]
        self.storage = storage
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, bufsize=0
        )

    def read(self, size: int, timeout: float) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return b""
        got = os.read(self._process.stdout.fileno(), size)
        if not got:
            raise self._stopped()
        return got

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except OSError:
            raise self._stopped() from None

    def _stopped(self) -> Exception:
        """An AssertionError where the firmware broke a rule of storage, or a sanitizer stopped it."""
        status = self.wait()
        kind = LinkLost if status in (0, CUT, -9) else AssertionError
        return kind(f"the board stopped with {status}")

    def wait(self) -> int:
        """Its exit status: CUT, RULE_BROKEN, 0 after close, or a sanitizer's."""
        return self._process.wait(20)

    def kill(self) -> None:
        """Power is cut between two operations on storage."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(20)
