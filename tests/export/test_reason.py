"""One line about an exception of somebody else's code."""

from __future__ import annotations

from edge.export.reason import first_line


def test_it_is_the_first_line_with_text() -> None:
    assert first_line(ValueError("\n  no such axis  \nTraceback of another language")) == "no such axis"
    assert first_line(KeyError("x"), named=True) == "KeyError: 'x'"


def test_an_exception_without_text_is_told_by_its_type() -> None:
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(ValueError("\n \n"), named=True) == "ValueError"


def test_it_is_cut() -> None:
    assert first_line(ValueError("x" * 5000)) == "x" * 300
