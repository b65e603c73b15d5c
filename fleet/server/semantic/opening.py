"""The projection of a fleet's folder, opened, caught up, and asked: what commands and services begin with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.fleet.server.database import Database
from edge.fleet.server.semantic.endpoint import RemoteStore
from edge.fleet.server.semantic.exchange import import_graph, read_import
from edge.fleet.server.semantic.expansion import statements
from edge.fleet.server.semantic.filter_sparql import find_devices
from edge.fleet.server.semantic.filters import parse
from edge.fleet.server.semantic.projection import Projection
from edge.fleet.server.semantic.registry import Registry
from edge.fleet.server.semantic.sql import SqlRegistry
from edge.fleet.server.semantic.store import Graphs, LocalStore, StoreInUse
from edge.fleet.server.state import Settings, State
from edge.runtime.whole_file import whole_file

_LOG = logging.getLogger(__name__)


class Semantics:
    """The projection of one fleet, beside its registry.

    The store is the endpoint that the fleet's settings or `sparql` name, else the folder `semantic/store`. A folder
    that another process has open (another command) is not waited for: the projection is then made in memory.
    """

    def __init__(self, state: State, database: Database, sparql: str = "") -> None:
        settings = state.settings()
        self._imports = state.semantic / "imports"
        self.registry: Registry = SqlRegistry(database)
        self.projection = Projection(_store(state, sparql or settings.sparql), broker_url(settings))
        self._load_imports()
        self.follow()

    @property
    def kept(self) -> bool:
        """Whether the store outlives this process: False for one in memory, beside another command."""
        return not isinstance(self.store, LocalStore) or self.store.on_disk

    @property
    def store(self) -> Graphs:
        return self.projection.store

    def follow(self) -> int:
        """Catches up with the registry; how many events there were."""
        return self.projection.follow(self.registry)

    def select(self, where: str) -> list[str]:
        """The ids of the devices that a filter names, as the registry is now.

        Raises:
            BadInput: the filter cannot be read.
        """
        wanted = parse(where)
        self.follow()
        return find_devices(self.store, wanted)

    def add_import(self, path: Path, name: str) -> int:
        """Imports a file of foreign descriptions under a name, in place of what had that name; how many triples.

        Raises:
            BadFile, BadInput: it cannot be read, or speaks of the fleet's own things.
        """
        read = statements(read_import(path, name))
        self._imports.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Kept as a file, too: a store that is made anew has its imports from there.
        with whole_file(self._imports / f"{name}.nt") as file:
            file.write("".join(f"{statement}\n" for statement in read).encode())
        self.store.replace(import_graph(name), read)
        return len(read)

    def remove_import(self, name: str) -> bool:
        """Removes an import; False if there is none of that name."""
        path = self._imports / f"{name}.nt"
        existed = path.exists()
        path.unlink(missing_ok=True)
        self.store.remove(import_graph(name))
        return existed

    def _load_imports(self) -> None:
        held = set(self.store.names()) if self._imports.is_dir() else set()
        for path in sorted(self._imports.glob("*.nt")):
            if import_graph(path.stem) not in held:
                self.store.replace(import_graph(path.stem), statements(read_import(path, path.stem)))


@contextmanager
def opened_store(folder: Path, sparql: str = "") -> Iterator[Graphs]:
    """The store of the fleet in a folder, caught up; for `asking.run_query`, which opens it in a process of its own."""
    state = State.existing(folder)
    database = state.database()
    try:
        yield Semantics(state, database, sparql).store
    finally:
        database.close()


def _store(state: State, sparql: str) -> Graphs:
    if sparql:
        return RemoteStore(sparql)
    try:
        return LocalStore(state.semantic / "store")
    except StoreInUse as error:
        _LOG.info("%s; the projection is made in memory", error)
        return LocalStore()


def broker_url(settings: Settings) -> str:
    """Where the fleet's broker is, for the forms of Thing Descriptions."""
    return settings.broker or f"mqtts://{settings.names[0] if settings.names else 'localhost'}:{settings.port}"
