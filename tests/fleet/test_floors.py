"""What may import what: a device runs on the base install, and neither side knows the other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FLEET = Path(__file__).resolve().parents[2] / "fleet"
# What the base install brings (pyproject.toml), by the names of their modules.
_BASE = {"numpy", "click", "rich", "paho", "cryptography", "edge"}


def _imports(path: Path) -> set[str]:
    return set(re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", [*FLEET.glob("*.py"), *FLEET.glob("device/*.py")], ids=lambda path: path.name)
def test_a_device_needs_the_base_install_only(path: Path) -> None:
    names = _imports(path)
    assert {name.partition(".")[0] for name in names} <= _BASE | set(sys.stdlib_module_names)
    assert not [name for name in names if name.startswith(("edge.fleet.server", "edge.sdk", "edge.export"))]


@pytest.mark.parametrize("path", list(FLEET.rglob("server/**/*.py")), ids=lambda path: path.name)
def test_the_server_does_not_know_the_device(path: Path) -> None:
    assert not [name for name in _imports(path) if name.startswith(("edge.fleet.device", "edge.sdk", "edge.export"))]


def test_an_agent_imports_nothing_of_the_server() -> None:
    script = (
        "import sys\nimport edge.fleet.device.agent, edge.fleet.device.enroll, edge.fleet.device.gateway\n"
        "print(sorted({'sqlalchemy', 'tuf', 'rdflib', 'pyoxigraph', 'aiomqtt', 'prometheus_client', 'torch', 'rich'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
