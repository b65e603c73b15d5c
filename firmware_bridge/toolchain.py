"""Cross compilers: zig from PyPI, or the GCC of the system; and a cache of what they made.

Both get the same sources and, where both know them, the same options. The firmware brings its own C library
(firmware/libc), so nothing of the compilers' is linked but their arithmetic helpers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edge.firmware_bridge.cpu import CPUS, Cpu
from edge.runtime.cache import cache_dir
from edge.runtime.errors import BadInput, EdgeError, MissingDependency

TOOLCHAINS = ("zig", "gcc")

FLAGS = (
    "-std=gnu11",
    "-ffreestanding",
    # Results must be the scalar core's, bit by bit, on every CPU.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-common",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    "-fno-stack-protector",
    "-g0",
)
# Words of ours that stand for options: each compiler has its own for them.
COLD = ("@cold",)
HOT = ("@hot",)
_OPTIMIZE: dict[str, dict[str, tuple[str, ...]]] = {
    # zig turns -Oz into -Os on its own.
    "zig": {"@cold": ("-Os", "-Xclang", "-Oz"), "@hot": ("-Os",)},
    "gcc": {"@cold": ("-Os",), "@hot": ("-O2",)},
}
_ZIG_FLAGS = ("-fno-sanitize=undefined", "-Wno-unused-command-line-argument")
_GCC_PROGRAMS = {"arm": "arm-none-eabi-gcc", "riscv": "riscv64-unknown-elf-gcc"}
_GCC_PACKAGES = {"arm": "gcc-arm-none-eabi", "riscv": "gcc-riscv64-unknown-elf"}


@dataclass(frozen=True)
class Source:
    """A C file and how it is compiled.

    Attributes:
        path: The file.
        flags: Options beyond those of the whole build; of COLD and HOT one.
        include: Folders of headers beyond those of the whole build.
    """

    path: Path
    flags: tuple[str, ...] = ()
    include: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Toolchain:
    """A compiler for one CPU.

    Attributes:
        name: "zig" or "gcc".
        version: As the compiler tells it.
        cpu: What it compiles for.
        command: How it is called, with the options that select the CPU.
    """

    name: str
    version: str
    cpu: Cpu
    command: tuple[str, ...]

    def compile(
        self, sources: Sequence[Source], include: Sequence[Path], flags: Sequence[str], headers: str
    ) -> list[Path]:
        """Compiles each source to an object file, as far as the cache does not have it.

        Args:
            sources: The C files.
            include: Folders of headers, the first first.
            flags: For all of them.
            headers: A digest of every header that they may include: `digest` of the folders.

        Returns:
            The objects, in the order of the sources.

        Raises:
            EdgeError: A file does not compile; the message has the compiler's first error.
        """
        folder = cache_dir() / "firmware" / "objects"
        folder.mkdir(parents=True, exist_ok=True)
        common = (*self.command, *FLAGS, *flags, *(word for path in include for word in ("-I", str(path))))
        jobs: list[tuple[Path, tuple[str, ...]]] = []
        for source in sources:
            meant = _OPTIMIZE[self.name]
            own = (word for flag in source.flags for word in meant.get(flag, (flag,)))
            folders = (word for path in source.include for word in ("-I", str(path)))
            words = (*common, *own, *folders, "-c", str(source.path))
            key = hashlib.sha256("\0".join((self.version, headers, *words)).encode())
            key.update(source.path.read_bytes())
            jobs.append((folder / f"{source.path.stem}-{key.hexdigest()[:32]}.o", words))

        def build(job: tuple[Path, tuple[str, ...]]) -> None:
            path, words = job
            if not path.exists():
                _whole(path, lambda temporary: self._run((*words, "-o", str(temporary))))

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(build, jobs))
        return [path for path, _ in jobs]

    def link(self, objects: Sequence[Path], script: Path, output: Path, flags: Sequence[str] = ()) -> None:
        """Links an ELF file. zig needs some 10 seconds the first time, for its arithmetic helpers.

        Raises:
            EdgeError: A symbol is missing, or a memory is too small; the message has the linker's words.
        """
        library = () if self.name == "zig" else ("-nostdlib",)
        words = [*self.command, *library, *FLAGS, *flags, "-T", str(script), "-Wl,--gc-sections"]
        words += [str(path) for path in objects]
        if self.name == "gcc":
            words += ["-nostartfiles", "-lgcc"]
        self._run((*words, "-o", str(output)))

    def _run(self, words: Sequence[str]) -> None:
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache_dir() / "zig"), "LC_ALL": "C"}
        environment["ZIG_LOCAL_CACHE_DIR"] = environment["ZIG_GLOBAL_CACHE_DIR"]
        try:
            run = subprocess.run(words, capture_output=True, text=True, env=environment)
        except OSError as error:
            raise EdgeError(f"{words[0]} cannot be run ({error.strerror or error})") from error
        if run.returncode != 0:
            raise EdgeError(f"{self.name}: {_first_error(run.stderr)}")


def find_toolchain(name: str, cpu: str) -> Toolchain:
    """A compiler for `cpu`, a key of edge.firmware_bridge.cpu.CPUS.

    Raises:
        BadInput: There is no toolchain of this name.
        MissingDependency: It is not installed; the message says how it is.
    """
    if name not in TOOLCHAINS:
        raise BadInput(f'there is no toolchain "{name}": choose one of {", ".join(TOOLCHAINS)}')
    known = CPUS[cpu]
    if name == "zig":
        if importlib.util.find_spec("ziglang") is None:
            raise MissingDependency(
                "the toolchain zig is not installed: pip install 'edge-deploy[firmware]', or --toolchain gcc"
            )
        from importlib.metadata import version

        command = (sys.executable, "-m", "ziglang", "cc", *known.zig, *_ZIG_FLAGS)
        return Toolchain(name, version("ziglang"), known, command)
    program = shutil.which(_GCC_PROGRAMS[known.arch])
    if program is None:
        raise MissingDependency(
            f"{_GCC_PROGRAMS[known.arch]} is not installed: apt-get install {_GCC_PACKAGES[known.arch]}, "
            "or --toolchain zig"
        )
    told = subprocess.run([program, "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    return Toolchain(name, told, known, (program, *known.gcc))


def digest(folders: Sequence[Path], suffixes: tuple[str, ...] = (".h",)) -> str:
    """A hash of all files under `folders` that end in one of `suffixes`, names and contents."""
    total = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix in suffixes):
            total.update(f"{path.relative_to(folder)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _whole(path: Path, make: Callable[[Path], None]) -> None:
    """Has `make` write a file that appears as `path` when it is complete."""
    temporary = path.with_name(f".{os.urandom(6).hex()}-{path.name}")
    try:
        make(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if "error:" in line or "undefined" in line or "will not fit" in line or "overflowed" in line:
            return line[:400]
    return (lines[0] if lines else "failed without a word")[:400]
