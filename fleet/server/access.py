"""Who is let in: the broker's lists of revoked certificates and of open tokens, and sessions that are ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from edge.fleet.addresses import Address
from edge.fleet.errors import FleetError
from edge.fleet.identity import client_id
from edge.fleet.server import enrollment, tables
from edge.fleet.server.authority import Authority
from edge.fleet.server.broker import BrokerFiles
from edge.fleet.server.database import Database, Event, audit, set_setting, setting
from edge.fleet.server.link import BrokerAddress, trust, write_identity
from edge.runtime.errors import EdgeError

_log = logging.getLogger("edge.fleet.server")

_HOUR = 3600.0
_SUSPEND_SECONDS = 60.0
_TRIES = 20


class Access:
    """Writes the broker's lists anew and has it read them; ends the sessions of those who are no longer on them.

    Args:
        folder: the broker's.
        reload: has the broker read its lists again; returns whether that went well, if it can tell.
    """

    def __init__(self, database: Database, authority: Authority, folder: Path, reload: Callable[[], bool]) -> None:
        self._database = database
        self._authority = authority
        self._folder = folder
        self._files = BrokerFiles(folder)
        self._reload = reload
        self._address: BrokerAddress
        self._revoking = threading.Lock()
        self._suspended: dict[str, float] = {}
        self._ending = threading.Lock()
        self._still_in: dict[str, int] = {}
        self._stopping = threading.Event()
        self._told = False  # whether the broker has read what was written last, as far as we know

    def start(self, address: BrokerAddress) -> None:
        """Says where the broker is."""
        self._address = address

    def stop(self) -> None:
        self._stopping.set()

    def revoked(self, events: list[Event]) -> None:
        """Devices' certificates were taken back."""
        self._still_in |= {event.subject: _TRIES for event in events}
        self.shut_out()

    def shut_out(self) -> None:
        """Shuts out those whose certificates were taken back; again, where the disk was full or the broker away."""
        if self._still_in:
            self.write_revocations()
            # A connection takes hundredths of a second, and others wait for the caller's thread.
            threading.Thread(target=self._end_sessions, name="end sessions", daemon=True).start()

    def write_revocations(self) -> None:
        with self._revoking:  # a list must not replace a later one
            self._write_revocations_in_turn()

    def watch_clock(self) -> None:
        """Replaces a list of the future, which a clock that was ahead left: with it the broker lets nobody in."""
        if self._last_list() > time.time():
            _log.warning("the clock was put back: the list of revoked certificates is written anew")
            self.write_revocations()

    def write_tokens(self) -> None:
        with self._database.reading() as connection:
            tokens = sorted(enrollment.open_tokens(connection))
        if self._files.write_tokens(tokens) or not self._told:
            self._told = self._reload()

    def is_suspended(self, device: str) -> bool:
        """Whether a device is shut out for a while."""
        return self._suspended.get(device, 0.0) > time.time()

    def flood(self, device: str) -> None:
        """Shuts a device out for a while. Called on the network thread: the rest is done on one of its own."""
        self._suspended[device] = time.time() + _SUSPEND_SECONDS
        threading.Thread(target=self._suspend, args=(device,), name="suspend", daemon=True).start()

    def _last_list(self) -> float:
        with self._database.reading() as connection:
            return float(setting(connection, "revocation_list", 0.0))

    def _write_revocations_in_turn(self) -> None:
        last, now = self._last_list(), time.time()
        if last > now:  # the clock was put back
            last = now - 1
        # Later than the last one by a second, and never in the future: several in a second begin in the past, and
        # those of a long series wait for their second.
        issued_at = max(now - _HOUR, last + 1)
        self._stopping.wait(max(0.0, issued_at - now))
        suspended = [device for device in list(self._suspended) if self.is_suspended(device)]
        with self._database.transaction() as connection:
            revoked = dict(enrollment.revoked(connection))
            if suspended:
                table = tables.certificates
                query = sa.select(table.c.serial).where(table.c.device.in_(suspended))
                revoked |= dict.fromkeys(connection.scalars(query), now)
            set_setting(connection, "revocation_list", issued_at)
        self._files.write_revocations(self._authority.revocation_list(sorted(revoked.items()), issued_at))
        self._told = self._reload()

    def _end_sessions(self) -> None:
        with self._ending:
            for device in list(self._still_in):
                left = self._still_in.pop(device, 0)
                if left == 0 or self._stopping.is_set() or self._end_session(device):
                    continue
                if left > 1:
                    self._still_in.setdefault(device, left - 1)
                return  # the others' would end as little

    def _end_session(self, device: str) -> bool:
        """Ends a device's session by taking it over: it would last until the connection breaks. Whether it did."""
        path = self._folder / f"stand-in-{device}.pem"
        error: Exception = FleetError("no broker")
        try:
            write_identity(path, self._authority.stand_in(device))
            for broker in self._address.brokers:
                try:
                    self._take_over(device, path, broker)
                    return True
                except (OSError, EdgeError) as found:
                    error = found
        finally:
            path.unlink(missing_ok=True)
        _log.error("%s: its session could not be ended yet: %s", device, error)
        return False

    def _take_over(self, device: str, identity: Path, broker: Address) -> None:
        ended = threading.Event()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id(device),
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.tls_set_context(trust(self._authority.root_pem, identity))
        client.on_connect = lambda _c, _u, _f, code, _p: None if code.is_failure else ended.set()
        client.connect(broker.host, broker.port)
        client.loop_start()
        try:
            if not ended.wait(5):
                raise FleetError(f"{broker} did not answer")
            client.disconnect()
        finally:
            client.loop_stop()

    def _suspend(self, device: str) -> None:
        _log.warning("%s: sends more than any agent does: shut out for %d seconds", device, int(_SUSPEND_SECONDS))
        with self._database.transaction() as connection:
            audit(connection, "fleet", "device.suspend", device, reason="flood", seconds=_SUSPEND_SECONDS)
        self.write_revocations()
        self._end_session(device)
        self._stopping.wait(_SUSPEND_SECONDS)
        self.write_revocations()
