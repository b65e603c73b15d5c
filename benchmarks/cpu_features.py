"""Runs a command as if the CPU had nothing above AVX2: `python benchmarks/cpu_features.py avx2 -- COMMAND …`.

An audit library of the dynamic linker (cpu_features/audit.c) answers the CPUID instruction of every shared object in
place of the CPU, in the command and its children. So edge and all peers choose the kernels that they have for AVX2, in
one process. GLIBC_TUNABLES does the same for the C library, which has asked before any audit. `models.py`, `layers.py`
and `threads.py` take `--cpu avx2` for it.

The model of the CPU, its caches and its clock stay what they are. Needs Linux on x86-64, glibc, a C compiler and
objdump (Debian: gcc libc6-dev binutils).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu_features") / "audit.c"
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "cpu_features"

LEVELS = ("avx2",)
VARIABLE = "EDGE_CPU_AS"
"""Set to the level in a process whose CPU features are hidden: `describe_machine` tells it."""

TUNABLES = "glibc.cpu.hwcaps=" + ",".join(f"-AVX512{part}" for part in ("F", "BW", "CD", "DQ", "ER", "PF", "VL"))

CPUID = b"\x0f\xa2"
BEFORE = 256
"""Bytes that are disassembled before a candidate: by then a disassembly has found the instructions' boundaries."""
STARTS = 16
"""Disassemblies of a candidate, each beginning a byte earlier, as any one may begin inside an instruction."""


def missing() -> str:
    """What this machine lacks to hide features, or ""."""
    if platform.system() != "Linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return "Linux on x86-64 with glibc"
    return ", ".join(name for name, found in (("a C compiler", _compiler()), ("objdump", _objdump())) if not found)


def hidden_level() -> str | None:
    """The level that this process runs as, None if nothing is hidden."""
    return os.environ.get(VARIABLE) or None


def environment(level: str) -> dict[str, str]:
    """The environment of a command that runs as `level`.

    Raises:
        SystemExit: the machine lacks what it takes, or the audit library does not compile.
    """
    if lacking := missing():
        raise SystemExit(f"cpu_features: not on this machine: {lacking} (Debian: gcc libc6-dev binutils)")
    ours = {"LD_AUDIT": str(_audit_library()), "GLIBC_TUNABLES": TUNABLES}
    # Both are lists with colons; what the user has set stays.
    joined = {name: ":".join(filter(None, (os.environ.get(name), value))) for name, value in ours.items()}
    return {**os.environ, **joined, VARIABLE: level}


def run_script_as(level: str | None) -> None:
    """Starts this script anew in a process that runs as `level`; returns at once if level is None or it does already.

    Raises:
        SystemExit: as `environment`; or the core's best kernels are not those of `level`, as on a CPU without AVX2.
    """
    if level is None:
        return
    if hidden_level() != level:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(level))
    from edge.runtime import _core

    if (best := _core.isas()[0]) != level:
        raise SystemExit(f"cpu_features: this should run as {level}, but the core's best kernels are {best}")


def check_hidden() -> None:
    """Raises SystemExit if this thread has run AVX-512 in a process where it is hidden: an engine got past the mask."""
    library = os.environ.get("LD_AUDIT", "").rpartition(":")[2]
    if hidden_level() and ctypes.CDLL(library).avx512_in_use() == 1:
        raise SystemExit(f"cpu_features: AVX-512 instructions were run in a process that hides them ({library})")


