"""Where the triples are: a store of our own (pyoxigraph, in memory or on disk), one named graph per thing.

Queries see the union of all graphs. Writes compare a thing's new statements with its old ones and send the difference,
with the cursor of the event that brought them, as one SPARQL update: one transaction, so that a crash leaves either the
old description and the old cursor, or the new ones. `edge.fleet.server.semantic.endpoint` is the same for a store
elsewhere. A statement is a line of N-Triples (`expansion`).
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyoxigraph as ox

from edge.fleet.server.semantic.names import CURSOR_GRAPH, EF, IMPORT, PREFIXES
from edge.runtime.errors import EdgeError
from edge.runtime.fields import reason

_log = logging.getLogger("edge.fleet.semantic")

_CURSOR_SUBJECT = ox.NamedNode(CURSOR_GRAPH)
_CURSOR_PROPERTY = ox.NamedNode(EF + "eventsApplied")
_FORM_PROPERTY = ox.NamedNode(EF + "form")

Results = ox.QuerySolutions | ox.QueryTriples | ox.QueryBoolean


# From the properties of the thing that a graph is named after, what else the graph holds.
Rest = Callable[[list[tuple[str, Any]]], Iterable[str]]


class Graphs(Protocol):
    """A store of named graphs."""

    def replace(
        self, graph: str, statements: Iterable[str], cursor: int | None = None, rest: Rest | None = None
    ) -> None:
        """Makes `statements` all that is in the graph, and remembers `cursor`, both or neither.

        Args:
            rest: where the graph is known to be a function of its own thing's properties, that function: a store may
                then read these alone.
        """

    def remove(self, graph: str, cursor: int | None = None) -> None:
        """Removes a graph, if there is one."""

    def names(self) -> list[str]:
        """The IRIs of the graphs that hold something, without the cursor's."""

    def cursor(self) -> int:
        """The number of the last event that was applied; 0: none."""

    def form(self) -> str:
        """What `fill` was told of how its descriptions were made; "": it never was."""

    def mark(self, cursor: int) -> None:
        """Remembers `cursor`."""

    def fill(self, graphs: Iterable[tuple[str, Iterable[str]]], cursor: int, form: str = "") -> None:
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
        self.on_disk = folder is not None
        if folder is None:
            self._store = ox.Store()
        else:
            try:
                self._store = _opened(folder)
            except OSError as error:
                raise StoreInUse(f"{folder}: the semantic store cannot be opened: {reason(error)[:160]}") from None
        # Known rather than looked for: a pattern in an update costs as much as ten statements.
        self._cursor = max((int(each) for each in self._marks(_CURSOR_PROPERTY) if each.isdecimal()), default=0)

    def replace(
        self, graph: str, statements: Iterable[str], cursor: int | None = None, rest: Rest | None = None
    ) -> None:
        name, new = ox.NamedNode(graph), set(statements)
        old = self._statements(name) if rest is None else self._followed(name, rest)
        gone, come = old - new, new - old
        if any(line.startswith("_:") or line.split(" ", 2)[2].startswith("_:") for line in gone):
            raise EdgeError(f"{graph}: holds blank nodes, which nothing of ours writes: rebuild the store")
        parts = []
        if gone:
            parts.append(f"DELETE DATA {{ GRAPH {name} {{ {' '.join(gone)} }} }}")
        if come:
            parts.append(f"INSERT DATA {{ GRAPH {name} {{ {' '.join(come)} }} }}")
        if not new and old:
            parts.append(f"DROP SILENT GRAPH {name}")
        if cursor is not None and cursor != self._cursor:
            parts.append(self._cursor_update(cursor))
        if parts:
            self._store.update(";\n".join(parts))
        if cursor is not None:
            self._cursor = cursor

    def remove(self, graph: str, cursor: int | None = None) -> None:
        self.replace(graph, (), cursor)

    def names(self) -> list[str]:
        found = [graph.value for graph in self._store.named_graphs() if isinstance(graph, ox.NamedNode)]
        return sorted(name for name in found if name != CURSOR_GRAPH)

    def cursor(self) -> int:
        return self._cursor

    def form(self) -> str:
        return max(self._marks(_FORM_PROPERTY), default="")

    def mark(self, cursor: int) -> None:
        self._store.update(self._cursor_update(cursor))
        self._cursor = cursor

    def fill(self, graphs: Iterable[tuple[str, Iterable[str]]], cursor: int, form: str = "") -> None:
        # Without a cursor first: a crash half-way leaves none, and the whole work is done again.
        kept = [quad for quad in self._store if _is_import(quad.graph_name)]
        self._cursor = 0
        self._store.clear()
        self._store.extend(kept)
        self._store.bulk_load(io.BufferedReader(_NQuads(graphs), 1 << 20), ox.RdfFormat.N_QUADS)
        if self.on_disk:
            # What was loaded lies in many small files; looking things up in them takes ten times as long.
            self._store.optimize()
        marks = ((_CURSOR_PROPERTY, ox.Literal(cursor)), (_FORM_PROPERTY, ox.Literal(form)))
        self._store.extend([ox.Quad(_CURSOR_SUBJECT, name, value, _CURSOR_SUBJECT) for name, value in marks])
        if self.on_disk:
            self._store.flush()
        self._cursor = cursor

    def query(self, text: str) -> Results:
        # SERVICE is refused before; a store that is never asked to federate opens no connection.
        return self._store.query(text, use_default_graph_as_union=True, prefixes=dict(PREFIXES))

    def __len__(self) -> int:
        return len(self._store)

    def _statements(self, graph: ox.NamedNode) -> set[str]:
        """What a graph holds. Written by the engine, in one go: term by term takes a third longer."""
        text = self._store.dump(format=ox.RdfFormat.N_TRIPLES, from_graph=graph)
        assert text is not None
        return set(text.decode().split("\n")[:-1])

    def _followed(self, graph: ox.NamedNode, rest: Rest) -> set[str]:
        """The same, of a graph whose other parts follow from its thing itself: 0.15 ms, where that takes 0.35."""
        found = self._store.query(f"SELECT ?p ?o {{ GRAPH {graph} {{ {graph} ?p ?o }} }}")
        assert isinstance(found, ox.QuerySolutions)
        own = [(row[0].value, row[1]) for row in found]
        if not own:
            return set()
        return {f"{graph} <{name}> {term} ." for name, term in own}.union(rest(own))

    def _marks(self, name: ox.NamedNode) -> list[str]:
        found = self._store.quads_for_pattern(_CURSOR_SUBJECT, name, None, _CURSOR_SUBJECT)
        return [quad.object.value for quad in found if isinstance(quad.object, ox.Literal)]

    def _cursor_update(self, cursor: int) -> str:
        graph, what = _CURSOR_SUBJECT, f"{_CURSOR_SUBJECT} {_CURSOR_PROPERTY}"
        return (
            f"DELETE DATA {{ GRAPH {graph} {{ {what} {self._cursor:d} }} }};\n"
            f"INSERT DATA {{ GRAPH {graph} {{ {what} {cursor:d} }} }}"
        )


