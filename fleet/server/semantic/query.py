"""Queries of people, and what they are given: read-only, from this store alone. `asking` runs them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyoxigraph as ox

from edge.fleet.server.semantic.names import PREFIXES
from edge.runtime.errors import BadInput

MAX_QUERY = 1 << 16

# SPARQL 1.1, 19.8: what may hide a keyword (IRIs, four kinds of strings, comments), names that may look like one
# (variables, prefixed names, language tags), and words. The first that matches counts.
_TOKEN = re.compile(
    r"""
      <[^<>"{}|^`\\\x00-\x20]*>
    | '''(?:'{0,2}(?:[^'\\]|\\.))*''' | \"\"\"(?:"{0,2}(?:[^"\\]|\\.))*\"\"\"
    | '(?:[^'\\\n\r]|\\.)*' | "(?:[^"\\\n\r]|\\.)*"
    | \#[^\n\r]*
    | [?$][\w·]+ | @[A-Za-z-]+
    | [\w.·-]*:(?:[\w.·:%-]|\\.)*
    | (?P<word>[A-Za-z]+)
    | (?P<open>['"])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})")
_READS = ("SELECT", "ASK", "CONSTRUCT", "DESCRIBE")
_WRITES = ("INSERT", "DELETE", "LOAD", "CLEAR", "DROP", "CREATE", "ADD", "MOVE", "COPY", "WITH")


@dataclass(frozen=True)
class Answer:
    """What a query found.

    Attributes:
        variables: columns; for CONSTRUCT and DESCRIBE "subject", "predicate", "object"; for ASK "answer".
        rows: RDF terms, None where unbound; of an ASK one boolean.
        truncated: whether there was more than the limit of rows.
        kind: "select", "ask" or "graph".
    """

    kind: str
    variables: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False


def check_read_only(text: str) -> None:
    """Refuses what is not a query, and every query that leaves the store.

    Raises:
        BadInput: an update; SERVICE (it would call another server); FROM (it would choose or load graphs); too long.
    """
    if len(text) > MAX_QUERY:
        raise BadInput(f"query: {len(text):,} characters; at most {MAX_QUERY:,} are read")
    # Some engines put \uXXXX in place before they read, others after: neither may hide a word.
    for form in (text, _ESCAPE.sub(_character, text)):
        words = []
        for match in _TOKEN.finditer(form):
            if match["open"]:  # what follows is not looked at: every further quote would be followed to the end
                raise BadInput("query: a string is not closed")
            if match["word"]:
                words.append(match["word"].upper())
        for word in words:
            if word == "SERVICE":
                raise BadInput("query: SERVICE is refused: queries are answered from this fleet's store alone")
            if word == "FROM":
                raise BadInput("query: FROM is refused: every query sees all graphs; use GRAPH <…> { … } for one")
        first = next((word for word in words if word in _READS or word in _WRITES), None)
        if first is None:
            raise BadInput(f"query: expected {', '.join(_READS[:-1])} or {_READS[-1]}")
        if first in _WRITES:
            raise BadInput(f"query: {first} is refused: queries only read; the registry is changed by edge's commands")


def _character(match: re.Match[str]) -> str:
    code = int(match[1] or match[2], 16)
    return chr(code) if code <= 0x10FFFF else " "


def shown_term(term: object) -> str | None:
    """A term as people read it: IRIs with the prefix of `names.PREFIXES`, literals without quotes and types."""
    if term is None:
        return None
    if isinstance(term, ox.NamedNode):
        return short(term.value)
    if isinstance(term, bool):
        return "yes" if term else "no"
    return term.value if isinstance(term, ox.Literal) else str(term)


def short(iri: str) -> str:
    """ "https://schema.org/name" -> "schema:name"."""
    best = max(
        ((name, start) for name, start in PREFIXES.items() if iri.startswith(start) and len(iri) > len(start)),
        key=lambda pair: len(pair[1]),
        default=None,
    )
    if best is None:
        return iri
    name, start = best
    return f"{name}:{iri[len(start) :]}"


_INTEGERS = {f"http://www.w3.org/2001/XMLSchema#{name}" for name in ("integer", "long", "int", "nonNegativeInteger")}


def json_term(term: object) -> object:
    """A term as a JSON value: whole IRIs, integers and booleans as such, every other literal as its text."""
    if term is None or isinstance(term, bool):
        return term
    if isinstance(term, ox.Literal):
        kind, value = term.datatype.value, term.value
        if kind in _INTEGERS and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            return int(value)
        if kind.endswith("#boolean") and value in ("true", "false"):
            return value == "true"
        return value
    return term.value if isinstance(term, ox.NamedNode) else str(term)
