"""The C compilers of this machine, and what they can do; what is missing skips the test that asks, by name.

`STRICT` and `CORE_SOURCES` are arguments to compile the core by.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

CORE = ROOT / "runtime" / "core"
CORE_SOURCES = sorted(
    map(str, [*CORE.glob("*.c"), *CORE.glob("ops/*.c"), *CORE.glob("learn/*.c"), *CORE.glob("kernels/**/*.c")])
)
STRICT = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",
    "-Werror",
    "-ffp-contract=off",
    f"-I{CORE}",
)
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


def c_compiler() -> str:
    """$CC, cc, gcc or clang."""
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler (set CC)")
    return found


def clang() -> list[str]:
    """The command of clang, or of the clang in PyPI's ziglang."""
    if found := shutil.which("clang"):
        return [found]
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the core built by clang: neither clang nor PyPI ziglang is installed")
    return [sys.executable, "-m", "ziglang", "cc"]


@functools.cache
def _lacks_sanitizers(compiler: str) -> str:
    """Why a program built with SANITIZERS does not run, or "" if it does."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "main.c"
        source.write_text("int main(int count, char **words) { return count == 1 && words[0] ? 0 : 1; }\n")
        for command in ([compiler, *SANITIZERS, str(source), "-o", f"{folder}/main"], [f"{folder}/main"]):
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    return ""


def sanitizing_compiler() -> str:
    """A C compiler that has the run-time libraries of AddressSanitizer and UndefinedBehaviorSanitizer."""
    compiler = c_compiler()
    if why := _lacks_sanitizers(compiler):
        pytest.skip(f"{compiler} has no AddressSanitizer and UndefinedBehaviorSanitizer (libasan, libubsan): {why}")
    return compiler


def sanitizer_runtimes() -> str:
    """What LD_PRELOAD must hold for a Python that loads a module built with sanitizers."""
    compiler = sanitizing_compiler()
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(map(os.path.isabs, found)):
        pytest.skip(f"{compiler} has no shared libasan.so and libubsan.so to load into Python")
    return os.pathsep.join(found)


@dataclass(frozen=True)
class Cross:
    """Another architecture's compiler, and the emulator of its Linux programs."""

    compiler: str
    emulator: str
    target: tuple[str, ...]
    """Arguments of the clang in ziglang."""
    packages: str
    """Of Debian, that have compiler and emulator."""


CROSS = {
    "aarch64": Cross(
        "aarch64-linux-gnu-gcc",
        "qemu-aarch64",
        ("-target", "aarch64-linux-musl"),
        "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
    ),
    "armv7": Cross(
        "arm-linux-gnueabihf-gcc",
        "qemu-arm",
        ("-target", "arm-linux-musleabihf", "-mcpu=cortex_a7"),
        "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user",
    ),
}

ARM_CPUS = [
    ("aarch64", "cortex-a53", {"neon"}),
    ("aarch64", "cortex-a72", {"neon"}),
    ("aarch64", "cortex-a76", {"neon", "neon_dotprod"}),
    ("aarch64", "max", {"neon", "neon_dotprod", "neon_i8mm"}),
    ("armv7", "cortex-a7", {"neon"}),
    ("armv7", "max", {"neon"}),
]
"""Architecture, what the emulator calls the CPU, instruction sets. An instruction that a CPU lacks ends the program."""


def emulator(architecture: str) -> list[str]:
    """The command that runs another architecture's programs, if they are static."""
    machine = CROSS[architecture]
    found = shutil.which(machine.emulator) or shutil.which(f"{machine.emulator}-static")
    if found is None:
        pytest.skip(f"{architecture} under emulation: no {machine.emulator} (Debian: apt install {machine.packages})")
    return [found]


def cross_compiler(architecture: str) -> list[str]:
    """The command of another architecture's gcc; programs are static."""
    machine = CROSS[architecture]
    lacking = "" if shutil.which(machine.compiler) else machine.compiler
    if not lacking:
        asked = [machine.compiler, "-print-file-name=libc.a"]
        library = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        lacking = "" if os.path.exists(library) else f"C library of {machine.compiler}"
    if lacking:
        pytest.skip(f"{architecture} under emulation: no {lacking} (Debian: apt install {machine.packages})")
    return [machine.compiler, "-static"]


def cross_clang(architecture: str) -> list[str]:
    """The command of PyPI ziglang's clang for another architecture; programs are static."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip(f"{architecture} by clang: PyPI ziglang is not installed")
    return [sys.executable, "-m", "ziglang", "cc", *CROSS[architecture].target]
