"""How a device gets its first certificate: its own key, a claim token, a request, an answer.

    1. the broker's certificate is fetched, and its key must be the one that the token is pinned to;
    2. a TLS connection that accepts this certificate alone; the token's id and secret let the device in;
    3. the request goes to boot/<token>/up, with a proof that ties the token to it;
    4. the answer comes on boot/<token>/down: pending at first, perhaps for days, then the certificate.

Each step may be repeated after any interruption: the key is on the disk before anything is asked for.
"""

from __future__ import annotations

import queue
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.fleet import topics
from edge.fleet.addresses import Address
from edge.fleet.device.home import Home, Place
from edge.fleet.device.refusal import NEEDS_CERTIFICATE, refusal
from edge.fleet.errors import FleetError, Refused
from edge.fleet.identity import ClaimToken, claim_proof, key_fingerprint, pin_of
from edge.fleet.inventory import Inventory
from edge.fleet.messages import CertificateAnswer, CertificateRequest, Envelope, Sender
from edge.fleet.mqtt_version import other_protocol

_CONNECT_SECONDS = 15.0
_ASK_AGAIN_SECONDS = 60.0
_ATTEMPTS = 4
# A broker that knows one version of MQTT may say nothing at all to the other.
_ANSWER_SECONDS = 5.0


def enroll(
    home: Home,
    token: ClaimToken,
    host: str,
    port: int,
    inventory: Inventory,
    device: str = "",
    wait: float | None = None,
    note: Callable[[str], None] = lambda text: None,
    stop: threading.Event | None = None,
    others: Sequence[Address] = (),
    pinned: Callable[[str, int, str], ssl.SSLContext] | None = None,
) -> Place | None:
    """Asks for a certificate and waits for it.

    Args:
        home: where the key is made and the certificate kept.
        host, port: of the broker's bootstrap listener.
        device: the id that the device would like; "" leaves it to the operator.
        wait: seconds to wait for an operator's approval; None waits without end.
        note: told what happens, in lines for people.
        stop: ends the waiting when it is set.
        others: bootstrap listeners that are as good, tried in turn with the first.
        pinned: `pinned_context`, for many devices one that remembers what it gave.

    Returns:
        Who the device is now; None if the request still waits when the time is over: ask again with the same token.

    Raises:
        Refused: the fleet, or its operator, says no; the reason is the message.
        FleetError: the broker cannot be reached, or is not the one that the token is for.
    """
    stop = stop or threading.Event()
    csr, der, key = home.next_request()
    request = CertificateRequest(csr, device, claim_proof(token.key, der), inventory)
    deadline = None if wait is None else time.monotonic() + wait
    told, delay, first, attempts, unanswered = "", 1.0, True, 0, 0
    protocol = mqtt.MQTTv5
    listeners, turn = (Address(host, port), *others), 0
    while not stop.is_set():
        at = listeners[turn % len(listeners)]
        try:
            with _Claim(at.host, at.port, token, protocol, pinned or pinned_context) as claim:
                delay, first, attempts, unanswered = 1.0, False, 0, 0
                while not stop.is_set():
                    claim.ask(request)
                    answer = claim.answer(_until(deadline, _ASK_AGAIN_SECONDS), stop)
                    while answer is not None:
                        if answer.state == "rejected":
                            if answer.key == key:  # for good, as far as this key goes: the next attempt makes another
                                home.forget_request()
                                raise Refused(f"{answer.detail or 'turned down'}: enroll again with a new claim token")
                            raise Refused(answer.detail or "the fleet refuses the request")
                        if answer.key == key and answer.state == "issued":
                            return home.accept(answer, at.host)
                        if answer.detail != told:
                            told = answer.detail
                            note(told)
                        answer = claim.answer(_until(deadline, _ASK_AGAIN_SECONDS), stop)
                    if deadline is not None and time.monotonic() >= deadline:
                        return None
        except _NotLetIn as error:
            protocol = error.protocol
            # The broker learns of a new token a moment after the operator does.
            attempts += 1
            if attempts == _ATTEMPTS or stop.wait(0.7):
                raise
        except ConnectionError as error:
            turn += 1
            if first and turn < len(listeners):
                continue
            if first and not isinstance(error, _Unanswered):
                raise FleetError(f"{at}: {error}") from error
            if deadline is not None and time.monotonic() >= deadline:
                if first:
                    raise FleetError(f"{at}: {error}") from error
                return None
            unanswered += 1
            if unanswered == _ATTEMPTS - 1:
                note(f"{at}: {error}; goes on trying")
            stop.wait(delay * random.uniform(0.5, 1))  # noqa: S311 (spreads load, guards nothing)
            delay = min(60.0, delay * 2)
    return None


