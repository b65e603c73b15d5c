"""JSON-LD contexts, from this package and from nowhere else.

Two documents are known by their IRIs: the W3C's Thing Description 1.1 context, in the subset of vocabulary/README.md,
and our own. A document that names any other context is refused before a parser sees it, so none can make the server
open a connection or read a file (rdflib's loader would do both).
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from edge.runtime.errors import BadFile
from edge.runtime.fields import kind_of, shown

TD_CONTEXT = "https://www.w3.org/2022/wot/td/v1.1"
FLEET_CONTEXT = "urn:edge:fleet:context:1"
_VENDORED = {TD_CONTEXT: "td-1.1.jsonld", FLEET_CONTEXT: "fleet.jsonld"}

# The context of every document that we write, as it stands in them.
CONTEXT = [TD_CONTEXT, FLEET_CONTEXT]

MAX_DEPTH = 64


def vocabulary(name: str) -> str:
    """The text of a file of `vocabulary/`."""
    return files("edge.fleet.server.semantic").joinpath("vocabulary", name).read_text(encoding="utf-8")


@cache
def vendored(iri: str) -> Any:
    """The contents of the context `iri`.

    Raises:
        BadFile: it is none of ours.
    """
    if iri not in _VENDORED:
        raise BadFile(f"JSON-LD context {shown(iri)}: not vendored; contexts are never fetched: write its terms inline")
    return json.loads(vocabulary(_VENDORED[iri]))["@context"]


def inlined(document: object) -> object:
    """A copy of a JSON-LD document in which every context that is named by its IRI is replaced by its contents.

    Raises:
        BadFile: it names a context that is not vendored, imports one (`@import`), or is nested deeper than 64 levels.
    """
    return _inlined(document, 0, in_context=False)


def _inlined(value: object, depth: int, *, in_context: bool) -> object:
    if depth > MAX_DEPTH:
        raise BadFile(f"JSON-LD: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_inlined(item, depth + 1, in_context=in_context) for item in value]
    if isinstance(value, dict):
        if "@import" in value:
            raise BadFile(f"JSON-LD context {shown(value['@import'])}: @import is not followed: write its terms inline")
        return {key: _inlined(item, depth + 1, in_context=key == "@context") for key, item in value.items()}
    if not in_context or value is None:
        return value
    if isinstance(value, str):
        return vendored(value)
    raise BadFile(f"JSON-LD @context: expected an object or an IRI, found {kind_of(value)}")
