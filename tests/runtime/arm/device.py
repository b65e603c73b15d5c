"""A device with an ARM processor, made of Debian's packages in a folder: programs run there under emulation.

Raspberry Pi OS is Debian with a kernel, firmware and desktop of its own: C library, Python, NumPy and pip are the same.
The folder is the programs' root (chroot), so that they see nothing of this machine but its kernel. An emulated program
can start no other one, unless the kernel knows the emulator (binfmt_misc), which is not asked for.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, made_once, source_hash
from tests.runtime.compilers import CROSS

SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Releases of Debian by the Python that they have, which must be this one: it builds the wheel."""
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("libpython3-dev", "libstdc++6", "python3", "python3-venv")
_SOURCE = "tests/runtime/arm/device.py"

CPU = {"aarch64": "cortex-a72", "armv7": "cortex-a7"}
"""What packages are installed on."""


@dataclass(frozen=True)
class Architecture:
    """What Debian, its compilers and Python call a processor."""

    debian: str
    triplet: str
    emulator: str
    machine: str
    numpy: bool
    """Whether PyPI has wheels of NumPy for it. If not, Debian's is taken."""


ARCHITECTURES = {
    "aarch64": Architecture("arm64", "aarch64-linux-gnu", "qemu-aarch64-static", "aarch64", numpy=True),
    "armv7": Architecture("armhf", "arm-linux-gnueabihf", "qemu-arm-static", "armv7l", numpy=False),
}


