"""paho within an asyncio loop: a connection to the broker that costs a socket and no thread.

paho's own client reads and writes when it is told to (`loop_read`, `loop_write`), so that the loop need only watch its
socket. Connecting, which blocks for TCP and TLS, is done in an executor; all else on the loop's thread.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.fleet.addresses import Address
from edge.fleet.errors import FleetError
from edge.fleet.identity import client_id
from edge.fleet.mqtt_version import other_protocol

_ANSWER_SECONDS = 30.0
_CONNECT_SECONDS = 15.0


class NotLetIn(FleetError):
    """The broker refuses the connection, or does not answer in this version of MQTT.

    Attributes:
        protocol: the version to try next.
    """

    def __init__(self, text: str, protocol: MQTTProtocolVersion) -> None:
        super().__init__(text)
        self.protocol = protocol


class Connection:
    """One connection, from its beginning to its end.

    Args:
        device: id of the device.
        context: TLS as this device.
        protocol: version of MQTT.
        will: topic and payload of the last will.
        on_message: called on the loop's thread with topic and payload.
    """

    __slots__ = ("_client", "_loop", "_protocol", "_ready", "_socket", "_writing", "closed")

    def __init__(
        self,
        device: str,
        context: ssl.SSLContext,
        protocol: MQTTProtocolVersion,
        will: tuple[str, bytes],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._socket: Any = None
        self._writing = False
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id(device), protocol=protocol, reconnect_on_failure=False
        )
        client.connect_timeout = _CONNECT_SECONDS
        client.tls_set_context(context)
        client.max_inflight_messages_set(200)
        client.will_set(*will, 0)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_socket_close = lambda _client, _user, _socket: self._unwatch()
        client.on_message = lambda _client, _user, message: on_message(message.topic, bytes(message.payload))

    async def open(self, address: Address, keepalive: int, topics: list[tuple[str, int]], executor: Executor) -> None:
        """Connects and subscribes to `topics` (filters and qualities of service).

        Raises:
            OSError: nobody answers, or TLS fails.
            NotLetIn: the broker does not let the device in.
        """
        self._client.user_data_set(topics)
        await self._loop.run_in_executor(executor, self._client.connect, address.host, address.port, keepalive)
        self._socket = self._client.socket()
        if self._socket is None:
            raise OSError("the broker ended the connection")
        self._loop.add_reader(self._socket, self._read)
        self.flush()
        try:
            done, _ = await asyncio.wait(
                (self._ready, self.closed), timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise NotLetIn("the broker does not answer", other_protocol(self._protocol, None))
            if self._ready not in done:
                raise NotLetIn("the broker ends the connection: is the device revoked?", self._protocol)
            self._ready.result()
        except BaseException:
            self.drop()
            raise

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Sends a message now, or as soon as the socket takes it."""
        self._client.publish(topic, payload, qos)
        self.flush()

    def tend(self) -> None:
        """What paho has to do every few seconds: pings, and noticing that they are not answered."""
        self._client.loop_misc()
        self.flush()

    def disconnect(self, seconds: float) -> None:
        """Says goodbye; the connection is `closed` once that is on its way, or after so many seconds."""
        if self._socket is not None:
            self._client.disconnect()
            self.flush()
        self._loop.call_later(seconds, self._ended)

    def drop(self) -> None:
        """Ends the connection at once, without a word; what is left of it is freed."""
        self._unwatch()
        client = self._client
        client.on_disconnect = client.on_socket_close = client.on_message = None
        client.on_connect = client.on_subscribe = None
        if (socket := client.socket()) is not None:
            socket.close()
        self._ended()

    def _ended(self) -> None:
        self._unwatch()
        if not self.closed.done():
            self.closed.set_result(None)

    def _unwatch(self) -> None:
        """On the loop's thread, or on an executor's before anything is watched."""
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            if self._writing:
                self._loop.remove_writer(self._socket)
        self._socket, self._writing = None, False

    def _read(self) -> None:
        while self._socket is not None:
            if self._client.loop_read() != mqtt.MQTT_ERR_SUCCESS:
                break
            # What TLS has decrypted already, the loop's selector does not see.
            if self._socket is None or not self._socket.pending():
                break
        self.flush()

    def flush(self) -> None:
        """Writes what waits to be written, now or when the socket allows it."""
        if self._socket is None:
            return
        if self._client.want_write():
            self._client.loop_write()
        if self._socket is None:
            return
        wants = self._client.want_write()
        if wants and not self._writing:
            self._loop.add_writer(self._socket, self.flush)
        elif self._writing and not wants:
            self._loop.remove_writer(self._socket)
        self._writing = wants

    def _on_connect(self, client: mqtt.Client, topics: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            if not self._ready.done():
                next_protocol = other_protocol(self._protocol, code)
                self._ready.set_exception(NotLetIn(f"the broker does not let it in: {code}", next_protocol))
            return
        client.subscribe(topics)

    def _on_subscribe(self, _client: mqtt.Client, _user: Any, _mid: int, codes: list[Any], _properties: Any) -> None:
        if self._ready.done():
            return
        if any(code.is_failure for code in codes):  # a connection on which nothing would come down
            self._ready.set_exception(NotLetIn("the broker lets it hear nothing", self._protocol))
        else:
            self._ready.set_result(None)

    def _on_disconnect(self, *_: Any) -> None:
        """Called on the executor's thread if it comes while connecting."""
        self._loop.call_soon_threadsafe(self._ended)
