"""A SPARQL 1.1 store elsewhere (`--sparql URL`): the same graphs, through its query and update endpoint.

The protocol is SPARQL 1.1 Protocol, direct POST: queries and updates go to one URL, or to URL?query= and URL?update=
as "QUERY-URL UPDATE-URL". Its default graph must be the union of all graphs (GraphDB and RDF4J do that by themselves,
Fuseki with tdb2:unionDefaultGraph, Oxigraph with --union-default-graph).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import pyoxigraph as ox

from edge.fleet.server.semantic.names import CURSOR_GRAPH, EF, IMPORT, prologue
from edge.fleet.server.semantic.store import Rest
from edge.runtime.errors import BadInput, EdgeError
from edge.runtime.fields import reason

_SECONDS = 60.0
_MAX_ANSWER = 256 << 20
# About 1 MB of update at a time: endpoints limit a request's size.
_BATCH = 8_000
_CURSOR = f"<{CURSOR_GRAPH}> <{EF}eventsApplied>"
_FORM = f"<{CURSOR_GRAPH}> <{EF}form>"
_ESCAPES = re.compile(r"\\\\([uU]?)|\\.")


class RemoteStore:
    """A store behind a SPARQL endpoint.

    Args:
        url: where queries and updates are posted; two URLs with a space between, where they differ.

    Raises:
        BadInput: not an http or https URL.
        EdgeError: from every method: it cannot be reached, or refuses what is asked; the message has its words.
    """

    def __init__(self, url: str) -> None:
        query, _, update = url.partition(" ")
        self._query_url, self._update_url = query, update.strip() or query
        for each in (self._query_url, self._update_url):
            parts = urlsplit(each)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise BadInput(f"--sparql {each!r}: expected an http or https URL")
        # An endpoint that redirects would be a way to make this server call others.
        self._opener = build_opener(_NoRedirect)

    def replace(
        self, graph: str, statements: Iterable[str], cursor: int | None = None, rest: Rest | None = None
    ) -> None:
        name, lines = ox.NamedNode(graph), list(_lines(statements))
        parts = [f"DROP SILENT GRAPH {name}"]
        if lines:
            parts.append(f"INSERT DATA {{ GRAPH {name} {{ {''.join(lines)} }} }}")
        if cursor is not None:
            parts.append(_cursor_update(cursor))
        self._update(";\n".join(parts))

    def remove(self, graph: str, cursor: int | None = None) -> None:
        self.replace(graph, (), cursor)

    def names(self) -> list[str]:
        found = self.query("SELECT DISTINCT ?g WHERE { GRAPH ?g { ?s ?p ?o } }")
        assert isinstance(found, ox.QuerySolutions)
        return sorted(row[0].value for row in found if row[0].value != CURSOR_GRAPH)

    def cursor(self) -> int:
        found = self.query(f"SELECT ?n WHERE {{ GRAPH <{CURSOR_GRAPH}> {{ {_CURSOR} ?n }} }}")
        assert isinstance(found, ox.QuerySolutions)
        counts = [int(row[0].value) for row in found if row[0].value.isdecimal()]
        return max(counts, default=0)

    def form(self) -> str:
        found = self.query(f"SELECT ?form WHERE {{ GRAPH <{CURSOR_GRAPH}> {{ {_FORM} ?form }} }}")
        assert isinstance(found, ox.QuerySolutions)
        return max((row[0].value for row in found), default="")

    def mark(self, cursor: int) -> None:
        self._update(_cursor_update(cursor))

    def fill(self, graphs: Iterable[tuple[str, Iterable[str]]], cursor: int, form: str = "") -> None:
        # Without a cursor first, as in LocalStore.
        self._update(f"DROP SILENT GRAPH <{CURSOR_GRAPH}>")
        for name in self.names():
            if not name.startswith(IMPORT):
                self._update(f"DROP SILENT GRAPH {ox.NamedNode(name)}")
        batch: list[str] = []
        held = 0
        for graph, statements in graphs:
            lines = list(_lines(statements))
            if lines:
                batch.append(f"GRAPH {ox.NamedNode(graph)} {{ {''.join(lines)} }}")
                held += len(lines)
            if held >= _BATCH:
                self._update(f"INSERT DATA {{ {' '.join(batch)} }}")
                batch, held = [], 0
        if batch:
            self._update(f"INSERT DATA {{ {' '.join(batch)} }}")
        self._update(
            f"INSERT DATA {{ GRAPH <{CURSOR_GRAPH}> {{ {_CURSOR} {cursor:d} . {_FORM} {ox.Literal(form)} }} }}"
        )

    def query(self, text: str) -> ox.QuerySolutions | ox.QueryTriples | ox.QueryBoolean:
        accept = "application/sparql-results+json, application/n-triples;q=0.9"
        body, kind = self._post(self._query_url, prologue() + text, "application/sparql-query", accept)
        if kind == "application/n-triples":
            return _graph(body)
        if kind != "application/sparql-results+json":
            raise EdgeError(f"{self._query_url}: answered {kind or 'nothing'}, not SPARQL results: is it an endpoint?")
        try:
            return ox.parse_query_results(body, ox.QueryResultsFormat.JSON)
        except (SyntaxError, ValueError) as error:
            raise EdgeError(f"{self._query_url}: its answer cannot be read: {reason(error)}") from None

    def _update(self, text: str) -> None:
        self._post(self._update_url, text, "application/sparql-update", "*/*")

    def _post(self, url: str, text: str, kind: str, accept: str) -> tuple[bytes, str]:
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Accept": accept}
        request = Request(url, text.encode(), headers, method="POST")  # noqa: S310  (http or https, checked)
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                body = answer.read(_MAX_ANSWER + 1)
                answered = answer.headers.get_content_type()
        except HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise EdgeError(f"{url}: refused ({error.code}): {' '.join(said.split())[:200]}") from None
        except (URLError, OSError, ValueError) as error:
            cause = error.reason if isinstance(error, URLError) else error
            told = reason(cause) if isinstance(cause, BaseException) else str(cause)
            raise EdgeError(f"{url}: cannot be reached: {told}") from None
        if len(body) > _MAX_ANSWER:
            raise EdgeError(f"{url}: its answer is larger than {_MAX_ANSWER >> 20} MB: ask for less")
        return body, answered


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _graph(body: bytes) -> ox.QueryTriples:
    """N-Triples as the result of a query, so that callers see one kind of answer."""
    store = ox.Store()
    store.load(body, ox.RdfFormat.N_TRIPLES)
    made = store.query("CONSTRUCT WHERE { ?s ?p ?o }")
    assert isinstance(made, ox.QueryTriples)
    return made


def _lines(statements: Iterable[str]) -> Iterator[str]:
    # SPARQL 19.2 lets an engine put \uXXXX in place before it reads quotes, which would end a literal whose text has a
    # backslash before a u: that u is written as an escape itself, which every engine reads alike.
    for statement in statements:
        yield _ESCAPES.sub(_spelt, statement) + "\n" if "\\\\" in statement else statement + "\n"


def _spelt(escape: re.Match[str]) -> str:
    return f"\\\\\\u{ord(escape[1]):04X}" if escape[1] else escape[0]


def _cursor_update(cursor: int) -> str:
    graph = f"GRAPH <{CURSOR_GRAPH}>"
    return f"DELETE WHERE {{ {graph} {{ {_CURSOR} ?before }} }};\nINSERT DATA {{ {graph} {{ {_CURSOR} {cursor:d} }} }}"
