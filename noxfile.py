"""Sessions: arm, arm_wheel, demo, tests, lint, types, wheel.

All but `lint` and `wheel` share one environment, .nox/edge, because building it (PyTorch and three engines) is
what takes the time; it holds the wheel built from this checkout, installed as a user would install it.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
CACHE = ROOT / ".cache"
SHARED = ROOT / ".nox" / "edge"
PACKAGES = ("runtime", "firmware_bridge", "fleet", "export", "sdk")

_done: set[str] = set()


def _programs(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin")


def _pip(session: nox.Session, environment: Path, *words: str) -> None:
    python = str(_programs(environment) / "python")
    session.run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words, external=True, silent=True)


def _wheel(session: nox.Session) -> Path:
    """Builds the wheel of this checkout, once a run, and returns its path."""
    folder = CACHE / "wheel"
    if "wheel" not in _done:
        shutil.rmtree(folder, ignore_errors=True)
        session.log("building the wheel")
        session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT), silent=True)
        _done.add("wheel")
    return next(folder.glob("edge_deploy-*.whl"))


def _shared(session: nox.Session) -> Path:
    """Brings the shared environment up to date, once a run, and returns the folder of its programs."""
    if "shared" not in _done:
        wheel = str(_wheel(session))
        if not (_programs(SHARED) / "python").exists():
            session.run("python", "-m", "venv", "--clear", str(SHARED))
        session.log(f"installing into {SHARED.relative_to(ROOT)}; the first time takes minutes")
        _pip(session, SHARED, "install", f"{wheel}[all,dev]")
        # pip takes a wheel of the same version for the same wheel.
        _pip(session, SHARED, "install", "--force-reinstall", "--no-deps", wheel)
        _done.add("shared")
    return _programs(SHARED)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Trains and exports the digits example, then runs it where there is no PyTorch."""
    edge = str(_shared(session) / "edge")
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    bundle = str(out / "digits.edge")
    session.run(edge, "doctor")
    session.run(edge, "export", "--bits", "1.58", "-o", bundle, *session.posargs)
    session.run(edge, "inspect", bundle)
    session.run(edge, "bench", bundle)

    base = CACHE / "base-demo"
    session.log("the same bundle in a clean environment without PyTorch")
    session.run("python", "-m", "venv", "--clear", str(base))
    _pip(session, base, "install", str(_wheel(session)))
    absent = "import importlib.util as u; assert u.find_spec('torch') is None; print('torch is not installed here')"
    session.run(str(_programs(base) / "python"), "-c", absent)
    session.run(str(_programs(base) / "edge"), "run", bundle)
    session.log("report: out/digits-report/report.md")
    session.log(
        f"next: {Path(edge).relative_to(ROOT)} run out/digits.edge YOUR_DIGIT.png, or your own model: README.md"
    )


def _pytest(session: nox.Session, *words: str, **variables: str) -> None:
    programs = _shared(session)
    environment = {
        "EDGE_TEST_WHEEL": str(_wheel(session)),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }
    session.run(str(programs / "python"), "-m", "pytest", *words, env=environment)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Runs the tests against the installed wheel and every real engine; all of them, on two cores."""
    # A module's fixtures are made by one worker: they are what takes the time.
    _pytest(session, *(session.posargs or ("-n", "2", "--dist", "loadfile")))


@nox.session(venv_backend="none")
def arm(session: nox.Session) -> None:
    """Runs those tests alone that cross-build the core for ARM and run it under emulation; also those by clang."""
    _pytest(session, str(ROOT / "tests" / "runtime" / "arm"), *session.posargs, EDGE_ARM_CLANG="1")


@nox.session(venv_backend="none")
def arm_wheel(session: nox.Session) -> None:
    """Builds the wheels for ARM, and installs and uses them in root file systems of Debian under emulation."""
    test = ROOT / "tests" / "runtime" / "arm" / "test_wheel_arm.py"
    _pytest(session, str(test), *session.posargs, EDGE_ARM_WHEEL="1")
    kept = ROOT / "dist"
    kept.mkdir(exist_ok=True)
    wheels = list((CACHE / "tests").glob("wheel-*/edge_deploy-*.whl"))
    if not wheels:
        session.error("no wheel was built; the tests say what is lacking")
    for path in wheels:
        shutil.copy2(path, kept)
        session.log(f"dist/{path.name}: {path.stat().st_size:,} bytes")


@nox.session
def lint(session: nox.Session) -> None:
    """Checks style and format with ruff."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Checks the packages with mypy --strict (see pyproject.toml)."""
    programs = _shared(session)
    # The folder runtime/ is the package edge.runtime: links in a scratch folder show mypy that tree.
    place = CACHE / "mypy-path" / "edge"
    place.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        link = place / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name, target_is_directory=True)
    words = [word for name in PACKAGES for word in ("-p", f"edge.{name}")]
    session.run(str(programs / "python"), "-m", "mypy", *words, env={"MYPYPATH": str(place.parent)})


@nox.session(venv_backend="none")
def wheel(session: nox.Session) -> None:
    """Builds the wheel and checks that it holds the core, the Python files and the core's sources."""
    path = _wheel(session)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    files += [file for file in (ROOT / "runtime" / "core").rglob("*") if file.suffix in (".c", ".h", ".cpp")]
    missing = [name for file in files if (name := f"edge/{file.relative_to(ROOT).as_posix()}") not in names]
    if not any(name.startswith("edge/runtime/_core.") and name.endswith((".so", ".pyd")) for name in names):
        missing.append("edge/runtime/_core")
    if missing:
        session.error(f"{path.name} lacks {', '.join(missing)}")
    kept = ROOT / "dist"
    kept.mkdir(exist_ok=True)
    shutil.copy2(path, kept)
    python = ".".join(map(str, sys.version_info[:2]))
    session.log(f"dist/{path.name}: {path.stat().st_size:,} bytes, {len(names)} files, Python {python}")
