"""Queries of people: they only read, never leave the store, and end."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from collections.abc import Iterator

import pyoxigraph as ox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.fleet.server.semantic.asking import run_query
from edge.fleet.server.semantic.projection import Projection
from edge.fleet.server.semantic.query import check_read_only, json_term, short, shown_term
from edge.fleet.server.semantic.store import LocalStore
from edge.runtime.errors import BadInput, EdgeError
from tests.fleet.semantic.samples import BOARD, INVENTORY, ListRegistry


@pytest.fixture(scope="module")
def store() -> LocalStore:
    registry = ListRegistry()
    registry.put("device.changed", "pi", {"inventory": INVENTORY})
    registry.put("device.changed", "nano", {"inventory": BOARD})
    made = LocalStore()
    Projection(made).rebuild(registry)
    return made


def test_the_four_forms(store: LocalStore) -> None:
    select = run_query(store, "SELECT ?d ?n { ?d ef:cores ?n }")
    assert [[shown_term(term) for term in row] for row in select.rows] == [["device:pi", "4"]]
    assert [json_term(term) for term in select.rows[0]] == ["urn:edge:device:pi", 4]
    assert run_query(store, 'ASK { ?d ef:inBuilding "7" }').rows == ((True,),)
    graph = run_query(store, "CONSTRUCT { ?d a sosa:Platform } WHERE { ?d ef:cores ?n }")
    assert graph.kind == "graph" and len(graph.rows) == 1
    described = run_query(store, "DESCRIBE device:nano")
    assert described.kind == "graph" and len(described.rows) > 10


@pytest.mark.parametrize(
    "text",
    [
        "DROP ALL",
        "INSERT DATA { <urn:a> <urn:b> <urn:c> }",
        "PREFIX x: <urn:x> DELETE WHERE { ?s ?p ?o }",
        "# SELECT\nLOAD <http://127.0.0.1/> ",
        "WITH <urn:g> DELETE { ?s ?p ?o } WHERE { ?s ?p ?o }",
        "SELECT * FROM <urn:g> { ?s ?p ?o }",
        "SELECT * FROM NAMED <urn:g> { ?s ?p ?o }",
        "SELECT * { SERVICE <http://127.0.0.1:1/> { ?s ?p ?o } }",
        "SELECT * { service silent ?x { ?s ?p ?o } }",
        "SELECT * { \\u0053ERVICE <http://127.0.0.1:1/> { ?s ?p ?o } }",
        'SELECT * { ?s ?p "\\u0022 SERVICE <http://127.0.0.1:1/> { ?s ?p ?o } #" }',
        "SELECT * { ?s ?p ?o FILTER(?s<?o)SERVICE<http://127.0.0.1:1/>{ ?s ?p ?o } }",
        "SELECT * { ?s ?p '''a''' . SERVICE <urn:x> { ?s ?p ?o } }",
        "SELECT * { ?s ?p 'a\\'' . SERVICE <urn:x> { ?s ?p ?o } }",
        "",
        "nonsense",
        "SELECT * {" + " " * 70_000 + "}",
    ],
)
def test_what_writes_or_leaves_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_read_only(text)
    assert "\n" not in str(caught.value)


def test_an_open_string_is_refused_at_once() -> None:
    started = time.process_time()
    for text in ("'\\" * 30_000, "'" + "\\'" * 30_000, "SELECT * { ?s ?p '''" + "\\'" * 30_000, "'''" + "''a" * 20_000):
        with pytest.raises(BadInput):
            check_read_only(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "SELECT ?service { ?service ef:from 'SERVICE' }",
        'SELECT ?from { ?from ef:service """FROM \' " SERVICE""" } # SERVICE',
        "SELECT * { <urn:SERVICE/FROM> service:x ?o }",
        "SELECT * { ?s ?p 'x'@from }",
        "BASE <urn:insert> PREFIX drop: <urn:drop> SELECT * { drop:a ?p ?o }",
    ],
)
def test_words_in_names_and_texts_are_no_keywords(text: str) -> None:
    check_read_only(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("'\"\\<>#{}?: \nSERVICEuserx0053")), max_size=30))
