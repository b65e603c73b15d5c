"""Filters: what they mean in Python and in SPARQL is the same, whatever is in them; and what is wrong is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.fleet.server.semantic.expansion import statements_of
from edge.fleet.server.semantic.facts import DeviceFacts
from edge.fleet.server.semantic.filter_sparql import find_devices, to_sparql
from edge.fleet.server.semantic.filters import KEYS, All, BadFilter, Comparison, Filter, Not, matches, parse
from edge.fleet.server.semantic.names import device_iri
from edge.fleet.server.semantic.query import check_read_only
from edge.fleet.server.semantic.store import LocalStore
from edge.fleet.server.semantic.thing import thing_description
from tests.conftest import ROOT
from tests.fleet.semantic.samples import BOARD, BODIES, FILTERS, INVENTORY


def store_of(devices: list[DeviceFacts]) -> LocalStore:
    store = LocalStore()
    store.fill([(device_iri(each.id), statements_of(thing_description(each))) for each in devices], 0)
    return store


@settings(max_examples=150, deadline=None)
@given(st.lists(BODIES, min_size=1, max_size=6), st.lists(FILTERS, min_size=1, max_size=5))
def test_sparql_finds_what_the_reference_finds(bodies: list[dict[str, Any]], filters: list[Filter]) -> None:
    devices = [DeviceFacts.from_body(f"d{index}", body) for index, body in enumerate(bodies)]
    store = store_of(devices)
    for each in filters:
        assert find_devices(store, each) == sorted(device.id for device in devices if matches(each, device))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
@example('" } ; DROP ALL ; #', "x")
@example("\\u0022 . ?s ?p ?o } #", "> . ?s ?p ?o . <urn:x")
def test_no_value_breaks_out_of_its_literal(value: str, key: str) -> None:
    """Whatever text comes in, the query stays one SELECT that finds nothing of a store without that text."""
    store = store_of([DeviceFacts.from_inventory("d0", INVENTORY), DeviceFacts.from_inventory("d1", BOARD)])
    before = len(store)
    try:
        part = Comparison(f"label.{key}", "=", value)
        found = find_devices(store, part)
        check_read_only(to_sparql(part))
    except UnicodeEncodeError:
        return  # a lone surrogate is no text that could come from a command line
    assert found in ([], ["d0"], ["d1"], ["d0", "d1"]) and (found == [] or value in ("7", "ground floor"))
    assert find_devices(store, Not(part)) == sorted({"d0", "d1"} - set(found))
    assert len(store) == before


def test_the_filter_of_the_issue() -> None:
    wanted = parse("ram>=256KB and sensor=microphone and building=7 and model!=kws:2.1")
    assert wanted == All(
        (
            Comparison("ram", ">=", "256KB", 262144),
            Comparison("sensor", "=", "microphone"),
            Comparison("building", "=", "7"),
            Comparison("model", "!=", "kws:2.1"),
        )
    )
    devices = [DeviceFacts.from_inventory("pi", INVENTORY), DeviceFacts.from_inventory("nano", BOARD)]
    assert find_devices(store_of(devices), wanted) == ["nano"]
    # The building, which few devices share, comes first, and what only excludes last.
    lines = to_sparql(wanted).splitlines()
    assert "inBuilding" in lines[1] and "runsModelVersion" in lines[-2]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a", None),
        ("Sensor=Mic", "sensor=microphone"),
        ("not not id=d1", "not (not (id=d1))"),
        ("id=a or id=b and id=c", "id=a or (id=b and id=c)"),
        ("not id=a and id=b", "(not id=a) and id=b"),
        ('label.floor="ground floor" AND ram>1.5MB', 'label.floor = "ground floor" and ram > 1536KB'),
        ("ram=1GiB", "ram=1024MB"),
    ],
)
def test_forms_of_one_filter(text: str, same: str | None) -> None:
    if same is None:
        with pytest.raises(BadFilter):
            parse(text)
        return
    first, second = parse(text), parse(same)
    # Sizes are equal if their bytes are, however they are written.
    told = [str(each).replace("1.5MB", "1536KB").replace("1GiB", "1024MB") for each in (first, second)]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("text", "at", "problem"),
    [
        ("", 0, 'expected a key, "not" or "(", found the end: ▶'),
        ("ram>=256", 5, "expected a size with its unit, as 256KB or 1.5MB, for ram, found '256': ram>=▶256"),
        ("colour=red", 0, "there is no key 'colour'"),
        ("building=7 and", 14, "found the end: building=7 and▶"),
        ("(building=7", 11, 'expected ")"'),
        ("building=7)", 10, 'expected "and", "or" or the end'),
        ("sensor>x", 6, "sensor has no order"),
        ('id="x', 3, "a quote that is not closed"),
        ("id=a\\b", 4, "'\\\\' has no meaning here"),
        ("building 7", 9, "expected = != < <= > or >="),
        ("cores>=two", 7, "expected a whole number for cores"),
        ("ram>=1.0001KB", 5, "expected a size"),
        ("dtype=int9", 6, "dtype is one of float32"),
        ("holds=kws", 6, "expected a model and its version"),
        ("label.KEY=7 and label.=7", 16, "there is no key 'label.'"),
        ("id=", 3, "expected a value of id"),
        ('id=""', 3, "a value has 1 to 200 characters"),
        ("(" * 40 + "id=a" + ")" * 40, 33, "nested deeper than 32 levels"),
        ("not " * 40 + "id=a", 132, "nested deeper than 32 levels"),
        ("id=a or " * 1000 + "id=b", 4096, "longer than 4,096 characters"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, at: int, problem: str) -> None:
    with pytest.raises(BadFilter) as caught:
        parse(text)
    message = str(caught.value)
    assert caught.value.at == at and problem in message and "▶" in message and "\n" not in message
    assert message.startswith(f"filter, character {at + 1}: ")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from(list('ramid=<>!()"\\ andort.7KB\n\x00é')), max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse(text)
    except BadFilter as error:
        assert "\n" not in str(error) or "\n" in text


def test_the_document_names_every_key() -> None:
    table = (ROOT / "docs" / "semantics.md").read_text().partition("## Filters")[2].partition("\n## ")[0]
    assert {key for key in KEYS if f"`{key}`" not in table} == set()
