"""The link between one of the fleet's own services and the broker: certificate, connection, what it publishes."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.fleet.addresses import Address, parse_url
from edge.fleet.errors import FleetError
from edge.fleet.messages import Sender
from edge.fleet.server.ingest import Publication
from edge.fleet.server.state import Settings
from edge.runtime.whole_file import whole_file

_log = logging.getLogger("edge.fleet.server")

_UP_SECONDS = 30
_READ_BYTES = 16_384  # a TLS record has no more


@dataclass(frozen=True)
class BrokerAddress:
    """Where devices and the server find the broker.

    Attributes:
        host, port: of its main listener.
        boot_port: of its bootstrap listener.
        others: main listeners that are as good.
        told: whether devices are told these addresses; otherwise they use the host that they enrolled at.
    """

    host: str
    port: int
    boot_port: int
    others: tuple[Address, ...] = ()
    told: bool = False

    @property
    def brokers(self) -> tuple[Address, ...]:
        """All main listeners."""
        return (Address(self.host, self.port), *self.others)


def external(settings: Settings) -> BrokerAddress:
    """Where a broker is that the fleet does not run itself.

    Devices are told its addresses if they are several or the bootstrap listener was named: those are meant for them.

    Raises:
        FleetError: --broker or --boot is no such URL.
    """
    first, *others = parse_url(settings.broker, 8883, "--broker")
    boot_port = settings.boot_addresses()[0].port
    return BrokerAddress(first.host, first.port, boot_port, tuple(others), bool(others or settings.boot))


def write_identity(path: Path, identity: bytes) -> None:
    """Keeps a key and its certificate, PEM, where only we read it."""
    with whole_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(identity)


class _ReadAhead(ssl.SSLSocket):
    """Takes what has come in one read, and gives it out in the pieces that are asked for.

    paho asks for a packet's first byte, its length byte by byte, and the rest: four calls of OpenSSL a message.
    """

    _ahead = b""
    _given = 0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        left = len(self._ahead) - self._given
        if not left:
            if buflen >= _READ_BYTES:
                return super().recv(buflen, flags)
            self._ahead, self._given = super().recv(_READ_BYTES, flags), 0
            left = len(self._ahead)
        start = self._given
        self._given += min(buflen, left)
        return self._ahead[start : self._given]

    def pending(self) -> int:
        """Bytes that can be had without waiting: paho does not wait for the socket if there are some."""
        return len(self._ahead) - self._given + super().pending()


def trust(root: str, identity: Path) -> ssl.SSLContext:
    """TLS to a broker with a certificate of our authority: nobody else has one for servers, whatever its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=root)
    context.load_cert_chain(identity)
    return context


def _listens(broker: Address) -> bool:
    try:
        socket.create_connection((broker.host, broker.port), 2).close()
    except OSError:
        return False
    return True


class Link:
    """A connection to the broker that is made again whenever it breaks.

    Args:
        address: of the broker.
        name: the client id, which is the common name in the certificate.
        identity: file with the key and the certificate, PEM.
        root: what the broker's certificate must come from, PEM.
        on_connect: called after each connection, on the network thread: it subscribes.
        on_message: called with topic and payload, on the network thread.
        longest_pause: seconds between two attempts, at most.
        on_granted: called with the number of a subscription, and whether any of it was refused, on the network thread.
        most_qos: 0 if the broker is to take no message at QoS 1, which costs a NATS cluster writes to three disks.
    """

    def __init__(
        self,
        address: BrokerAddress,
        name: str,
        identity: Path,
        root: str,
        on_connect: Callable[[], None],
        on_message: Callable[[str, bytes], None],
        longest_pause: int,
        on_granted: Callable[[int, bool], None] | None = None,
        most_qos: int = 1,
    ) -> None:
        self.connected = threading.Event()
        self._address = address
        self._on_connected = on_connect
        self._on_received = on_message
        self._sender = Sender()
        self._most_qos = most_qos
        self._stopping = False
        self._turn = 0
        self._broker = address.brokers[0]
        # MQTT 3.1.1, whose packets cost less to read and write.
        self._client = client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311)
        context = trust(root, identity)
        context.sslsocket_class = _ReadAhead
        client.tls_set_context(context)
        client.reconnect_delay_set(1, longest_pause)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(20_000)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = lambda *_: self._take_next()
        client.on_message = self._on_message
        if on_granted is not None:
            client.on_subscribe = lambda _c, _u, packet, codes, _p: on_granted(packet, any(c.is_failure for c in codes))

    def start(self) -> None:
        """Connects, and returns when that is done.

        Raises:
            FleetError: the broker cannot be reached, or does not let us in.
        """
        self._take_next()
        self._client.loop_start()
        if not self.connected.wait(_UP_SECONDS):
            self.stop()
            where = ", ".join(map(str, self._address.brokers))
            if not any(map(_listens, self._address.brokers)):
                raise FleetError(f"nobody answers at {where}: does the broker run, and is its address right?")
            raise FleetError(f"the broker at {where} does not let the server in")

    def stop(self) -> None:
        self._stopping = True
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, filters: list[str]) -> int | None:
        """Asks for messages, each at most once: that is enough, because devices repeat what is not acknowledged.

        Returns:
            The number under which the broker answers; None if it is not there.
        """
        return self._client.subscribe([(name, 0) for name in filters])[1]

    def unsubscribe(self, filters: list[str]) -> None:
        self._client.unsubscribe(filters)

    def publish(self, publication: Publication) -> None:
        """Publishes, if the broker is there; what matters is in the database and is sent again."""
        self._client.publish(publication.topic, publication.payload, min(publication.qos, self._most_qos))

    def wrap(self, topic: str, body: dict[str, Any], qos: int = 1) -> Publication:
        """A body in an envelope of this service's."""
        return Publication(topic, self._sender.wrap(body).encode(), qos)

    def send(self, topic: str, body: dict[str, Any], qos: int = 1) -> None:
        """Publishes a body in an envelope."""
        self.publish(self.wrap(topic, body, qos))

    def _take_next(self) -> None:
        """Has the next attempt go to the next of several brokers."""
        broker = self._address.brokers[self._turn % len(self._address.brokers)]
        self._turn += 1
        self._broker = broker
        self._client.connect_async(broker.host, broker.port, 30)

    def _on_connect(self, _client: mqtt.Client, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            _log.error("the broker refuses the server: %s", code)
            return
        self._on_connected()
        self.connected.set()
        _log.info("connected to the broker at %s", self._broker)

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self.connected.clear()
        if not self._stopping:
            _log.warning("lost the broker at %s (%s): connecting again", self._broker, code)
            self._take_next()

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._on_received(message.topic, bytes(message.payload))
        except Exception:  # paho's thread must live on
            _log.exception("a message on %s could not be taken in", message.topic[:100])