def test_whatever_stands_before_service_no_connection_is_made(before: str) -> None:
    """Either the guard refuses, or the engine reads no SERVICE: with one, it would try to connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        text = f"SELECT * {{ {before} SERVICE SILENT <{url}> {{ ?s ?p ?o }} }}"
        with contextlib.suppress(EdgeError):
            run_query(LocalStore(), text)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_query_ends_after_its_time(store: LocalStore) -> None:
    started = time.monotonic()
    with pytest.raises(EdgeError, match="no answer within 0.2 s"):
        run_query(store, "SELECT * { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i FILTER(?a = ?nothing) }", seconds=0.2)
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module")
def wide() -> LocalStore:
    """A store in which three patterns that share nothing have 10^9 answers."""
    made = LocalStore()
    made.replace("urn:g", [f'<urn:d{number}> <urn:p> "{number}" .' for number in range(1000)])
    return made


_CROSS = "SELECT * { ?a <urn:p> ?x . ?b <urn:p> ?y . ?c <urn:p> ?z }"


def test_a_query_that_explodes_takes_neither_the_time_nor_the_memory(wide: LocalStore) -> None:
    assert len(run_query(wide, _CROSS, rows=3).rows) == 3, "rows come as they are found"
    started = time.monotonic()
    with pytest.raises(EdgeError, match="needs more than 64 MB of memory beside the store's"):
        run_query(wide, f"{_CROSS} ORDER BY ?z ?y ?x", seconds=60, memory=64 << 20)
    with pytest.raises(EdgeError, match=r"no answer within 0\.3 s"):
        run_query(wide, "SELECT (COUNT(*) AS ?n) " + _CROSS.removeprefix("SELECT *"), seconds=0.3)
    assert time.monotonic() - started < 30
    assert not multiprocessing.active_children()


def test_an_answer_is_cut_where_it_is_too_large(wide: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.fleet.server.semantic.asking.MAX_ANSWER", 100_000)
    answer = run_query(wide, _CROSS, rows=1_000_000)
    assert answer.truncated and 500 <= len(answer.rows) < 5_000


@contextlib.contextmanager
def _no_fleet() -> Iterator[LocalStore]:
    raise BadInput("no fleet here")
    yield LocalStore()


def _bug() -> contextlib.AbstractContextManager[LocalStore]:
    raise ZeroDivisionError


def test_what_the_opening_says_is_the_commands_error() -> None:
    with pytest.raises(BadInput, match="no fleet here"):
        run_query(_no_fleet, "ASK {}")
    with pytest.raises(EdgeError, match="cannot be answered: ZeroDivisionError"):
        run_query(_bug, "ASK {}")


def test_terms_come_through_as_they_were() -> None:
    store = LocalStore()
    terms = ['"é\\n\\"\\\\"', '"x"@en', '"1.50"^^<urn:t>', '"7"^^<http://www.w3.org/2001/XMLSchema#integer>', "<urn:o>"]
    store.replace("urn:g", [f"<urn:s{number}> <urn:p> {term} ." for number, term in enumerate(terms)])
    answer = run_query(store, "SELECT ?o ?none { ?s <urn:p> ?o } ORDER BY ?s")
    assert [str(row[0]) for row in answer.rows] == terms and all(row[1] is None for row in answer.rows)


def test_rows_are_limited(store: LocalStore) -> None:
    answer = run_query(store, "SELECT * { ?s ?p ?o }", rows=3)
    assert len(answer.rows) == 3 and answer.truncated
    assert not run_query(store, "SELECT * { ?s ef:cores ?o }", rows=1).truncated


def test_what_is_not_sparql_is_told_in_a_line(store: LocalStore) -> None:
    with pytest.raises(BadInput, match="query: error at 1:") as caught:
        run_query(store, "SELECT ?x { ?x ?y }")
    assert "\n" not in str(caught.value)


def test_iris_are_shown_short() -> None:
    assert short("https://schema.org/name") == "schema:name"
    assert short("https://w3id.org/tinyml-schema/neural-network-schema/s3n_extend/RAM") == "s3n_extend:RAM"
    assert short("urn:other:x") == "urn:other:x"
    assert shown_term(ox.Literal("7", datatype=ox.NamedNode("http://www.w3.org/2001/XMLSchema#integer"))) == "7"
    assert json_term(ox.Literal("NaN", datatype=ox.NamedNode("http://www.w3.org/2001/XMLSchema#double"))) == "NaN"
