"""Namespaces, prefixes, and the IRIs of things: a device or model has one, and a named graph of the same name."""

from __future__ import annotations

from urllib.parse import quote, unquote

# Our own terms. The namespace is a URN, so that nobody can be tempted to fetch it.
EF = "urn:edge:fleet#"
LABEL = "urn:edge:label#"
DEVICE = "urn:edge:device:"
MODEL = "urn:edge:model:"
IMPORT = "urn:edge:import:"
# Holds the cursor and nothing else: one triple, whose property is ours alone.
CURSOR_GRAPH = "urn:edge:cursor"
VOCABULARY_GRAPH = "urn:edge:vocabulary"

NNET = "https://w3id.org/tinyml-schema/neural-network-schema#"
S3N_EXTEND = "https://w3id.org/tinyml-schema/neural-network-schema/s3n_extend/"
SOSA_EXTEND = "https://w3id.org/tinyml-schema/neural-network-schema/sosa_extend/"
SSN_EXTEND = "https://w3id.org/tinyml-schema/neural-network-schema/ssn_extend/"

# Declared for every query, so that people need not write them. Names as in the standards and in seloc-ml.
PREFIXES = {
    "ef": EF,
    "label": LABEL,
    "device": DEVICE,
    "model": MODEL,
    "nnet": NNET,
    "s3n": "http://w3id.org/s3n/",
    "s3n_extend": S3N_EXTEND,
    "sosa": "http://www.w3.org/ns/sosa/",
    "sosa_extend": SOSA_EXTEND,
    "ssn": "http://www.w3.org/ns/ssn/",
    "ssn-system": "http://www.w3.org/ns/ssn/systems/",
    "ssn_extend": SSN_EXTEND,
    "td": "https://www.w3.org/2019/wot/td#",
    "jsonschema": "https://www.w3.org/2019/wot/json-schema#",
    "wotsec": "https://www.w3.org/2019/wot/security#",
    "hctl": "https://www.w3.org/2019/wot/hypermedia#",
    "dct": "http://purl.org/dc/terms/",
    "schema": "https://schema.org/",
    "om": "http://www.ontology-of-units-of-measure.org/resource/om-2/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "owl": "http://www.w3.org/2002/07/owl#",
    "sh": "http://www.w3.org/ns/shacl#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


def prologue() -> str:
    """The PREFIX lines of SPARQL and Turtle for all of `PREFIXES`."""
    return "".join(f"PREFIX {name}: <{iri}>\n" for name, iri in PREFIXES.items())


def segment(text: str) -> str:
    """`text` as a part of an IRI (RFC 3987): everything but letters, digits and - . _ ~ as %XX of its UTF-8."""
    return quote(text, safe="")


def device_iri(device: str) -> str:
    return DEVICE + segment(device)


def model_iri(name: str, version: str) -> str:
    return f"{MODEL}{segment(name)}:{segment(version)}"


def label_iri(key: str) -> str:
    """The property that says what the label `key` of a device is."""
    return LABEL + segment(key)


def device_of(iri: str) -> str | None:
    """The id of the device that `iri` names; None if it names something else."""
    return unquote(iri[len(DEVICE) :]) if iri.startswith(DEVICE) and "#" not in iri else None
