"""The projection: what the registry holds, as linked data. It follows events, and can be made anew at any time.

Applying an event twice, or one that a rebuild already saw, changes nothing: each carries the whole thing, and the
number of the last one is kept with the triples. A description that semantics cannot read (a hostile inventory) never
stops it: the thing has no graph then, a warning names it, and a rebuild does the same.

A store is made anew by itself where following cannot make it equal to the registry: it is new or lost, was made by
another edge or for another broker (its `form` differs), or the events since its cursor are no longer kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from typing import Any

import pyoxigraph as ox

from edge.fleet.server.semantic.contexts import vocabulary
from edge.fleet.server.semantic.expansion import statements, statements_of
from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.names import VOCABULARY_GRAPH, device_iri, model_iri
from edge.fleet.server.semantic.network import network_description
from edge.fleet.server.semantic.registry import Event, Registry
from edge.fleet.server.semantic.store import Graphs
from edge.fleet.server.semantic.thing import DEFAULT_BROKER, facts_of_parts, thing_description
from edge.runtime.errors import EdgeError

_LOG = logging.getLogger(__name__)

# So many events behind, a rebuild is less work than following them.
REBUILD_BEHIND = 20_000
_PAGE = 1_000
# All that decides which triples a thing has.
_FORM = (
    *("contexts.py", "expansion.py", "facts.py", "names.py", "network.py", "projection.py", "thing.py"),
    *(f"vocabulary/{name}" for name in ("fleet.jsonld", "fleet.ttl", "standards.ttl", "td-1.1.jsonld")),
)


class Projection:
    """Keeps a store equal to the registry.

    Args:
        broker: the URL that the forms of Thing Descriptions lead to.
    """

    def __init__(self, store: Graphs, broker: str = DEFAULT_BROKER) -> None:
        self.store = store
        self._broker = broker
        self._form = form(broker)
        self._cursor = store.cursor()
        self._other_form = store.form() != self._form
        if self._other_form:
            store.replace(VOCABULARY_GRAPH, vocabulary_statements())

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
            made = self._statements(event.kind, event.subject, event.body)
            self.store.replace(graph, made, event.id, self._rest if event.kind.startswith("device.") else None)
        self._cursor = event.id
        return True

    def follow(self, registry: Registry) -> int:
        """Applies every event since the cursor, or rebuilds where that is not enough; how many there were."""
        last = registry.last_event()
        behind = last - self._cursor
        if not 0 <= behind <= REBUILD_BEHIND or self._other_form or (behind and self._pruned(registry)):
            self.rebuild(registry)
            return max(behind, 0)
        count = 0
        events = iter(registry.events(self._cursor))
        while page := list(islice(events, _PAGE)):
            count += len(page)
            # Each event carries the whole thing, so the newest of each is enough. In the order of their numbers: what
            # a crash leaves out has a number above the cursor's.
            newest = {(event.kind.partition(".")[0], event.subject): event for event in page}
            for event in sorted(newest.values(), key=lambda event: event.id):
                self.apply(event)
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
        self.store.fill(self._graphs(registry), last, self._form)
        self._cursor, self._other_form = last, False

    def _pruned(self, registry: Registry) -> bool:
        """Whether events that the store has not seen are gone."""
        first = registry.first_event()
        return self._cursor == 0 or first > self._cursor + 1

    def _graphs(self, registry: Registry) -> Iterator[tuple[str, Iterable[str]]]:
        yield VOCABULARY_GRAPH, vocabulary_statements()
        for device, body in registry.devices():
            yield device_iri(device), self._statements("device.changed", device, body)
        for model, body in registry.models():
            yield _model_graph(model), self._statements("model.published", model, body)

    def _rest(self, own: list[tuple[str, Any]]) -> list[str]:
        """What a device's graph holds beside its own properties, from these."""
        facts = facts_of_parts(own)
        itself = f"<{device_iri(facts.id)}> "
        made = statements_of(thing_description(facts, self._broker))
        return [statement for statement in made if not statement.startswith(itself)]

    def _graph_of(self, event: Event) -> str | None:
        if event.kind in ("device.changed", "device.removed"):
            return device_iri(event.subject)
        if event.kind in ("model.published", "model.removed"):
            return _model_graph(event.subject)
        return None

    def _statements(self, kind: str, subject: str, body: Mapping[str, Any]) -> list[str]:
        try:
            if kind == "device.changed":
                if body.get("state") == "revoked":
                    return []  # nobody finds it, nothing is sent to it
                return statements_of(thing_description(DeviceFacts.from_body(subject, body), self._broker))
            if kind == "model.published":
                model = ModelFacts.from_published(body)
                if model.key != subject:
                    raise EdgeError(f"model {subject!r}: its manifest says {model.key!r}")
                return statements_of(network_description(model))
        except (EdgeError, ValueError) as error:
            _LOG.warning("not described: %s", error)
        return []


@cache
def vocabulary_statements() -> tuple[str, ...]:
    """The classes and properties that descriptions use, as far as queries ask about them (subclasses, labels)."""
    texts = [vocabulary(name).encode() for name in ("fleet.ttl", "standards.ttl")]
    return tuple(statements(quad.triple for text in texts for quad in ox.parse(text, ox.RdfFormat.TURTLE)))


@cache
def form(broker: str) -> str:
    """A name for how things are described: another where this code, its vocabularies or the broker are others."""
    package = files("edge.fleet.server.semantic")
    parts = [package.joinpath(*name.split("/")).read_bytes() for name in _FORM]
    return sha256(b"\0".join([broker.encode(), *parts])).hexdigest()[:16]


def _model_graph(key: str) -> str:
    name, _, version = key.partition(":")
    return model_iri(name, version)
