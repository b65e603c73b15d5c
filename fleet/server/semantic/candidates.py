"""The registry's devices and models as facts, filtered and matched: straight from SQL, without the semantic store.

Nothing is kept between two questions, so nothing can be stale. Ten thousand devices are quick all the same: most of
them are alike in all that a match looks at, and what is alike is read and compared once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.filters import matches, parse
from edge.fleet.server.semantic.match import Match, match, match_devices, version_key
from edge.fleet.server.semantic.registry import Registry
from edge.runtime.errors import BadFile, BadInput

Told = Callable[[str], None]
"""Takes the line that says why a device cannot be read."""


def devices(registry: Registry, where: str | None, told: Told) -> Iterator[DeviceFacts]:
    """The devices that are not revoked, can be read, and pass a filter.

    Raises:
        BadInput: the filter cannot be read.
    """
    wanted = None if where is None else parse(where)
    for device, body in registry.devices():
        if body.get("state") == "revoked":
            continue
        try:
            facts = DeviceFacts.from_body(device, body)
        except BadFile as error:
            told(str(error))
            continue
        if wanted is None or matches(wanted, facts):
            yield facts


def device(registry: Registry, name: str, told: Told) -> DeviceFacts:
    """One device.

    Raises:
        BadInput: there is none of that id, or it is revoked or cannot be read.
    """
    found = next((each for each in devices(registry, None, told) if each.id == name), None)
    if found is None:
        raise BadInput(f"{name}: no such device in this fleet")
    return found


def match_all(registry: Registry, model: ModelFacts, where: str | None, told: Told) -> list[Match]:
    """`match` of a model with every device that is not revoked, or with those that pass a filter; sorted by id.

    Raises:
        BadInput: the filter cannot be read.
    """
    if where is not None:
        return match_devices(model, devices(registry, where, told))
    made: list[Match] = []
    known: dict[str, Match | None] = {}
    for name, text in registry.capabilities():
        if text not in known:
            try:
                known[text] = match(model, DeviceFacts.from_inventory(name, json.loads(text)))
            except BadFile as error:
                told(str(error))
                known[text] = None
        found = known[text]
        if found is not None:
            made.append(replace(found, device=name))
    return made


def models(registry: Registry) -> list[ModelFacts]:
    """Every published model."""
    return [ModelFacts.from_published(body) for _, body in registry.models()]


def model(registry: Registry, name: str) -> ModelFacts:
    """A published model: "kws:2.1", or "kws", its newest version.

    Raises:
        BadInput: there is none of that name.
    """
    wanted, _, version = name.partition(":")
    found = [each for each in models(registry) if each.name == wanted and version in ("", each.version)]
    if not found:
        raise BadInput(f"{name}: no such model is published here, and a bundle's path ends in .edge")
    return max(found, key=lambda each: version_key(each.version))