def cpuid_addresses(path: str, objdump: str) -> list[int]:
    """Virtual addresses of the CPUID instructions in an ELF file of x86-64.

    Its two bytes occur inside other instructions too, some in a million bytes. So what precedes each pair is
    disassembled; a whole disassembly gives the same, but takes a minute for PyTorch.

    Raises:
        SystemExit: the file is no such ELF file, or has the bytes but no section headers to tell code from data by.
    """
    image = Path(path).read_bytes()
    windows, ends = bytearray(), {}
    for address, offset, size in _code(path, image):
        found = image.find(CPUID, offset, offset + size)
        while found >= 0:
            for start in range(found - BEFORE - STARTS, found - BEFORE):
                windows += image[max(start, offset) : found]
                ends[len(windows)] = address + found - offset
                windows += CPUID + b"\x90" * 16  # no instruction reaches over as many nops
            found = image.find(CPUID, found + 1, offset + size)
    if not ends:
        return []
    with tempfile.NamedTemporaryFile() as file:
        file.write(windows)
        file.flush()
        command = [objdump, "-D", "-z", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    decoded = (int(place, 16) for place in re.findall(r"^\s*([0-9a-f]+):\s+cpuid", text, re.MULTILINE))
    votes = Counter(ends[place] for place in decoded if place in ends)
    return sorted(address for address, count in votes.items() if 2 * count > STARTS)


def _code(path: str, image: bytes) -> Iterator[tuple[int, int, int]]:
    """(virtual address, offset, size) of each section of instructions."""
    try:
        if image[:6] != b"\x7fELF\x02\x01":
            raise SystemExit(f"cpu_features: {path}: not a 64-bit ELF file")
        (headers,) = struct.unpack_from("<Q", image, 40)
        size, count = struct.unpack_from("<HH", image, 58)
        if not count and CPUID in image:
            raise SystemExit(f"cpu_features: {path}: no section headers, so its CPUID instructions are not known")
        for place in range(headers, headers + size * count, size):
            _, kind, flags, address, offset, length = struct.unpack_from("<IIQQQQ", image, place)
            if kind == 1 and flags & 4:  # SHT_PROGBITS, SHF_EXECINSTR
                yield address, offset, length
    except (struct.error, OverflowError, ValueError):  # headers outside the file, or of no size
        raise SystemExit(f"cpu_features: {path}: no section headers where it says") from None


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")


def _objdump() -> str | None:
    return shutil.which("objdump")


def _audit_library() -> Path:
    """Compiles audit.c, once; what it is told of shared objects stays beside it."""
    compiler, objdump = _compiler(), _objdump()
    assert compiler is not None and objdump is not None
    here = Path(__file__).resolve()
    paths = {"PYTHON": sys.executable, "EXAMINE": str(here), "OBJDUMP": objdump}
    key = hashlib.sha256(SOURCE.read_bytes() + here.read_bytes() + repr((paths, compiler)).encode()).hexdigest()[:20]
    folder = CACHE / key
    library = folder / "audit.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        paths["FOLDER"] = str(folder)
        defines = [f'-D{name}="{path}"' for name, path in paths.items()]
        scratch = folder / f"audit.{os.getpid()}.tmp"
        command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *defines]
        done = subprocess.run([*command, str(SOURCE), "-o", str(scratch)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"cpu_features: {compiler} does not compile {SOURCE.name}:\n{done.stderr.strip()}")
        scratch.rename(library)
    return library


def _write_addresses(objdump: str, path: str, told: str) -> None:
    """What the audit library reads: an address a line, in hexadecimal; whole or not at all."""
    scratch = Path(f"{told}.{os.getpid()}.tmp")
    scratch.write_text("".join(f"{address:x}\n" for address in cpuid_addresses(path, objdump)))
    scratch.rename(told)


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["examine"] and len(words) == 4:  # by the audit library
        _write_addresses(*words[1:])
    elif len(words) > 2 and words[0] in LEVELS and words[1] == "--":
        try:
            os.execvpe(words[2], words[2:], environment(words[0]))
        except OSError as error:
            raise SystemExit(f"cpu_features: {words[2]}: {error.strerror}") from None
    else:
        raise SystemExit(f"usage: python benchmarks/cpu_features.py {{{','.join(LEVELS)}}} -- COMMAND …")


if __name__ == "__main__":
    main()
