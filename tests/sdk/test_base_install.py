"""The base install: what a device gets. A clean environment with the wheel and its dependencies, and no torch.

The limits are those of the project: `import edge.runtime` 0.15 s beyond numpy, `edge --help` 0.3 s, CCT-2 loaded and
run within 60 MB. Times are the minimum of several runs, because other work on the machine only ever adds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "base"

IMPORT_SECONDS = 0.15
HELP_SECONDS = 0.3
RESIDENT_KB = 60_000

_RUNS = 9
_SOURCES = ("CMakeLists.txt", "pyproject.toml", "runtime", "firmware_bridge", "fleet", "export", "sdk")
_KINDS = {".py", ".pyi", ".c", ".h", ".cpp", ".txt", ".toml"}


def _key() -> str:
    """Hash of all that the wheel is made of."""
    digest = hashlib.sha256(sys.version.encode())
    for name in _SOURCES:
        place = ROOT / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in _KINDS and path.is_file():
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def base() -> Path:
    """Folder of the programs of a clean environment with the base install; made once for each state of the sources."""
    folder = CACHE / _key()
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    if (folder / "complete").exists():
        return programs
    # Environments of older sources are of no use to anyone.
    shutil.rmtree(CACHE, ignore_errors=True)
    wheel = os.environ.get("EDGE_TEST_WHEEL")  # set by nox, which has built it already
    if wheel is None:
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder / "wheel", ROOT)
        wheel = str(next((folder / "wheel").glob("*.whl")))
    _run(sys.executable, "-m", "venv", "--clear", folder / "venv")
    _run(programs / "python", "-m", "pip", "install", "--quiet", wheel)
    (folder / "complete").touch()
    return programs


def _run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program as a user runs it: nothing of this process's own environment leaks in."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env={**clean, **environment})
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def _python(base: Path, script: str, *words: str | Path) -> str:
    return _run(base / "python", "-I", "-c", script, *words).stdout.strip()


def test_nothing_but_the_base_is_installed(base: Path) -> None:
    listing = json.loads(_run(base / "python", "-m", "pip", "list", "--format", "json").stdout)
    names = {row["name"].lower().replace("_", "-") for row in listing}
    assert names - {"pip", "setuptools"} == {
        "edge-deploy",
        "numpy",
        "click",
        "rich",
        "markdown-it-py",
        "mdurl",
        "pygments",
        "paho-mqtt",
        "cryptography",
        "cffi",
        "pycparser",
    }


def test_torch_is_absent_and_the_runtime_does_not_miss_it(base: Path, digits_bundle: Path) -> None:
    script = (
        "import sys\n"
        "try: import torch\n"
        "except ModuleNotFoundError: pass\n"
        "else: sys.exit('torch is here')\n"
        "import numpy as np\n"
        "from edge.runtime import load\n"
        "model = load(sys.argv[1])\n"
        "print(model.backend, model(np.zeros(model.inputs[0].shape, np.float32)).shape)"
    )
    assert _python(base, script, digits_bundle) == "core (1, 10)"


def test_the_commands_of_a_device_work(base: Path, digits_bundle: Path) -> None:
    edge = base / "edge"
    assert "reference inputs" in _run(edge, "run", digits_bundle).stdout
    document = json.loads(_run(edge, "run", digits_bundle, "--json").stdout)
    assert document["backend"] == "core"
    assert document["agreeing"] == len(document["results"])
    assert "model.pte" in _run(edge, "inspect", digits_bundle).stdout
    assert "skipped" in _run(edge, "bench", digits_bundle, "--runs", "2").stdout
    doctor = json.loads(_run(edge, "doctor", "--json").stdout)
    missing = {row["name"]: row["install"] for row in doctor["packages"] if row["version"] is None}
    assert missing["torch"] == "pip install 'edge-deploy[export]'"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["export", "--bits", "1.58"], "edge-deploy["),
        (["models"], "edge-deploy[export]"),
        (["run", "{bundle}", "--backend", "executorch"], "edge-deploy["),
        (["run", "{bundle}", "--backend", "litert"], "edge-deploy[litert]"),
        (["run", "{bundle}", "--backend", "onnx"], "edge-deploy[onnx]"),
        (["run", "{bundle}", "{image}"], "edge-deploy[images]"),
    ],
)
def test_what_is_missing_is_named_in_one_line(
    base: Path, workspace: Path, tmp_path: Path, words: list[str], part: str
) -> None:
    places = {"bundle": workspace / "digits.edge", "image": workspace / "digit.png"}
    command = [str(base / "edge"), *(word.format(**places) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("edge: error: ") and done.stderr.count("\n") == 1, done.stderr
    assert part in done.stderr


@pytest.mark.quiet
def test_importing_the_runtime_is_quick(base: Path) -> None:
    # `load` as well: the package imports its parts when they are first used.
    script = (
        "import time, numpy\n"
        "start = time.perf_counter()\n"
        "import edge.runtime\n"
        "edge.runtime.load\n"
        "print(time.perf_counter() - start)"
    )
    best = min(float(_python(base, script)) for _ in range(_RUNS))
    assert best <= IMPORT_SECONDS, f"{best:.3f} s"


@pytest.mark.quiet
def test_help_is_quick(base: Path) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        _run(base / "edge", "--help")
        return time.perf_counter() - start

    best = min(seconds() for _ in range(_RUNS))
    assert best <= HELP_SECONDS, f"{best:.3f} s"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_the_bundle_runs_in_little_memory(base: Path, digits_bundle: Path) -> None:
    # VmHWM, not ru_maxrss: that one survives exec and would be this test process's.
    script = (
        "import sys\n"
        "import numpy as np\n"
        "from edge.runtime import load\n"
        "with load(sys.argv[1]) as model:\n"
        "    for _ in range(3): model(np.zeros(model.inputs[0].shape, np.float32))\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    resident = int(_python(base, script, digits_bundle))
    assert resident <= RESIDENT_KB, f"{resident:,} kB"
