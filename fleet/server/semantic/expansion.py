"""The triples of our own JSON-LD documents, quickly.

A JSON-LD parser spends most of a small document's time on its context (0.5 to 1 ms here, against 0.04 ms), and every
change of a device is such a document. This reads what `thing` and `network` write, by the same vendored contexts, and
nothing else: tests hold its triples to those of pyoxigraph's and rdflib's parsers. Documents of others go through
pyoxigraph (`exchange`).

Between here and the store a triple is a statement: a line of N-Triples with its dot, as pyoxigraph itself writes it, so
that descriptions are compared as sets of text and only what changed is ever parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import pyoxigraph as ox

from edge.fleet.server.semantic.contexts import CONTEXT, vendored

_TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
_XSD = "http://www.w3.org/2001/XMLSchema#"
# What no IRI holds (RFC 3987, as N-Triples' IRIREF has it).
_NO_IRI = re.compile(r"[\x00-\x20<>\"{}|^`\\]")
# Words of the vocabulary come again and again; ids of things do not belong here.
_MOST_CACHED = 10_000


class _Term(NamedTuple):
    """What a context says of a key: its property, how its texts are read, and the context inside it."""

    property: str  # as N-Triples has it, "<…>"
    coercion: str | None  # "@id", "@vocab", a datatype's IRI, or None for plain text
    by_index: bool
    inside: _Context


class _Context:
    """A context (JSON-LD 1.1, 4.1), as far as ours go: terms, prefixes, @vocab, coercion, @index, scoped contexts."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._vocab = definitions.get("@vocab")
        self._terms: dict[str, _Term] = {}
        self._nodes: dict[str, str] = {}

    def term(self, key: str) -> _Term:
        found = self._terms.get(key)
        if found is None:
            found = self._defined(key)
            if len(self._terms) < _MOST_CACHED:
                self._terms[key] = found
        return found

    def word(self, text: str) -> str:
        """A class, or a value that is read by the vocabulary."""
        found = self._nodes.get(text)
        if found is None:
            found = _node_of(self._vocabulary_iri(text))
            if len(self._nodes) < _MOST_CACHED:
                self._nodes[text] = found
        return found

    def iri(self, text: str) -> str:
        """A prefixed name in full; whole IRIs are left as they are."""
        prefix, colon, rest = text.partition(":")
        if colon and not rest.startswith("//"):
            start = self._definitions.get(prefix)
            if isinstance(start, dict):
                start = start.get("@id")
            if isinstance(start, str):
                return (self.iri(start) if ":" in start else start) + rest
        return text

    def _vocabulary_iri(self, text: str) -> str:
        definition = self._definitions.get(text)
        if isinstance(definition, dict):
            definition = definition.get("@id", text)
        whole = self.iri(definition if isinstance(definition, str) else text)
        return whole if ":" in whole else f"{self._vocab}{whole}"

    def _defined(self, key: str) -> _Term:
        definition = self._definitions.get(key)
        property_ = _node_of(self._vocabulary_iri(key))
        if not isinstance(definition, dict):
            return _Term(property_, None, False, self)
        coercion = definition.get("@type")
        if coercion is not None and not coercion.startswith("@"):
            coercion = self.iri(coercion)
        scoped = definition.get("@context")
        inside = self if scoped is None else _Context({**self._definitions, **scoped})
        return _Term(property_, coercion, definition.get("@container") == "@index", inside)


@cache
def _ours() -> _Context:
    merged: dict[str, Any] = {}
    for iri in CONTEXT:
        merged.update(vendored(iri))
    return _Context(merged)


def statements_of(description: Mapping[str, Any]) -> list[str]:
    """The statements of a document that `thing_description` or `network_description` made.

    Raises:
        ValueError: an IRI in it is not one (none that we make: ids and labels are percent-encoded).
    """
    made: list[str] = []
    _node(description, _ours(), made)
    return made


def triples_of(description: Mapping[str, Any]) -> list[ox.Triple]:
    """`statements_of` as triples."""
    return list(triples("\n".join(statements_of(description)).encode()))


def triples(statements: bytes) -> Iterator[ox.Triple]:
    """N-Triples as pyoxigraph's triples."""
    for quad in ox.parse(statements, ox.RdfFormat.N_TRIPLES):
        yield quad.triple


def statements(triples: Iterable[ox.Triple]) -> list[str]:
    """Triples as statements: str() of a triple is its N-Triples form, escaped by pyoxigraph."""
    return [f"{triple} ." for triple in triples]


def _node(node: Mapping[str, Any], context: _Context, made: list[str]) -> str:
    """Adds the statements of a node object, and of those inside it; its name."""
    name = node.get("id") or node["@id"]
    subject = _node_of(context.iri(name))
    for key, value in node.items():
        if key in ("@context", "@id", "id"):
            continue
        if key == "@type":
            for word in value if isinstance(value, list) else (value,):
                made.append(f"{subject} {_TYPE} {context.word(word)} .")
            continue
        if key == "@included":
            for each in value:
                _node(each, context, made)
            continue
        property_, coercion, by_index, inside = context.term(key)
        if by_index:
            value = list(value.values())
        for each in value if isinstance(value, list) else (value,):
            made.append(f"{subject} {property_} {_object(each, coercion, inside, made)} .")
    return subject


def _object(value: Any, coercion: str | None, context: _Context, made: list[str]) -> str:
    if isinstance(value, dict):
        if "@value" in value:
            return _literal(value["@value"], context.iri(value["@type"]))
        return _node(value, context, made)
    if isinstance(value, str):
        if coercion is None:
            return _literal(value)
        if coercion == "@vocab":
            return context.word(value)
        if coercion == "@id":
            return _node_of(context.iri(value))
        return _literal(value, coercion)
    # Booleans and integers; xsd:boolean and xsd:integer are what JSON-LD makes of them.
    if isinstance(value, bool):
        return f'"{str(value).lower()}"^^<{_XSD}boolean>'
    return f'"{value:d}"^^<{_XSD}integer>'


def _node_of(iri: str) -> str:
    if _NO_IRI.search(iri) or ":" not in iri:
        raise ValueError(f"{iri[:80]!r}: not an IRI")
    return f"<{iri}>"


@lru_cache(_MOST_CACHED)
def _literal(text: str, datatype: str | None = None) -> str:
    return str(ox.Literal(text, datatype=None if datatype is None else ox.NamedNode(datatype)))
