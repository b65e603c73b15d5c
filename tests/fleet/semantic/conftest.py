"""Semantics needs the extra [fleet]."""

import pytest

for package in ("pyoxigraph", "rdflib", "pyshacl"):
    pytest.importorskip(package, reason=f"semantics needs {package}: edge-deploy[fleet]")
