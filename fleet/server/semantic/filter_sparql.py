"""Filters as SPARQL: the same devices as `filters.matches` finds, from the shortcut properties of `thing`.

Every value becomes a literal or an IRI through pyoxigraph's or RFC 3987's escaping; none is ever pasted into a query.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyoxigraph as ox

from edge.fleet.server.semantic.filters import All, Any_, Comparison, Filter, Not
from edge.fleet.server.semantic.names import EF, device_iri, device_of, label_iri
from edge.fleet.server.semantic.store import Graphs

_NUMBERS = {"ram": EF + "ramBytes", "flash": EF + "flashBytes", "cores": EF + "cores"}
_TEXTS = {
    "sensor": EF + "hasSensorType",
    "building": EF + "inBuilding",
    "holds": EF + "holdsModelVersion",
    "operator": EF + "hasOperator",
    "dtype": EF + "supportsDtype",
    "kind": EF + "kind",
    "arch": EF + "arch",
    "cpu": EF + "cpu",
    "feature": EF + "hasFeature",
    "group": EF + "inGroup",
    "gateway": EF + "behindGateway",
    "os": EF + "os",
    "board": EF + "board",
    "target": EF + "target",
}
# Few devices share the first, most share the last: pyoxigraph keeps the order of patterns that it deems equal, and
# starting from a building instead of from "int8" is twenty times less work.
_NARROW_FIRST = (
    *("id", "gateway", "label", "building", "group", "holds", "model"),
    *("board", "target", "cpu", "sensor", "feature", "operator", "runtime"),
)


def to_sparql(filter_: Filter) -> str:
    """The query whose ?device are those that match."""
    parts = list(_conjuncts(filter_))
    held = [part for part in parts if isinstance(part, Comparison) and part.operator != "!="]
    anchors = [part for part in held if part.number is None]
    numbers = [part for part in held if part.number is not None]
    rest = [part for part in parts if part not in held]
    lines = [_pattern(part) for part in sorted(anchors, key=_rank)]
    # Only devices have shortcut properties, so the class is asked for only where nothing else was.
    if not lines or any(part.key == "id" for part in anchors):
        lines.append(f"?device a <{EF}Device> .")
    for index, part in enumerate(numbers):
        lines.append(f"?device <{_NUMBERS[part.key]}> ?n{index} . FILTER(?n{index} {part.operator} {part.number})")
    lines += [f"FILTER({_expression(part)})" for part in rest]
    return "SELECT ?device WHERE {\n  " + "\n  ".join(lines) + "\n}"


def find_devices(store: Graphs, filter_: Filter) -> list[str]:
    """The ids of the devices that match, sorted."""
    found = store.query(to_sparql(filter_))
    assert isinstance(found, ox.QuerySolutions)
    ids = {device_of(row[0].value) for row in found if isinstance(row[0], ox.NamedNode)}
    return sorted(each for each in ids if each is not None)


def _conjuncts(filter_: Filter) -> Iterator[Filter]:
    if isinstance(filter_, All):
        for part in filter_.parts:
            yield from _conjuncts(part)
    else:
        yield filter_


def _rank(part: Comparison) -> int:
    key = part.key.partition(".")[0]
    return _NARROW_FIRST.index(key) if key in _NARROW_FIRST else len(_NARROW_FIRST)


def _property(part: Comparison) -> str:
    if part.key.startswith("label."):
        return label_iri(part.key[len("label.") :])
    if part.key == "model":
        return EF + ("runsModelVersion" if ":" in part.value else "runsModel")
    if part.key == "runtime":
        return EF + ("hasRuntimeVersion" if ":" in part.value else "hasRuntime")
    return _TEXTS[part.key]


def _pattern(part: Comparison) -> str:
    """A triple pattern that holds for `key=value`."""
    if part.key == "id":
        return f"VALUES ?device {{ <{device_iri(part.value)}> }}"
    return f"?device <{_property(part)}> {ox.Literal(part.value)} ."


def _expression(filter_: Filter) -> str:
    if isinstance(filter_, Not):
        return f"(!{_expression(filter_.part)})"
    if isinstance(filter_, All):
        return "(" + " && ".join(map(_expression, filter_.parts)) + ")"
    if isinstance(filter_, Any_):
        return "(" + " || ".join(map(_expression, filter_.parts)) + ")"
    operator = "=" if filter_.operator == "!=" else filter_.operator
    if filter_.number is not None:
        held = f"EXISTS {{ ?device <{_NUMBERS[filter_.key]}> ?n FILTER(?n {operator} {filter_.number}) }}"
    elif filter_.key == "id":
        held = f"(?device = <{device_iri(filter_.value)}>)"
    else:
        held = f"EXISTS {{ {_pattern(filter_)} }}"
    return f"(!{held})" if filter_.operator == "!=" else held
