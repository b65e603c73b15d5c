"""Requests for certificates: taken in from devices with a token, with a certificate and behind gateways; answered."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

import sqlalchemy as sa

from edge.fleet import topics
from edge.fleet.errors import BadMessage, Refused
from edge.fleet.messages import CertificateAnswer, CertificateRequest, Envelope
from edge.fleet.server import enrollment
from edge.fleet.server.authority import Authority
from edge.fleet.server.database import Database, Event, audit
from edge.fleet.server.ingest import Publication, Report
from edge.fleet.server.link import BrokerAddress, Link

_log = logging.getLogger("edge.fleet.server")

_MOST_ASKED, _ASKING_SECONDS = 10, 5.0
_REFUSAL_SECONDS = 3600.0


class Certificates:
    """Lets `enrollment` decide, signs what was approved, and tells those who wait for it.

    Args:
        address: of the broker, which devices are told with their certificate.
        models_root: gives the root of the TUF metadata, which they are told too.
    """

    def __init__(
        self,
        database: Database,
        authority: Authority,
        link: Link,
        address: BrokerAddress,
        models_root: Callable[[], bytes],
    ) -> None:
        self._database = database
        self._authority = authority
        self._link = link
        self._port = address.port
        self._addresses = tuple(map(str, address.brokers)) if address.told else ()
        self._models_root = models_root
        self._signing = threading.Lock()
        self._asking: Counter[str] = Counter()
        self._asking_ends = 0.0
        self._refused_at: dict[str, float] = {}

    def boot_requested(self, topic: str, payload: bytes) -> None:
        """Stores a request for enrollment and answers it. Rare, so it is done on the network thread."""
        try:
            token = topics.parse_boot(topic)
            if self._asks_too_often(token):
                return
            envelope = Envelope.read(payload, topic)
            message = CertificateRequest.read(envelope.body, topic)
        except BadMessage as error:
            _log.warning("%s", error)
            return
        try:
            with self._database.transaction() as connection:
                found = enrollment.request(connection, token, message)
        except Refused as error:
            _log.warning("%s: %s", topic, error)
            self._record_refusal(token, str(error))
            body = {"state": "rejected", "key": "0" * 64, "detail": str(error)}
            self._link.send(topics.boot_down(token), body)
            return
        if found.state == "pending":
            self.sign()  # it may have been approved ahead
            with self._database.reading() as connection:
                found = enrollment.answer(connection, found.key)
        self._answer(found, token, None)

    def requested(self, connection: sa.Connection, report: Report) -> list[Publication]:
        """`up/csr`: a device renews its certificate, or a gateway asks for one for a board of its own."""
        message = CertificateRequest.read(report.envelope.body, f"{report.device} csr")
        if message.device not in ("", report.device):
            found = enrollment.board_request(connection, report.device, message)
        else:
            found = enrollment.renew(connection, self._authority, report.device, message)
        return [self._publication(found, topics.down(report.device, "cert"))]

    def decided(self, event: Event) -> None:
        """An operator, or a rule, has decided on a request."""
        if event.body.get("state") == "approved":
            self.sign()
        else:
            self._answer_key(event.subject)

    def sign(self) -> None:
        """Signs what was approved, and tells those who wait for it."""
        while True:
            with self._signing, self._database.transaction() as connection:
                keys = enrollment.sign_approved(connection, self._authority)
            for key in keys:
                self._answer_key(key)
            if not keys:
                return

    def _asks_too_often(self, token: str) -> bool:
        """Whoever has a token may ask, but not keep the database busy by it: devices ask once a minute."""
        now = time.monotonic()
        if now > self._asking_ends:
            self._asking_ends = now + _ASKING_SECONDS
            self._asking.clear()
        self._asking[token] += 1
        return self._asking[token] > _MOST_ASKED

    def _record_refusal(self, token: str, why: str) -> None:
        """Once an hour for each token: the audit log only grows, and whoever has a token could make it."""
        now = time.monotonic()
        self._refused_at = {name: at for name, at in self._refused_at.items() if now - at < _REFUSAL_SECONDS}
        if token in self._refused_at:
            return
        self._refused_at[token] = now
        with self._database.transaction() as connection:
            audit(connection, f"token {token}", "enrollment.refuse", token, reason=why)

    def _answer_key(self, key: str) -> None:
        with self._database.reading() as connection:
            found = enrollment.answer(connection, key)
            token, gateway = enrollment.where_to(connection, key)
        self._answer(found, token, gateway)

    def _answer(self, found: CertificateAnswer, token: str | None, gateway: str | None) -> None:
        if token is not None:
            self._link.publish(self._publication(found, topics.boot_down(token)))
        elif gateway is not None:
            self._link.publish(self._publication(found, topics.down(gateway, "cert")))

    def _publication(self, found: CertificateAnswer, topic: str) -> Publication:
        done = enrollment.finish(found, self._authority, self._port, self._addresses, self._models_root())
        return self._link.wrap(topic, done.json())
