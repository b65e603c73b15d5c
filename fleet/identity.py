"""Who is who in a fleet: ids of devices, claim tokens, and fingerprints of keys.

A device's id is the common name of its certificate, its MQTT client id, and a segment of its topics. It therefore has a
form that needs no quoting in any of them and in no file name. A gateway may name the boards attached to it, and only
those: their ids begin with its own and a dot ("attic.mic1").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.fleet.errors import Refused

# At most 64 characters: the longest common name of X.520 (ub-common-name), which OpenSSL enforces.
DEVICE_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")

SERVER_ID = "@server"
"""Common name and client id of the fleet's own services; no device id can be equal to it."""

MOST_WORKERS = 32
WORKER_IDS = tuple(f"{SERVER_ID}-{number}" for number in range(1, MOST_WORKERS + 1))
"""The same for the processes among which a server divides its devices; the broker knows as many."""

EVERYONE = "all"
"""The topic segment that every device reads; not an id either."""

_TOKEN_ID = re.compile(r"t[a-z2-7]{12}")
_TOKEN = re.compile(r"edge-(t[a-z2-7]{12})-([a-z2-7]{26})-([a-z2-7]{26})")


def device_id(text: str, where: str = "device") -> str:
    """`text`, if it is a device id.

    Raises:
        Refused: it is not, or it is taken: the id of a claim token, or "all".
    """
    if not DEVICE_ID.fullmatch(text) or _TOKEN_ID.fullmatch(text) or text == EVERYONE:
        raise Refused(
            f"{where}: {text[:70]!r} cannot be a device's id: 1 to 64 of a-z, 0-9, '.', '_', '-', "
            "a letter or digit at both ends"
        )
    return text


def client_id(name: str) -> str:
    """What a device with this id calls itself in MQTT: NATS takes no dot in a client id, and no id has a colon."""
    return name.replace(".", ":")


def suggested_id(name: str, key: str) -> str:
    """An id made of a host name and the first characters of a key's fingerprint: "kitchen-pi-3f9a01"."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "device"
    return f"{stem}-{key[:6]}"


def attached_to(board: str, gateway: str) -> bool:
    """Whether the id `board` is one that the device `gateway` may give to a board of its own."""
    return DEVICE_ID.fullmatch(board) is not None and board.startswith(f"{gateway}.")


def key_fingerprint(key: PublicKeyTypes) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER), as 64 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass(frozen=True)
class ClaimToken:
    """What lets a device without a certificate ask for one, once.

    Attributes:
        id: names the token; user name, client id and topic segment on the bootstrap listener.
        secret: 128 random bits; the password there. The server keeps only hashes of it.
        pin: the first 128 bits of the fingerprint of the broker's key: the device talks to no other.
    """

    id: str
    secret: str
    pin: str

    def __str__(self) -> str:
        return f"edge-{self.id}-{self.secret}-{self.pin}"

    def __repr__(self) -> str:  # the secret must not reach a log by way of a traceback
        return f"ClaimToken({self.id})"

    @classmethod
    def new(cls, broker_key: str) -> ClaimToken:
        """A fresh token for a broker whose key has this fingerprint."""
        return cls(f"t{_base32(secrets.token_bytes(8))[:12]}", _base32(secrets.token_bytes(16)), pin_of(broker_key))

    @classmethod
    def parse(cls, text: str) -> ClaimToken:
        """Reads a token as `edge fleet token` prints it.

        Raises:
            Refused: it is not one; the message does not repeat it.
        """
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise Refused("the claim token is incomplete or mistyped: copy all of what 'edge fleet token' printed")
        return cls(*match.groups())

    @property
    def key(self) -> bytes:
        """What the server keeps in place of the secret, 32 bytes."""
        return hashlib.sha256(self.secret.encode()).digest()


def pin_of(fingerprint: str) -> str:
    """The part of a broker key's fingerprint that tokens carry."""
    return _base32(bytes.fromhex(fingerprint)[:16])


def claim_proof(key: bytes, request: bytes) -> str:
    """Shows that the sender of a certificate request holds a token's secret (HMAC-SHA-256, hexadecimal).

    The broker has already asked for the secret; this binds it to the request, whatever broker lies between.

    Args:
        key: `ClaimToken.key`.
        request: the certificate request, DER.
    """
    return hmac.new(key, b"edge claim\0" + request, hashlib.sha256).hexdigest()


def renewal_statement(request: bytes) -> bytes:
    """What a device signs with the key that it has, to vouch for the one that it asks a certificate for.

    Args:
        request: the certificate request, DER.
    """
    return b"edge renewal\0" + request


def is_token_id(text: str) -> bool:
    return _TOKEN_ID.fullmatch(text) is not None


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
