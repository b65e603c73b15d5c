"""docs/operators.md lists exactly the operators that the core has."""

from __future__ import annotations

import re

from edge.runtime import _core
from tests.conftest import ROOT


def test_portable_operators() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    listed = re.findall(r"^(?:\w+::\S+(?:  )?)+$", text, re.MULTILINE)
    names = {name for line in listed for name in line.split()}
    assert names == {name for name in _core.operators() if not name.startswith("edge::")}


def test_edge_operators() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)  # some rows are of several alike
    names = {name for row in rows for name in re.findall(r"\w+", row)}
    own = {name for name in _core.operators() if name.startswith("edge::")}
    assert {f"edge::{name}.out" for name in names} == own