def _until(deadline: float | None, most: float) -> float:
    return most if deadline is None else max(0.0, min(most, deadline - time.monotonic()))


def pinned_context(host: str, port: int, pin: str) -> ssl.SSLContext:
    """TLS to the broker whose key has this pin (`edge.fleet.identity.pin_of`), and to nobody else.

    Raises:
        ConnectionError: nobody answers there.
        FleetError: somebody else does.
    """
    try:
        pem = ssl.get_server_certificate((host, port), timeout=_CONNECT_SECONDS)
        found = pin_of(key_fingerprint(x509.load_pem_x509_certificate(pem.encode()).public_key()))
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no broker answers ({error})") from error
    if found != pin:
        raise FleetError(
            f"{host}:{port}: not the broker that the token is for: check the address, or ask for a new token"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor
    context.load_verify_locations(cadata=pem)
    return context


class _NotLetIn(Refused):
    """The broker does not know the token, or not this version of MQTT."""

    def __init__(self, text: str, protocol: MQTTProtocolVersion) -> None:
        super().__init__(text)
        self.protocol = protocol


class _Unanswered(ConnectionError):
    """The broker ends connections before it answers: it may just be starting."""


class _WrongListener(ConnectionError):
    """The broker's listener is for devices that have a certificate."""


class _Claim:
    """A connection to the bootstrap listener."""

    def __init__(
        self,
        host: str,
        port: int,
        token: ClaimToken,
        protocol: MQTTProtocolVersion,
        pinned: Callable[[str, int, str], ssl.SSLContext],
    ) -> None:
        self._token = token
        self._answers: queue.Queue[CertificateAnswer | ConnectionError | Refused] = queue.Queue()
        self._ready = threading.Event()
        self._refused = ""
        self._sender = Sender()
        self._protocol = protocol
        self._at, self._context = Address(host, port), pinned(host, port, token.pin)
        self._let_in = False
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=token.id, protocol=protocol, reconnect_on_failure=False
        )
        client.tls_set_context(self._context)
        client.username_pw_set(token.id, token.secret)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        try:
            client.connect(host, port, 30)
        except OSError as error:
            raise ConnectionError(f"no broker answers ({error})") from error
        client.loop_start()

    def __enter__(self) -> _Claim:
        ready = self._ready.wait(_ANSWER_SECONDS)
        if self._refused:
            self.__exit__()
            raise _NotLetIn(self._refused, self._protocol)
        if not ready:
            self.__exit__()
            raise _NotLetIn("the broker does not answer", other_protocol(self._protocol, None))
        if not self._let_in:
            self.__exit__()
            if refusal(self._at.host, self._at.port, self._context) == NEEDS_CERTIFICATE:
                raise _WrongListener(
                    f"the broker at {self._at} asks for a certificate: "
                    "devices enroll at its other port, 8884 by default"
                )
            raise _Unanswered("the broker ends the connection before it answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def ask(self, request: CertificateRequest) -> None:
        self._client.publish(topics.boot_up(self._token.id), self._sender.wrap(request.json()).encode(), 0)

    def answer(self, seconds: float, stop: threading.Event) -> CertificateAnswer | None:
        """The next answer; None if none comes in time, or `stop` is set."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not stop.is_set():
            try:
                found = self._answers.get(timeout=min(0.2, left))
            except queue.Empty:
                continue
            if isinstance(found, Exception):
                raise found
            return found
        return None

    def _on_connect(self, client: mqtt.Client, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._protocol = other_protocol(self._protocol, code)
            self._refused = (
                "the fleet does not know this claim token: it was mistyped, has expired, or has done its work "
                "(ask the operator for another)"
            )
            self._ready.set()
        else:
            self._let_in = True
            client.subscribe(topics.boot_down(self._token.id), 0)

    def _on_subscribe(self, _client: mqtt.Client, _user: Any, _mid: int, codes: list[Any], _properties: Any) -> None:
        if codes[0].is_failure:
            self._answers.put(ConnectionError("the broker does not let the answer through"))
        self._ready.set()

    def _on_disconnect(self, *_: object) -> None:
        self._answers.put(ConnectionError("the broker ended the connection"))
        self._ready.set()

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic != topics.boot_down(self._token.id):
            return  # whatever a broker of little care delivers here, it is no answer
        try:
            envelope = Envelope.read(bytes(message.payload), "answer")
            self._answers.put(CertificateAnswer.read(envelope.body, "answer"))
        except FleetError as error:
            self._answers.put(Refused(str(error)))
