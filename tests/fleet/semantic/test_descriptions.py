"""Descriptions of devices and models: the quick reading equals two parsers', SHACL holds, nothing is fetched."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
import rdflib
from hypothesis import given, settings

from edge.fleet.inventory import Inventory
from edge.fleet.server.semantic.contexts import CONTEXT, TD_CONTEXT, inlined
from edge.fleet.server.semantic.exchange import read_import, to_jsonld, to_turtle
from edge.fleet.server.semantic.expansion import triples_of
from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.network import network_description
from edge.fleet.server.semantic.thing import thing_description
from edge.fleet.server.semantic.validation import problems
from edge.runtime.errors import BadFile, EdgeError
from tests.fleet.semantic.samples import BOARD, BODIES, INVENTORY, manifest


def by_pyoxigraph(document: dict[str, Any]) -> set[ox.Triple]:
    return {quad.triple for quad in ox.parse(json.dumps(inlined(document)), ox.RdfFormat.JSON_LD)}


def by_rdflib(document: dict[str, Any]) -> set[Any]:
    return set(rdflib.Graph().parse(data=json.dumps(inlined(document)), format="json-ld"))


def as_rdflib(triples: list[ox.Triple]) -> set[Any]:
    return set(rdflib.Graph().parse(data="".join(f"{triple} .\n" for triple in triples), format="nt"))


@settings(max_examples=100, deadline=None)
@given(BODIES)
def test_a_thing_description_says_the_same_to_every_parser(body: dict[str, Any]) -> None:
    document = thing_description(DeviceFacts.from_body("d1", body))
    triples = triples_of(document)
    assert len(set(triples)) == len(triples)
    assert set(triples) == by_pyoxigraph(document)
    assert as_rdflib(triples) == by_rdflib(document)
    assert not any(isinstance(term, ox.BlankNode) for each in triples for term in (each.subject, each.object))


def test_a_model_says_the_same_to_every_parser() -> None:
    for body in (manifest(), manifest(quantization=None, metrics=None, license="")):
        document = network_description(ModelFacts.from_published(body))
        assert set(triples_of(document)) == by_pyoxigraph(document)
        assert as_rdflib(triples_of(document)) == by_rdflib(document)
        assert problems(triples_of(document)) == []


def test_a_thing_description_in_the_w3c_form() -> None:
    document = thing_description(DeviceFacts.from_inventory("pi", INVENTORY), "mqtts://fleet.example:8883")
    assert document["@context"][0] == TD_CONTEXT
    assert document["title"] == "pi"
    assert document["security"] in document["securityDefinitions"]
    status = document["properties"]["status"]
    assert status["forms"][0]["href"] == "mqtts://fleet.example:8883/f/v1/pi/up/status"
    assert problems(triples_of(document)) == []
    graph = rdflib.Graph().parse(data=to_turtle(triples_of(document)), format="turtle")
    assert set(graph) == as_rdflib(triples_of(document))
    assert json.loads(to_jsonld([document])) == document


@settings(max_examples=20, deadline=None)
@given(BODIES)
def test_every_description_conforms_to_its_shapes(body: dict[str, Any]) -> None:
    assert problems(triples_of(thing_description(DeviceFacts.from_body("d1", body)))) == []


def test_what_does_not_conform_is_told_in_a_line() -> None:
    document = thing_description(DeviceFacts.from_inventory("pi", INVENTORY))
    document["ef:ramBytes"] = "much"
    document["properties"]["status"]["forms"] = []
    del document["title"]
    told = problems(triples_of(document))
    assert any("ef:ramBytes" in line for line in told) and any("dct:title" in line for line in told)
    assert any("hasPropertyAffordance" in line for line in told)
    assert all("\n" not in line for line in told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ram_kb": "much"}, "device 'd1'.ram_kb: expected an integer"),
        ({"ram_kb": 1 << 60}, "device 'd1'.ram_kb: expected 0 to"),
        ({"sensors": "microphone"}, "device 'd1'.sensors: expected a list"),
        ({"sensors": ["a\nb"]}, "device 'd1'.sensors: holds a control character"),
        ({"sensors": ["x"] * 300}, "device 'd1'.sensors: 300 entries"),
        ({"labels": {"building": "x" * 201}}, "device 'd1'.labels: 201 characters"),
        ({"labels": ["building"]}, "device 'd1'.labels: expected an object"),
        ({"models": [{"name": "kws"}]}, "device 'd1'.models: expected text, found null"),
        ({"models": [{"name": "kws", "version": "1", "active": 1}]}, "device 'd1'.models: active: expected true"),
        ({"kind": "toaster"}, "device 'd1'.kind: expected one of linux, microcontroller"),
        ({"runtimes": {"a:b": "1"}}, "device 'd1'.runtimes: ['a:b']: a runtime's name has no colon"),
    ],
)
def test_a_hostile_inventory_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadFile) as caught:
        DeviceFacts.from_inventory("d1", {**INVENTORY, **change})
    assert str(caught.value).startswith(message)


def test_what_a_device_does_not_say_of_its_firmware_is_not_known() -> None:
    told = DeviceFacts.from_inventory("d1", BOARD)
    assert told.operators == set(BOARD["operators"]) and told.dtypes == {"int8", "ternary"}
    inventory = Inventory(kind="microcontroller", runtimes={"core": "0.1.0"}).json()
    silent = DeviceFacts.from_inventory("d1", json.loads(json.dumps(inventory)))
    assert silent.operators is None and "ternary" in silent.dtypes


@pytest.mark.parametrize("device", ["", "a b", "../x", "x" * 101, "é"])
def test_a_hostile_id_is_refused(device: str) -> None:
    with pytest.raises(BadFile, match="an id has letters"):
        DeviceFacts.from_inventory(device, INVENTORY)


@pytest.mark.parametrize(
    "make",
    [
        lambda url: {"@context": url, "@id": "urn:x", "http://p": "o"},
        lambda url: {"@context": [*CONTEXT, url], "@id": "urn:x"},
        lambda url: {"@context": {"p": {"@id": "urn:p", "@context": url}}, "@id": "urn:x", "p": {"@id": "urn:y"}},
        lambda url: {"@id": "urn:x", "urn:p": [{"@context": url, "@id": "urn:y"}]},
        lambda url: {"@context": {"@import": url}, "@id": "urn:x"},
        lambda url: {"@context": [[url]], "@id": "urn:x"},
    ],
)
def test_a_foreign_context_is_refused_without_a_connection(make: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        document = make(f"http://127.0.0.1:{server.getsockname()[1]}/context.jsonld")
        path = tmp_path / "foreign.jsonld"
        path.write_text(json.dumps(document))
        with pytest.raises(EdgeError, match="not vendored|@import is not followed"):
            read_import(path, "foreign")
        with pytest.raises(TimeoutError):
            server.accept()


def test_vendored_contexts_serve_foreign_thing_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "lamp.jsonld"
    path.write_text(
        json.dumps(
            {
                "@context": TD_CONTEXT,
                "id": "urn:lamp",
                "title": "Lamp",
                "security": "nosec_sc",
                "securityDefinitions": {"nosec_sc": {"scheme": "nosec"}},
                "properties": {"on": {"type": "boolean", "forms": [{"href": "coap://lamp/on"}]}},
            }
        )
    )
    triples = read_import(path, "lamp")
    assert len(triples) == 8
    assert any(each.object == ox.NamedNode("coap://lamp/on") for each in triples)
    assert not any(isinstance(each.object, ox.BlankNode) for each in triples)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.ttl", "<urn:edge:device:d1> a <urn:x> .", "may not speak of the fleet's own things"),
        ("a.ttl", '<urn:x> <urn:edge:fleet#inBuilding> "7" .', "may not speak of the fleet's own things"),
        ("a.ttl", "<urn:x> a <urn:edge:fleet#Device> .", "may not use the fleet's own terms"),
        ("a.ttl", "<urn:edge:import:b#b0> a <urn:x> .", "may not speak of the fleet's own things"),
        ("a.ttl", "<urn:edge:cursor> a <urn:x> .", "may not speak of the fleet's own things"),
        ("a.ttl", "<urn:x> a", "not readable"),
        ("a.ttl", "\xff", "not readable"),
        ("a.jsonld", "[" * 100_000, "not readable"),
        ("a.jsonld", json.dumps({"@id": "urn:g", "@graph": [{"@id": "urn:x", "urn:p": "o"}]}), "named graph"),
        ("a.xml", "<rdf/>", "expected a name that ends in .ttl"),
    ],
)
def test_a_hostile_import_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EdgeError, match=message) as caught:
        read_import(path, "a")
    assert "\n" not in str(caught.value)


def test_a_board_is_a_smart_sensor_as_seloc_ml_writes_them() -> None:
    graph = rdflib.Graph()
    graph += as_rdflib(triples_of(thing_description(DeviceFacts.from_inventory("nano", BOARD))))
    value = rdflib.URIRef("https://schema.org/value")
    assert sorted(int(str(each)) for each in graph.objects(None, value)) == [256, 1024]
