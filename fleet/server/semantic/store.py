"""Where the triples are: a store of our own (pyoxigraph, in memory or on disk), one named graph per thing.

Queries see the union of all graphs. Writes compare a thing's new triples with its old ones and send the difference,
with the cursor of the event that brought them, as one SPARQL update: one transaction, so that a crash leaves either the
old description and the old cursor, or the new ones. `edge.fleet.server.semantic.endpoint` is the same for a store
elsewhere.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pyoxigraph as ox

from edge.fleet.server.semantic.names import CURSOR_GRAPH, EF, IMPORT, PREFIXES
from edge.runtime.errors import EdgeError
from edge.runtime.fields import reason

_CURSOR_SUBJECT = ox.NamedNode(CURSOR_GRAPH)
_CURSOR_PROPERTY = ox.NamedNode(EF + "eventsApplied")

Results = ox.QuerySolutions | ox.QueryTriples | ox.QueryBoolean


class Graphs(Protocol):
    """A store of named graphs."""

    def replace(self, graph: str, triples: Iterable[ox.Triple], cursor: int | None = None) -> None:
        """Makes `triples` all that is in the graph, and remembers `cursor`, both or neither."""

    def remove(self, graph: str, cursor: int | None = None) -> None:
        """Removes a graph, if there is one."""

    def names(self) -> list[str]:
        """The IRIs of the graphs that hold something, without the cursor's."""

    def cursor(self) -> int:
        """The number of the last event that was applied; 0: none."""

    def mark(self, cursor: int) -> None:
        """Remembers `cursor`."""

    def fill(self, graphs: Iterable[tuple[str, Iterable[ox.Triple]]], cursor: int) -> None:
        """Makes `graphs` all that there is beside the imports, quickly."""

    def query(self, text: str) -> Results:
        """Runs a query that `edge.fleet.server.semantic.query` has checked."""


class LocalStore:
    """A store in this process.

    Args:
        folder: where it is kept; None: in memory.

    Raises:
        EdgeError: the folder cannot be used, or another process has the store open.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # Reading a graph back from disk takes longer than all else of an update, so the last ones are remembered.
        self.on_disk = folder is not None
        self._recent = _Recent() if self.on_disk else None
        if folder is None:
            self._store = ox.Store()
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = ox.Store(str(folder))
        except OSError as error:
            raise StoreInUse(f"{folder}: the semantic store cannot be opened: {reason(error)[:160]}") from None

    def replace(self, graph: str, triples: Iterable[ox.Triple], cursor: int | None = None) -> None:
        self._write(graph, set(triples), cursor)

    def remove(self, graph: str, cursor: int | None = None) -> None:
        self._write(graph, set(), cursor)

    def names(self) -> list[str]:
        found = [graph.value for graph in self._store.named_graphs() if isinstance(graph, ox.NamedNode)]
        return sorted(name for name in found if name != CURSOR_GRAPH)

    def cursor(self) -> int:
        for quad in self._store.quads_for_pattern(_CURSOR_SUBJECT, _CURSOR_PROPERTY, None, None):
            if isinstance(quad.object, ox.Literal) and quad.object.value.isdecimal():
                return int(quad.object.value)
        return 0

    def mark(self, cursor: int) -> None:
        self._store.update(_set_cursor(cursor))

    def fill(self, graphs: Iterable[tuple[str, Iterable[ox.Triple]]], cursor: int) -> None:
        # Without a cursor first: a crash half-way leaves none, and the whole work is done again.
        kept = [quad for quad in self._store if _is_import(quad.graph_name)]
        if self._recent is not None:
            self._recent.clear()
        self._store.clear()
        self._store.extend(kept)
        self._store.bulk_extend(
            ox.Quad(triple.subject, triple.predicate, triple.object, ox.NamedNode(name))
            for name, triples in graphs
            for triple in triples
        )
        if self.on_disk:
            # What was loaded lies in many small files; looking things up in them takes ten times as long.
            self._store.optimize()
        self._store.add(ox.Quad(_CURSOR_SUBJECT, _CURSOR_PROPERTY, ox.Literal(cursor), _CURSOR_SUBJECT))
        if self.on_disk:
            self._store.flush()

    def query(self, text: str) -> Results:
        # SERVICE is refused before; a store that is never asked to federate opens no connection.
        return self._store.query(text, use_default_graph_as_union=True, prefixes=dict(PREFIXES))

    def triples(self, graph: str) -> Iterator[ox.Triple]:
        """The triples of one graph."""
        for quad in self._store.quads_for_pattern(None, None, None, ox.NamedNode(graph)):
            yield quad.triple

    def __len__(self) -> int:
        return len(self._store)

    def _write(self, graph: str, new: set[ox.Triple], cursor: int | None) -> None:
        name = ox.NamedNode(graph)
        old = self._recent.take(graph) if self._recent is not None else None
        if old is None:
            old = {quad.triple for quad in self._store.quads_for_pattern(None, None, None, name)}
        gone, come = old - new, new - old
        if any(isinstance(term, ox.BlankNode) for triple in gone for term in (triple.subject, triple.object)):
            raise EdgeError(f"{graph}: holds blank nodes, which nothing of ours writes: rebuild the store")
        parts = []
        if gone:
            parts.append(f"DELETE DATA {{ GRAPH {name} {{ {_lines(gone)} }} }}")
        if come:
            parts.append(f"INSERT DATA {{ GRAPH {name} {{ {_lines(come)} }} }}")
        if not new and old:
            parts.append(f"DROP SILENT GRAPH {name}")
        if cursor is not None:
            parts.append(_set_cursor(cursor))
        if parts:
            self._store.update(";\n".join(parts))
        if self._recent is not None:
            self._recent.put(graph, new)


def _is_import(graph: object) -> bool:
    return isinstance(graph, ox.NamedNode) and graph.value.startswith(IMPORT)


class StoreInUse(EdgeError):
    """The store's folder cannot be opened, for the most part because another command has it."""


class _Recent:
    """What the graphs that were written last hold, as packed N-Triples: about 1 KB a device.

    A graph is taken out before it is written and put back when that is done: after an error it is read from disk.
    """

    _MOST = 20_000

    def __init__(self) -> None:
        self._packed: OrderedDict[str, bytes] = OrderedDict()

    def take(self, graph: str) -> set[ox.Triple] | None:
        packed = self._packed.pop(graph, None)
        if packed is None:
            return None
        return {quad.triple for quad in ox.parse(zlib.decompress(packed), ox.RdfFormat.N_TRIPLES)}

    def put(self, graph: str, triples: set[ox.Triple]) -> None:
        self._packed[graph] = zlib.compress(_lines(triples).encode(), 1)
        if len(self._packed) > self._MOST:
            self._packed.popitem(last=False)

    def clear(self) -> None:
        self._packed.clear()


def _set_cursor(cursor: int) -> str:
    what = f"{_CURSOR_SUBJECT} {_CURSOR_PROPERTY}"
    return (
        f"DELETE WHERE {{ GRAPH {_CURSOR_SUBJECT} {{ {what} ?before }} }};\n"
        f"INSERT DATA {{ GRAPH {_CURSOR_SUBJECT} {{ {what} {int(cursor)} }} }}"
    )


def _lines(triples: Iterable[ox.Triple]) -> str:
    # str() of a triple is its N-Triples form, escaped by pyoxigraph: it is SPARQL too.
    return "\n".join(f"{triple} ." for triple in triples)
