"""Descriptions against their SHACL shapes (vocabulary/shapes.ttl), with pyshacl; each problem is one line."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pyoxigraph as ox

from edge.fleet.server.semantic.contexts import vocabulary
from edge.fleet.server.semantic.query import short


@cache
def _shapes() -> Any:
    import rdflib

    return rdflib.Graph().parse(data=vocabulary("shapes.ttl"), format="turtle")


def problems(triples: Iterable[ox.Triple]) -> list[str]:
    """What is wrong with a description: "device:d1 ef:ramBytes: Value is not …", sorted; empty if nothing is."""
    import pyshacl
    import rdflib
    from rdflib.namespace import RDF, SH

    data = rdflib.Graph()
    text = "".join(f"{triple} .\n" for triple in triples)
    data.parse(data=text, format="nt")
    # No imports, no advanced features, no inference: nothing is fetched and no code of the data's runs.
    _, report, _ = pyshacl.validate(
        data, shacl_graph=_shapes(), inference="none", advanced=False, js=False, do_owl_imports=False, meta_shacl=False
    )
    assert isinstance(report, rdflib.Graph)
    found = set()
    for result in report.subjects(RDF.type, SH.ValidationResult):
        focus, path = report.value(result, SH.focusNode), report.value(result, SH.resultPath)
        message = " ".join(str(report.value(result, SH.resultMessage) or "does not conform").split())[:200]
        where = " ".join(short(str(part)) for part in (focus, path) if isinstance(part, rdflib.URIRef))
        found.add(f"{where}: {message}")
    return sorted(found)
