"""What semantics reads of the registry, and nothing more: devices, models, and the events that change them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Event:
    """An entry of the outbox.

    Attributes:
        id: its number, above that of every earlier one.
        kind: "device.changed", "device.removed", "model.published", "model.removed"; others are passed over.
        subject: the device's id, or the model's "name:version".
        body: the whole JSON of the thing.
    """

    id: int
    kind: str
    subject: str
    body: Mapping[str, Any]


class Registry(Protocol):
    """The registry as a projection needs it."""

    def devices(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Every device that is enrolled: its id, and the body that its last `device.changed` had."""

    def capabilities(self) -> Iterable[tuple[str, str]]:
        """Every device that is not revoked: its id, and as JSON its inventory without labels, models and boards."""

    def models(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Every published model: "name:version", and the body that its `model.published` had."""

    def events(self, after: int) -> Iterable[Event]:
        """The events whose number is above `after`, in order."""

    def first_event(self) -> int:
        """The number of the oldest event that is kept; 0: there is none."""

    def last_event(self) -> int:
        """The number of the newest event; 0: there is none."""