@dataclass(frozen=True)
class Device:
    """A root file system in which the wheel is installed."""

    architecture: str
    root: Path
    wheel: Path
    """As it was built, outside the root."""

    def run(self, *words: str | Path, cpu: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the root; the words are as it sees them. No variable of this process reaches it."""
        return _run(self.root, self.architecture, *words, cpu=cpu, **environment)


def _lacking(architecture: str) -> str:
    """What this machine lacks to be such a device, or ""."""
    names = ARCHITECTURES[architecture]
    compiler = f"{names.triplet}-g++"
    packages = {"dpkg-deb": "dpkg", compiler: f"g++-{names.triplet}", names.emulator: "qemu-user-static"}
    if sys.version_info[:2] not in SUITES:
        return f"Debian with Python {sys.version_info[0]}.{sys.version_info[1]}"
    if shutil.which("apt-get") is None:
        return "apt-get"
    for name, package in packages.items():
        if shutil.which(name) is None:
            return f"{name} (Debian: apt install {package})"
    if not KEYRING.exists():
        return f"{KEYRING} (apt install debian-archive-keyring)"
    if _chroot() is None:
        return "right to change the root: neither root nor a user namespace"
    return ""


@functools.cache
def _chroot() -> tuple[str, ...] | None:
    """The command that runs what follows in the root that follows, or None."""
    program = shutil.which("chroot") or shutil.which("chroot", path="/usr/sbin:/sbin") or "chroot"
    command = (program,) if os.geteuid() == 0 else ("unshare", "--map-root-user", program)
    try:
        subprocess.run([*command, "/", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return command


def _run(
    root: Path, architecture: str, *words: str | Path, cpu: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    chroot = _chroot()
    assert chroot is not None
    emulator = f"/usr/bin/{ARCHITECTURES[architecture].emulator}"
    command = [*chroot, str(root), emulator, "-cpu", cpu or CPU[architecture], *map(str, words)]
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=clean)


def _checked(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def _fetched(*words: str | Path) -> None:
    """Runs what needs the network; the test is skipped if that fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        pytest.skip(f"an ARM device of Debian's packages: cannot be fetched ({said[-1] if said else words[0]})")


def _debian(root: Path, architecture: str, scratch: Path) -> None:
    """Unpacks Debian's packages for `architecture`. apt keeps its state in `scratch` and needs no rights."""
    names = ARCHITECTURES[architecture]
    for folder in ("lists/partial", "archives/partial"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    suite = SUITES[sys.version_info[:2]]
    (scratch / "sources.list").write_text(f"deb [arch={names.debian} signed-by={KEYRING}] {MIRROR} {suite} main\n")
    options = {
        "APT::Architecture": names.debian,
        "APT::Architectures": names.debian,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::State": scratch,
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch,
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    apt = ["apt-get", "-q", "-y", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _fetched(*apt, "-o", "APT::Update::Error-Mode=any", "update")
    _fetched(*apt, "install", "--download-only", *PACKAGES, *(() if names.numpy else ("python3-numpy",)))

    for name in ("bin", "lib", "sbin"):  # as Debian has them since bookworm
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((scratch / "archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            unpack = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root]
            subprocess.run(unpack, stdin=archive.stdout, check=True)
        assert archive.returncode == 0, package
    for library in ("blas", "lapack"):  # what update-alternatives does when NumPy's packages are installed
        folder = root / "usr" / "lib" / names.triplet
        if (folder / library).is_dir():
            (folder / f"lib{library}.so.3").symlink_to(f"{library}/lib{library}.so.3")
    for name in ("root", "tmp"):
        (root / name).mkdir()
    emulator = shutil.which(names.emulator)
    assert emulator is not None
    shutil.copy(emulator, root / "usr" / "bin")


def _requirements(names: Architecture) -> list[str]:
    """What the wheel needs from PyPI."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [need for need in project["dependencies"] if names.numpy or not need.startswith(("numpy", "cryptography"))]


def _pip(root: Path, architecture: str, *words: str) -> None:
    """Installs into the root's environment /root/edge by Debian's pip; the environment has none of its own.

    venv would start another program to install it.
    """
    (pip,) = (root / "usr" / "share" / "python-wheels").glob("pip-*.whl")
    install = ("/root/edge/bin/python", "-m", "pip", "install", "--no-index", "--find-links", "/root/wheels", *words)
    _checked(_run(root, architecture, *install, PYTHONPATH=f"/usr/share/python-wheels/{pip.name}"))


def _base(architecture: str) -> Path:
    """The root with Python and what the wheel needs, made the first time."""
    names = ARCHITECTURES[architecture]
    requirements = _requirements(names)

    def make(folder: Path) -> None:
        root = folder / "root"
        _debian(root, architecture, folder / "apt")
        platforms = ("manylinux_2_28", "manylinux_2_27", "manylinux2014", "linux") if names.numpy else ("linux",)
        only = ["--only-binary", ":all:", "--implementation", "cp"]
        only += [word for name in platforms for word in ("--platform", f"{name}_{names.machine}")]
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *only]
        _fetched(*download, "--dest", root / "root" / "wheels", *requirements)
        venv = ["/usr/bin/python3", "-m", "venv", "--without-pip"]
        _checked(_run(root, architecture, *venv, *(() if names.numpy else ["--system-site-packages"]), "/root/edge"))
        _pip(root, architecture, *requirements)
        shutil.rmtree(folder / "apt")
        shutil.rmtree(root / "root" / "wheels")

    key = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:10]
    return made_once(f"root-{architecture}", f"{source_hash(_SOURCE)}-{key}", make) / "root"


def _wheel(architecture: str, root: Path, folder: Path) -> Path:
    """The wheel of this checkout, cross-built against the root's C library and Python, in `folder`."""
    names = ARCHITECTURES[architecture]
    compiler = CROSS[architecture].compiler
    python = f"{sys.version_info[0]}{sys.version_info[1]}"
    settings = {
        "build-dir": folder / "build",
        "env._PYTHON_HOST_PLATFORM": f"linux-{names.machine}",
        "env.SETUPTOOLS_EXT_SUFFIX": f".cpython-{python}-{names.triplet}.so",
        "cmake.define.CMAKE_SYSTEM_NAME": "Linux",
        "cmake.define.CMAKE_SYSTEM_PROCESSOR": names.machine,
        "cmake.define.CMAKE_C_COMPILER": compiler,
        "cmake.define.CMAKE_CXX_COMPILER": compiler.removesuffix("gcc") + "g++",
        "cmake.define.CMAKE_SYSROOT": root,
        "cmake.define.Python_INCLUDE_DIR": root / "usr" / "include" / f"python3.{sys.version_info[1]}",
    }
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", "-w", str(folder)]
    build += [word for name, value in settings.items() for word in ("-C", f"{name}={value}")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    _checked(subprocess.run([*build, str(ROOT)], capture_output=True, text=True, env=clean))
    shutil.rmtree(folder / "build")
    return next(folder.glob("*.whl"))


def device(architecture: str) -> Device:
    """The device with the wheel of this checkout, made once for each state of the sources."""
    if lacking := _lacking(architecture):
        pytest.skip(f"an ARM device of Debian's packages, {architecture}: no {lacking}")
    base = _base(architecture)

    def make(folder: Path) -> None:
        wheel = _wheel(architecture, base, folder)
        # Links: what Debian and PyPI have is there once. pip and Python replace files and never write into them.
        shutil.copytree(base, folder / "root", symlinks=True, copy_function=os.link)
        shutil.copy(wheel, folder / "root" / "root")
        _pip(folder / "root", architecture, f"/root/{wheel.name}")

    sources = (
        f"{name}/**/*.{kind}"
        for name in ("runtime", "firmware_bridge", "fleet", "export", "sdk")
        for kind in ("py", "c", "h", "cpp")
    )
    folder = made_once(
        f"wheel-{architecture}", source_hash("CMakeLists.txt", "pyproject.toml", _SOURCE, *sources), make
    )
    return Device(architecture, folder / "root", next(folder.glob("*.whl")))
