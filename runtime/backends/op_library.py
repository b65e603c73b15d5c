"""The `edge::` operators as a library for ExecuTorch's runtime, compiled on demand with this machine's compiler.

ExecuTorch's C++ interface has no stable ABI, so a binary built elsewhere would fit one version of the executorch wheel
only. The sources lie beside this package (`runtime/core`); the result is cached by a hash of all that goes into it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge.runtime.cache import cache_dir
from edge.runtime.errors import EdgeError, MissingDependency

_CORE = Path(__file__).resolve().parent.parent / "core"

# Contraction would fuse multiply and add, which rounds differently from the reference.
_C_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-Wall", "-pthread")
_CXX_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-DC10_USING_CUSTOM_GENERATED_MACROS",
              "-DET_LOG_ENABLED=1")  # fmt: skip


def library_path() -> Path:
    """The library's path; compiles it first if it is not in the cache (some seconds, once per version).

    Load it with `ctypes.CDLL`, once a process, after `executorch.runtime` is imported: loading registers the kernels.

    Raises:
        MissingDependency: There is no executorch wheel, or no C11 and C++20 compiler.
        EdgeError: The compiler failed; the message has its first error and the path of the whole log.
    """
    if sys.platform == "win32":
        raise EdgeError(
            "the ExecuTorch op library is built for Linux and macOS only: use the core backend (--backend core)"
        )
    executorch, version = _executorch()
    cc = _compiler("CC", ("cc", "gcc", "clang"))
    cxx = _compiler("CXX", ("c++", "g++", "clang++"))
    key = _key(version, cc, cxx)
    library = cache_dir() / "op_library" / f"libedge_ops-{key}.so"
    if not library.exists():
        _build(library, executorch, cc, cxx)
    return library


def _executorch() -> tuple[Path, str]:
    """The wheel's folder and version, without importing it."""
    spec = importlib.util.find_spec("executorch")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if Path(folder, "include", "executorch").is_dir():
            return Path(folder), importlib.metadata.version("executorch")
    raise MissingDependency(
        "the ExecuTorch op library needs the executorch wheel with its headers: pip install 'edge-deploy[executorch]'"
    )


def _compiler(variable: str, names: tuple[str, ...]) -> list[str]:
    """The command of a compiler: $CC or $CXX, which may have arguments, else the first of `names` on the PATH."""
    chosen = os.environ.get(variable, "").split()
    for name in chosen[:1] or names:
        found = shutil.which(name)
        if found:
            return [found, *chosen[1:]]
    raise MissingDependency(
        f"the ExecuTorch op library must be compiled and there is no {' or '.join(chosen[:1] or names)}: install a "
        f"C++20 compiler (apt install g++, or xcode-select --install), or name one in ${variable}"
    )


def _sources() -> list[Path]:
    kernels = sorted((_CORE / "kernels").rglob("*.c"))
    return [_CORE / "dtype.c", _CORE / "threads.c", *sorted((_CORE / "ops").glob("*.c")), *kernels]


def _key(version: str, cc: list[str], cxx: list[str]) -> str:
    """A hash of the sources, the executorch version, the compilers and the flags."""
    digest = hashlib.sha256()
    for path in sorted([*_CORE.rglob("*.[ch]"), _CORE / "op_library.cpp"]):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EdgeError(f"the core's sources are incomplete ({error}): reinstall edge-deploy") from None
        digest.update(f"{path.relative_to(_CORE).as_posix()} {len(content)}\n".encode() + content)
    for command in (cc, cxx):
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        digest.update(f"{command} {shown.stdout}\n".encode())
    digest.update(f"{version} {platform.machine()} {_extension()} {_C_FLAGS} {_CXX_FLAGS}".encode())
    return digest.hexdigest()[:16]


def _extension() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def _build(library: Path, executorch: Path, cc: list[str], cxx: list[str]) -> None:
    """Compiles in a folder of its own and renames the result, so that no half-written library is ever seen."""
    runtime = executorch / "extension" / "pybindings" / f"_portable_lib{_extension()}"
    if not runtime.is_file():
        raise MissingDependency(f"the executorch wheel has no {runtime.name}: install one built for this Python")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as scratch:
            folder = Path(scratch)
            includes = [_CORE, executorch / "include", executorch / "include/executorch/runtime/core/portable_type/c10"]
            shim = [*cxx, *_CXX_FLAGS, *(f"-I{path}" for path in includes), "-c", str(_CORE / "op_library.cpp")]
            core = [*cc, *_C_FLAGS, f"-I{_CORE}", "-c", *map(str, _sources())]
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda command: _compile(command, folder, library), (shim, core)))
            # The wheel's own module has the registry. It is loaded already when this library is, under this name.
            if sys.platform == "darwin":
                link = ["-undefined", "dynamic_lookup"]
            else:
                link = [f"-L{runtime.parent}", f"-l:{runtime.name}", "-Wl,--allow-shlib-undefined"]
            objects = sorted(path.name for path in folder.glob("*.o"))
            _compile([*cxx, "-shared", *objects, "-o", library.name, *link], folder, library)
            os.replace(folder / library.name, library)
    except OSError as error:
        raise EdgeError(f"cannot build the ExecuTorch op library in {library.parent}: {error}") from None


def _compile(command: list[str], folder: Path, library: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    log = library.with_suffix(".log")
    log.write_text(" ".join(command) + "\n" + done.stdout + done.stderr)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    first = errors[0].strip() if errors else f"exit status {done.returncode}"
    raise EdgeError(f"compiling the ExecuTorch op library failed: {first}; the whole output is in {log}")
