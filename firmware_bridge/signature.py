"""Keys of firmware models: who may sign them, and what each device shares with its owner.

One key file holds both: the pair that signs slot images (EdDSA over BLAKE2b, Monocypher), and the master secret from
which every device's own secret for the serial link is derived. It is a file for one person's eyes: mode 0600.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import Fields, reason
from edge.runtime.strict_json import parse_json

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_ID_BYTES = 8
SECRET_BYTES = 32
DEVICE_ID_BYTES = 16
MAC_BYTES = 16

_KIND = "edge-firmware-key"
_LARGEST_FILE = 4096
_LEVELS = 12  # of JSON


@dataclass(frozen=True)
class FirmwareKey:
    """What the owner of devices keeps secret.

    Args:
        signing_secret: 64 bytes, Monocypher's EdDSA secret key; its last 32 are the public key.
        link_master: 32 bytes, from which the devices' secrets are derived.
    """

    signing_secret: bytes
    link_master: bytes

    def __post_init__(self) -> None:
        if len(self.signing_secret) != 64 or len(self.link_master) != SECRET_BYTES:
            raise BadInput("a firmware key has a signing secret of 64 bytes and a link secret of 32")

    @classmethod
    def generate(cls) -> FirmwareKey:
        """A new key from the system's random numbers."""
        import monocypher

        secret, _ = monocypher.generate_signing_key_pair()
        return cls(bytes(secret), os.urandom(SECRET_BYTES))

    @property
    def public(self) -> bytes:
        """The 32 bytes that devices check signatures with."""
        import monocypher

        return bytes(monocypher.compute_signing_public_key(self.signing_secret))

    @property
    def id(self) -> bytes:
        """The 8 bytes that name the public key in a manifest."""
        return key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        import monocypher

        return bytes(monocypher.signature_sign(self.signing_secret, message))

    def device_secret(self, device_id: bytes) -> bytes:
        """The 32 bytes that the device of this identity (16 bytes) was given when it was made."""
        import monocypher

        return bytes(monocypher.blake2b(b"edge device" + device_id, key=self.link_master))[:SECRET_BYTES]


def key_id(public: bytes) -> bytes:
    """The first 8 bytes of BLAKE2b of a public key."""
    import monocypher

    return bytes(monocypher.blake2b(public))[:KEY_ID_BYTES]


def signature_holds(signature: bytes, public: bytes, message: bytes) -> bool:
    """Whether `signature` is the key's, of `message`."""
    import monocypher

    return bool(monocypher.signature_check(signature, public, message))


def link_mac(secret: bytes, message: bytes) -> bytes:
    """The 16 bytes that prove a command: BLAKE2b of 64 bytes, keyed with the device's secret, cut."""
    import monocypher

    return bytes(monocypher.blake2b(message, key=secret))[:MAC_BYTES]


def write_key(path: Path, key: FirmwareKey) -> None:
    """Writes a new key file that only its owner can read (mode 0600).

    Raises:
        EdgeError: there is such a file already, or it cannot be written.
    """
    text = json.dumps(
        {
            "kind": _KIND,
            "version": 1,
            "signing_secret": key.signing_secret.hex(),
            "link_master": key.link_master.hex(),
        },
        indent=1,
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise EdgeError(f"{path}: exists; a key that devices know is never written over: choose another name") from None
    except OSError as error:
        raise EdgeError(f"{path}: cannot be written ({reason(error)})") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")


def read_key(path: Path) -> FirmwareKey:
    """Reads a key file.

    Raises:
        BadFile: missing, or no key file; or others than its owner can read it.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise BadFile(f"{path}: others can read this key: chmod 600 {path}")
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise BadFile(f"{path}: no such key file: make one with 'edge firmware key {path}'") from None
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {reason(error)}") from None
    if len(data) > _LARGEST_FILE:
        raise BadFile(f"{path}: no firmware key: {_LARGEST_FILE:,} bytes at most are read")
    try:
        record = Fields(parse_json(data, "key", _LARGEST_FILE, _LEVELS), "key")
        record.choice("kind", (_KIND,))
        record.integer("version", 1, 1)
        key = FirmwareKey(_hex(record, "signing_secret", 64), _hex(record, "link_master", SECRET_BYTES))
        record.done()
    except BadFile as error:
        raise BadFile(f"{path}: no firmware key: {error}") from None
    return key


def _hex(record: Fields, name: str, count: int) -> bytes:
    value = record.text(name, 2 * count)
    try:
        found = bytes.fromhex(value)
    except ValueError:
        found = b""
    if len(found) != count:
        raise record.fail(name, f"expected {2 * count} hexadecimal digits")
    return found
