"""The broker for a first try on a machine without mosquitto: amqtt, in this process, on loopback only.

It has mosquitto's rules, checked by plugins of ours, and shows the same certificate. It must not be reached from
outside: amqtt 0.12 lets whoever connects under another's client id, authenticated or not, delete that one's session.
It speaks MQTT 3.1.1 only and does not answer a client that begins with 5. `Mosquitto` says what the methods are for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amqtt.broker import Action, Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from cryptography import x509

from edge.fleet import topics
from edge.fleet.errors import FleetError
from edge.fleet.identity import SERVER_ID, WORKER_IDS, client_id
from edge.fleet.server.broker import Listeners, verify_password

if TYPE_CHECKING:
    from amqtt.session import Session

_log = logging.getLogger("edge.fleet.broker")


class Loopback:
    """An amqtt broker on a thread of its own."""

    restarts = 0

    def __init__(self, folder: Path, listeners: Listeners) -> None:
        if listeners.host not in ("127.0.0.1", "::1", "localhost"):
            _log.warning("mosquitto is not installed: only this machine can connect (sudo apt install mosquitto)")
        self._folder = folder
        self._listeners = listeners
        self._revoked: frozenset[int] = frozenset()
        self._tokens: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="amqtt", daemon=True)
        self._broker: Broker | None = None

    @property
    def pid(self) -> None:
        """It has no process of its own."""
        return None

    def start(self) -> None:
        """Starts it; raises `FleetError` if it cannot listen."""
        self.reload()
        logging.getLogger("amqtt").setLevel(logging.ERROR)
        common: dict[str, Any] = {"ssl": True, "cafile": str(self._folder / "ca.pem")}
        common |= {"certfile": str(self._folder / "broker.pem"), "keyfile": str(self._folder / "broker.key")}
        config = BrokerConfig(
            listeners={
                "default": ListenerConfig(bind=f"127.0.0.1:{self._listeners.port}", **common),
                "boot": ListenerConfig(bind=f"127.0.0.1:{self._listeners.boot_port}", **common),
            },
            plugins={f"{__name__}.Identity": {}, f"{__name__}.Rules": {}},
        )
        _DOOR.loopback = self
        self._thread.start()

        async def begin() -> Broker:
            broker = Broker(config)
            await broker.start()
            return broker

        try:
            self._broker = asyncio.run_coroutine_threadsafe(begin(), self._loop).result(15)
        except Exception as error:  # what amqtt wraps a failure in depends on where it happened
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise FleetError(f"the broker (amqtt) did not start: {error}") from error

    def reload(self) -> None:
        """Reads the revocation list and the tokens again."""
        crl = x509.load_pem_x509_crl((self._folder / "revoked.pem").read_bytes())
        lines = (self._folder / "tokens").read_text().splitlines()
        self._revoked = frozenset(entry.serial_number for entry in crl)
        self._tokens = dict(line.split(":", 1) for line in lines)

    def stop(self) -> None:
        if self._broker is not None:
            asyncio.run_coroutine_threadsafe(self._broker.shutdown(), self._loop).result(15)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def admits(self, session: Session) -> bool:
        """Whether a client may come in: with a certificate under its name, or with a token under the token's id."""
        name = _common_name(session)
        if name is not None:
            serial = session.ssl_object.getpeercert()["serialNumber"]
            return client_id(name) == session.client_id and int(str(serial), 16) not in self._revoked
        token, secret = session.username, session.password
        known = self._tokens.get(token or "")
        return bool(known and secret and token == session.client_id and verify_password(secret, known))


class _Door:
    """amqtt makes its plugins by itself, from a class's name: this is how they find their broker."""

    loopback: Loopback


_DOOR = _Door()


class Identity(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Who comes in."""

    async def authenticate(self, *, session: Session) -> bool | None:
        return _DOOR.loopback.admits(session)


class Rules(BaseTopicPlugin):  # type: ignore[misc]
    """Who may say and hear what; the same as devices.acl and boot.acl."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        if session is None or not topic:
            return False
        name, writes = _common_name(session), action == Action.PUBLISH
        if name == SERVER_ID:
            return topic.startswith((f"{topics.ROOT}/", "boot/"))
        if name in WORKER_IDS:
            return topic.startswith(f"{topics.ROOT}/") and ("/down/" if writes else "/up/") in topic
        if name is None:
            return topic == (topics.boot_up if writes else topics.boot_down)(str(session.client_id))
        if writes:
            return topic.startswith(f"{topics.ROOT}/{name}/up/")
        return topic.startswith((f"{topics.ROOT}/{name}/down/", f"{topics.ROOT}/all/"))


def _common_name(session: Session) -> str | None:
    """The name in the certificate that a client showed and TLS verified; None if it showed none."""
    certificate = session.ssl_object.getpeercert() if session.ssl_object else None
    for part in (certificate or {}).get("subject", ()):
        for field, value in part:
            if field == "commonName":
                return str(value)
    return None
