"""The devices of one worker: which they are, that what they say is heard, and which of them are there."""

from __future__ import annotations

import hashlib
import logging
import threading
import time

import sqlalchemy as sa

from edge.fleet import topics
from edge.fleet.messages import ROLL_CALL_OVER_SECONDS
from edge.fleet.server import registry, tables
from edge.fleet.server.database import Database, Event, batches
from edge.fleet.server.link import Link

_log = logging.getLogger("edge.fleet.shard")

# Filters in a packet, and ids in a statement.
_BATCH = 200


def shard_of(device: str, shards: int) -> int:
    """The shard of a device, 1 to `shards`: the same in every process and release."""
    # Not CRC-32, which puts names that differ in a digit ("attic-1", "attic-2") into few shards.
    return int.from_bytes(hashlib.blake2b(device.encode(), digest_size=8).digest(), "big") % shards + 1


class Shard:
    """Subscribes to each of its devices by name, so that a worker is sent nothing that is another's.

    A device says only once that it has connected. So each is asked for its status once it is heard: it may have said
    so before. Who has not answered in time is not there.

    Args:
        number: of the shard, 1 to `shards`.
    """

    def __init__(self, database: Database, link: Link, number: int, shards: int) -> None:
        self._database = database
        self._link = link
        self._number = number
        self._shards = shards
        self._lock = threading.Lock()
        self._devices: set[str] = set()
        self._asked: dict[int, list[str]] = {}  # subscriptions on their way, by the number of their packet
        self._called: list[tuple[float, list[str]]] = []
        self.heard = threading.Event()
        """Set when the broker has granted what was asked for."""

    def __len__(self) -> int:
        return len(self._devices)

    def load(self) -> None:
        """Reads which devices there are."""
        table = tables.devices
        with self._database.reading() as connection:
            found = connection.scalars(sa.select(table.c.id).where(table.c.state == "active")).all()
        with self._lock:
            self._devices = {device for device in found if shard_of(device, self._shards) == self._number}

    def connected(self) -> None:
        """There is a new connection to the broker, which knows nothing of an earlier one."""
        with self._lock:
            self._asked.clear()
            self._subscribe(sorted(self._devices))

    def granted(self, packet: int, failed: bool) -> None:
        """The broker has answered a subscription: now the devices can be asked for their status."""
        with self._lock:
            devices = self._asked.pop(packet, [])
            if not self._asked and not failed:
                self.heard.set()
        if failed:
            _log.error("the broker does not let the worker hear devices: does it have the rules in devices.acl?")
            return
        called = time.time()
        for device in devices:
            self._link.send(topics.down(device, "roll"), {}, qos=0)
        if devices:
            with self._lock:
                self._called.append((called, devices))

    def changed(self, event: Event) -> None:
        """`device.changed`, `device.removed`: one may have come or gone."""
        device = event.subject
        if shard_of(device, self._shards) != self._number:
            return
        active = event.kind == "device.changed" and event.body.get("state") == "active"
        with self._lock:
            if active == (device in self._devices):
                return
            if active:
                self._devices.add(device)
                self._subscribe([device])
            else:
                self._devices.discard(device)
                self._link.unsubscribe([topics.everything_up(device)])

    def end_roll_calls(self) -> None:
        """Devices that did not answer in time are not there. Called every second or so."""
        now = time.time()
        with self._lock:
            over = [call for call in self._called if now > call[0] + ROLL_CALL_OVER_SECONDS]
            self._called = [call for call in self._called if call not in over]
        for called, devices in over:
            with self._database.transaction() as connection:
                registry.mark_silent(connection, called, devices)

    def _subscribe(self, devices: list[str]) -> None:
        for batch in batches(devices, _BATCH):
            packet = self._link.subscribe([topics.everything_up(device) for device in batch])
            if packet is not None:
                self._asked[packet] = list(batch)
        if not devices:
            self.heard.set()
