"""The projection: what the registry holds, as linked data. It follows events, and can be made anew at any time.

Applying an event twice, or one that a rebuild already saw, changes nothing: each carries the whole thing, and the
number of the last one is kept with the triples. A description that semantics cannot read (a hostile inventory) never
stops it: the thing has no graph then, a warning names it, and a rebuild does the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import pyoxigraph as ox

from edge.fleet.server.semantic.contexts import vocabulary
from edge.fleet.server.semantic.expansion import triples_of
from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.names import VOCABULARY_GRAPH, device_iri, model_iri
from edge.fleet.server.semantic.network import network_description
from edge.fleet.server.semantic.registry import Event, Registry
from edge.fleet.server.semantic.store import Graphs
from edge.fleet.server.semantic.thing import DEFAULT_BROKER, thing_description
from edge.runtime.errors import EdgeError

_LOG = logging.getLogger(__name__)

# So many events behind, a rebuild is less work than following them one by one.
REBUILD_BEHIND = 20_000


class Projection:
    """Keeps a store equal to the registry.

    Args:
        broker: the URL that the forms of Thing Descriptions lead to.
    """

    def __init__(self, store: Graphs, broker: str = DEFAULT_BROKER) -> None:
        self.store = store
        self._broker = broker
        self._cursor = store.cursor()
        store.replace(VOCABULARY_GRAPH, vocabulary_triples())

    @property
    def cursor(self) -> int:
        """The number of the last event that the store holds."""
        return self._cursor

    def apply(self, event: Event) -> bool:
        """Brings one event into the store; False if it was there already.

        Raises:
            EdgeError: the store cannot be written; the event was not applied.
        """
        if event.id <= self._cursor:
            return False
        graph = self._graph_of(event)
        if graph is None:
            self.store.mark(event.id)
        else:
            self.store.replace(graph, self._triples(event.kind, event.subject, event.body) or (), event.id)
        self._cursor = event.id
        return True

    def follow(self, registry: Registry) -> int:
        """Applies every event since the cursor, or rebuilds if there are very many; how many there were."""
        last = registry.last_event()
        behind = last - self._cursor
        if behind < 0 or behind > REBUILD_BEHIND or (behind and self._cursor == 0):
            self.rebuild(registry)
            return max(behind, 0)
        count = sum(self.apply(event) for event in registry.events(self._cursor))
        if last > self._cursor:
            # Events of other kinds: without a mark, they would look like so many that are left to do.
            self.store.mark(last)
            self._cursor = last
        return count

    def rebuild(self, registry: Registry) -> None:
        """Makes the store anew from all devices and models; the result is what following the events gives.

        Imports are kept. What changes in the registry meanwhile is applied again by the next `follow`.
        """
        # Read first: an event that comes while we read is applied twice rather than never.
        last = registry.last_event()
        self.store.fill(self._graphs(registry), last)
        self._cursor = last

    def _graphs(self, registry: Registry) -> Iterable[tuple[str, Iterable[ox.Triple]]]:
        yield VOCABULARY_GRAPH, vocabulary_triples()
        for device, body in registry.devices():
            yield device_iri(device), self._triples("device.changed", device, body) or ()
        for model, body in registry.models():
            yield _model_graph(model), self._triples("model.published", model, body) or ()

    def _graph_of(self, event: Event) -> str | None:
        if event.kind in ("device.changed", "device.removed"):
            return device_iri(event.subject)
        if event.kind in ("model.published", "model.removed"):
            return _model_graph(event.subject)
        return None

    def _triples(self, kind: str, subject: str, body: Mapping[str, Any]) -> list[ox.Triple] | None:
        try:
            if kind == "device.changed":
                if body.get("state") == "revoked":
                    return None  # nobody finds it, nothing is sent to it
                return triples_of(thing_description(DeviceFacts.from_body(subject, body), self._broker))
            if kind == "model.published":
                model = ModelFacts.from_published(body)
                if model.key != subject:
                    raise EdgeError(f"model {subject!r}: its manifest says {model.key!r}")
                return triples_of(network_description(model))
        except (EdgeError, ValueError) as error:
            _LOG.warning("not described: %s", error)
        return None


@cache
def vocabulary_triples() -> tuple[ox.Triple, ...]:
    """The classes and properties that descriptions use, as far as queries ask about them (subclasses, labels)."""
    texts = [vocabulary(name).encode() for name in ("fleet.ttl", "standards.ttl")]
    return tuple(quad.triple for text in texts for quad in ox.parse(text, ox.RdfFormat.TURTLE))


def _model_graph(key: str) -> str:
    name, _, version = key.partition(":")
    return model_iri(name, version)