def _opened(folder: Path) -> ox.Store:
    """The store in a folder. One that is damaged is put aside: all that was in it is made anew out of the registry."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ox.Store(str(folder))
    except FileExistsError:  # a file in its place
        why = "it is no folder"
    except RuntimeError as error:  # RocksDB's "Corruption: …"
        why = reason(error)[:160]
    aside = folder.with_name(f"{folder.name}.damaged-{int(time.time())}")
    folder.rename(aside)
    _log.warning("%s: the semantic store is damaged (%s): put aside as %s, and made anew", folder, why, aside.name)
    folder.mkdir(mode=0o700)
    return ox.Store(str(folder))


def _is_import(graph: object) -> bool:
    return isinstance(graph, ox.NamedNode) and graph.value.startswith(IMPORT)


class StoreInUse(EdgeError):
    """The store's folder cannot be opened, for the most part because another command has it."""


class _NQuads(io.RawIOBase):
    """Graphs as a file of N-Quads, made as it is read: a hundred thousand devices are a gigabyte."""

    def __init__(self, graphs: Iterable[tuple[str, Iterable[str]]]) -> None:
        super().__init__()
        self._lines = self._made(graphs)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._left or next(self._lines, b"")
        size = min(len(data), len(buffer))
        buffer[:size], self._left = data[:size], data[size:]
        return size

    @staticmethod
    def _made(graphs: Iterable[tuple[str, Iterable[str]]]) -> Iterator[bytes]:
        for graph, statements in graphs:
            end = f"{ox.NamedNode(graph)} .\n"
            lines = "".join([f"{statement[:-1]}{end}" for statement in statements])
            if lines:
                yield lines.encode()
