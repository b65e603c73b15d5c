"""Semantics needs the extra [fleet]; and a SPARQL 1.1 server, Oxigraph's own."""

import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.lab import free_ports, until

for package in ("pyoxigraph", "rdflib", "pyshacl"):
    pytest.importorskip(package, reason=f"semantics needs {package}: edge-deploy[fleet]")


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A real SPARQL 1.1 server, empty: its query URL and its update URL, as `--sparql` takes them."""
    program = shutil.which("oxigraph", path=str(Path(sys.executable).parent)) or shutil.which("oxigraph")
    if program is None:
        pytest.skip("no SPARQL server: pip install oxigraph (edge-deploy[dev])")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [program, "serve", "--bind", f"127.0.0.1:{port}", "--union-default-graph"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            return False

    try:
        until(answers, what="the SPARQL server did not start")
        yield f"{url}/query {url}/update"
    finally:
        server.kill()
        server.wait()
