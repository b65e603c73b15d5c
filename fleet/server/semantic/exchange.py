"""Descriptions of others in, descriptions of ours out: Turtle and JSON-LD.

An import is a named graph of its own, urn:edge:import:NAME, beside the fleet's. It is data to query, never part of the
fleet: nothing in it can speak of our devices, or carry the properties that filters look at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyoxigraph as ox

from edge.fleet.server.semantic.contexts import CONTEXT, inlined
from edge.fleet.server.semantic.names import EF, IMPORT, PREFIXES, segment
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.fields import reason

MAX_BYTES = 64 << 20
MAX_TRIPLES = 1_000_000
_FORMATS = {
    ".ttl": ox.RdfFormat.TURTLE,
    ".nt": ox.RdfFormat.N_TRIPLES,
    ".jsonld": ox.RdfFormat.JSON_LD,
    ".json": ox.RdfFormat.JSON_LD,
}
_OURS = "urn:edge:"


def import_graph(name: str) -> str:
    """The named graph of the import `name`."""
    return IMPORT + segment(name)


def read_import(path: Path, name: str) -> list[ox.Triple]:
    """Reads a file of foreign descriptions; its blank nodes become names below the import's.

    Raises:
        BadFile: missing, too large, not what its suffix says, or it describes things of ours.
        BadInput: a suffix that is none of .ttl, .nt, .jsonld, .json.
    """
    format_ = _FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise BadInput(f"{path}: expected a name that ends in {', '.join(_FORMATS)}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {reason(error)}") from None
    if len(data) > MAX_BYTES:
        raise BadFile(f"{path}: larger than {MAX_BYTES >> 20} MB")
    try:
        return _renamed(_parsed(data, format_, import_graph(name)), name)
    except BadFile as error:
        raise BadFile(f"{path}: {error}") from None


def _parsed(data: bytes, format_: ox.RdfFormat, base: str) -> Iterable[ox.Triple]:
    try:
        if format_ == ox.RdfFormat.JSON_LD:
            # Contexts are put in place first: the parser is never given one that it would have to look for.
            data = json.dumps(inlined(json.loads(data.decode("utf-8-sig")))).encode()
        for count, quad in enumerate(ox.parse(data, format_, base_iri=f"{base}:")):
            if count >= MAX_TRIPLES:
                raise BadFile(f"more than {MAX_TRIPLES:,} triples")
            if not isinstance(quad.graph_name, ox.DefaultGraph):
                raise BadFile(f"holds a named graph, {quad.graph_name}: expected one graph of triples")
            yield quad.triple
    except (SyntaxError, ValueError, RecursionError) as error:
        raise BadFile(f"not readable: {reason(error)}") from None


def _renamed(triples: Iterable[ox.Triple], name: str) -> list[ox.Triple]:
    """Gives every blank node a name, so that the graph can be compared and changed (RDF 1.1, 3.5: Skolem IRIs)."""
    names: dict[str, ox.NamedNode] = {}

    def named(term: Any) -> Any:
        if isinstance(term, ox.BlankNode):
            return names.setdefault(term.value, ox.NamedNode(f"{import_graph(name)}#b{len(names)}"))
        return term

    made = []
    # What the file names relative to itself, and blank nodes of an earlier reading.
    own = (f"{import_graph(name)}:", f"{import_graph(name)}#")
    for triple in triples:
        for term in (triple.subject, triple.predicate):
            if isinstance(term, ox.NamedNode) and term.value.startswith(_OURS) and not term.value.startswith(own):
                raise BadFile(f"describes {term.value[:80]}: an import may not speak of the fleet's own things")
        if isinstance(triple.object, ox.NamedNode) and triple.object.value.startswith(EF):
            # Else anything could call itself an ef:Device.
            raise BadFile(f"names {triple.object.value[:80]}: an import may not use the fleet's own terms")
        made.append(ox.Triple(named(triple.subject), triple.predicate, named(triple.object)))
    return made


def to_turtle(triples: Iterable[ox.Triple]) -> str:
    """Triples as Turtle, with the prefixes that they use."""
    text = ox.serialize(sorted(triples, key=str), format=ox.RdfFormat.TURTLE, prefixes=PREFIXES)
    assert text is not None
    lines = text.decode().splitlines()
    head = [line for line in lines if line.startswith("@prefix")]
    body = "\n".join(line for line in lines if not line.startswith("@prefix"))
    used = [line for line in head if f"{line.split()[1]}" in body]
    return "\n".join([*used, body]) + "\n"


def to_jsonld(descriptions: list[dict[str, Any]]) -> str:
    """Our own descriptions as one JSON-LD document: a Thing Description as it is, several as an @graph."""
    if len(descriptions) == 1:
        return json.dumps(descriptions[0], indent=2, ensure_ascii=False) + "\n"
    bodies = [{key: value for key, value in each.items() if key != "@context"} for each in descriptions]
    return json.dumps({"@context": CONTEXT, "@graph": bodies}, indent=2, ensure_ascii=False) + "\n"
