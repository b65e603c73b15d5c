"""Fixtures that several test modules share; what is slow to make is kept under .cache/ by a hash of its sources."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "tests"
DATA = Path(os.environ.get("EDGE_DATA", ROOT.parent / "shared" / "data"))
"""Real data sets; tests that read them skip by name when the folder is not there."""

# Two cores are shared by the test process and the children it starts.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("EDGE_CACHE", str(ROOT / ".cache" / "edge"))


def source_hash(*patterns: str) -> str:
    """Hash of the repository files that match any of the glob patterns: the key of what is made from them."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted({p for pattern in patterns for p in ROOT.glob(pattern) if p.is_file()}):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one test process makes a cached thing; the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder .cache/tests/NAME-KEY, filled by `make` the first time; older ones of the same name are dropped."""
    folder = CACHE / f"{name}-{key}"
    with _locked(CACHE / f"{name}.lock"):
        if not folder.is_dir():
            for old in CACHE.glob(f"{name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            scratch = CACHE / f"{name}.{os.getpid()}.tmp"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            try:
                make(scratch)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Lets a test marked `quiet` run alone: it measures time or speed, and other workers' tests would take part in it.

    Ordinary tests share one lock, a quiet one holds it alone. The gate in front of it is for fairness: without one, a
    quiet test would wait until the other workers are done with everything.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    CACHE.mkdir(parents=True, exist_ok=True)
    quiet = item.get_closest_marker("quiet") is not None
    with open(CACHE / "quiet.lock", "w") as lock:
        with open(CACHE / "quiet-gate.lock", "w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX if quiet else fcntl.LOCK_SH)
        return (yield)


def run_edge(*arguments: str | Path, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Runs the `edge` command as a user would, in a process of its own."""
    command = [sys.executable, "-m", "edge.sdk.cli", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if check:
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


@dataclass(frozen=True)
class DigitsExport:
    """What `edge export --bits 1.58` with no other argument than -o and --json made."""

    folder: Path
    bundle: Path
    answer: dict[str, Any]
    seconds: float


@pytest.fixture(scope="session")
def digits_export() -> DigitsExport:
    """The main job, run once for each state of the sources."""
    key = source_hash("export/**/*.py", "runtime/**/*.py", "runtime/core/**/*.[ch]*", "sdk/commands/export.py")

    def make(folder: Path) -> None:
        started = time.monotonic()
        result = run_edge("export", "--bits", "1.58", "-o", folder / "digits.edge", "--json", cwd=folder)
        (folder / "answer.json").write_text(result.stdout)
        (folder / "seconds.txt").write_text(f"{time.monotonic() - started:.1f}")

    folder = made_once("digits-export", key, make)
    return DigitsExport(
        folder=folder,
        bundle=folder / "digits.edge",
        answer=json.loads((folder / "answer.json").read_text()),
        seconds=float((folder / "seconds.txt").read_text()),
    )


@pytest.fixture(scope="session")
def digits_bundle(digits_export: DigitsExport) -> Path:
    """Path of a .edge bundle: CCT-2 at 1.58 bits, trained on the digits."""
    return digits_export.bundle


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    if not DATA.is_dir():
        pytest.skip(f"real data: {DATA} is not there (set EDGE_DATA)")
    return DATA


@pytest.fixture(scope="session")
def tflite_runtime() -> Path:
    """A Python with tflite-runtime 2.14.0, which needs numpy 1 and so an environment of its own; it knows no `edge`.

    It is a copy of this Python if there is a wheel for it, else of the newest on PATH that there is a wheel for.
    """
    wheels = [(3, 11), (3, 10)]
    names = [f"python{major}.{minor}" for major, minor in wheels]
    pythons = [sys.executable] if sys.version_info[:2] in wheels else [p for p in map(shutil.which, names) if p]
    if not pythons:
        pytest.skip("tflite-runtime 2.14.0: has wheels for Python 3.10 and 3.11, and neither is on PATH")

    def make(folder: Path) -> None:
        # Without a pip of its own: ours installs into it, and Debian's Python may have no ensurepip.
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
        install = [*pip, "--only-binary", ":all:", "tflite-runtime==2.14.0", "numpy<2"]
        for python in pythons:  # pyenv's may be on PATH and not work
            for command in ([python, "-m", "venv", "--clear", "--without-pip", str(folder)], install):
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode:
                    break
            else:
                return
        said = (result.stderr or result.stdout).strip().splitlines()
        pytest.skip(f"tflite-runtime 2.14.0: cannot be installed ({said[-1] if said else command[0]})")

    key = hashlib.sha256(pythons[0].encode()).hexdigest()[:20]
    return made_once("tflite-runtime", f"2.14.0-{key}", make) / "bin" / "python"
