"""A real mosquitto, an authority, and clients of all kinds, hostile ones too."""

from __future__ import annotations

import queue
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from edge.fleet.server.authority import Authority, Issued, read_request
from edge.fleet.server.broker import find_mosquitto
from tests.fleet.keys import key_pem, new_key, request_for

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
needs_clients = pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto-clients is not installed")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """Waits for a condition to hold and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what or "it did not come to pass"
        time.sleep(0.01)
    return value


def identity(authority: Authority, folder: Path, name: str, **signing: Any) -> tuple[Path, Issued]:
    """A device's key and certificate in a file, as `ssl` loads them."""
    key = new_key()
    issued = authority.sign(read_request(request_for(key)), name, **signing)
    path = folder / f"{name}-{issued.serial[:6]}.pem"
    path.write_bytes(key_pem(key) + (issued.pem + authority.issuing_pem).encode())
    return path, issued


class Client:
    """An MQTT client that remembers all that happens to it.

    Args:
        port: of the broker on this machine.
        root: what it trusts, PEM.
        certificate: file with its key and certificate, if it has one.
        name: the client id that it *says*.
        login: user name and password, if it has them.
        protocol: the version of MQTT.
    """

    def __init__(
        self,
        port: int,
        root: str,
        certificate: Path | None = None,
        name: str = "",
        login: tuple[str, str] | None = None,
        protocol: Any = mqtt.MQTTv5,
    ) -> None:
        self.connected = threading.Event()
        self.disconnected = threading.Event()
        self.refused: object = None
        self.messages: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self._answers: queue.Queue[tuple[int, Any]] = queue.Queue()
        self.mqtt = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=root)
        if certificate is not None:
            context.load_cert_chain(certificate)
        client.tls_set_context(context)
        if login:
            client.username_pw_set(*login)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self.disconnected.set()
        client.on_message = lambda _c, _u, message: self.messages.put(message)
        client.on_publish = lambda _c, _u, mid, code, _p: self._answers.put((mid, code))
        client.on_subscribe = lambda _c, _u, mid, codes, _p: self._answers.put((mid, codes[0]))
        try:
            client.connect("127.0.0.1", port)
        except OSError as error:
            self.refused = error
            return
        client.loop_start()

    def _on_connect(self, _c: Any, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        if code == 0:
            self.connected.set()
        else:
            self.refused = code

    def got_in(self, seconds: float = 10) -> bool:
        """Whether the broker lets it in (TLS 1.3 tells a client only after its handshake that it is refused)."""
        deadline = time.monotonic() + seconds
        while self.refused is None and time.monotonic() < deadline:
            if self.connected.wait(0.02):
                return True
            if self.disconnected.is_set():
                return False
        return False

    def publish(self, topic: str, payload: bytes = b"x", retain: bool = False) -> bool:
        """Publishes, and returns whether the broker took it."""
        info = self.mqtt.publish(topic, payload, 1, retain)
        return not self._answer(info.mid).is_failure

    def subscribe(self, topic: str) -> bool:
        _, mid = self.mqtt.subscribe(topic, 1)
        assert mid is not None
        return not self._answer(mid).is_failure

    def _answer(self, mid: int) -> Any:
        while True:
            answered, code = self._answers.get(timeout=10)
            if answered == mid:
                return code

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()
