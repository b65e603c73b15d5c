"""Writes vectors.json, which the tests hold both sides of the protocol to: `python make_vectors.py`.

The bytes are those that devices in the field have: when a test says that they differ, the protocol has changed, and its
version number must.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edge.firmware_bridge.frames import Frame
from edge.firmware_bridge.messages import Command, Status
from edge.firmware_bridge.signature import FirmwareKey, link_mac
from edge.firmware_bridge.slot_image import SlotManifest, sign_manifest
from edge.firmware_bridge.storage import Commit, Identity

VECTORS = Path(__file__).with_name("vectors.json")
SIGNING_SECRET = (
    "763e935718d8d7b1b716f32cd54b861f898e4c48887a9b1c4f14e24428ae8d0f"
    "e99df72bb9ec849bf7568697811c3cac2b26c8b4a565a9e9355223e5a5e7ea86"
)


def key() -> FirmwareKey:
    """A key that is in the open: for vectors alone."""
    return FirmwareKey(bytes.fromhex(SIGNING_SECRET), bytes(range(32)))


def frames() -> list[Frame]:
    """One of each kind that COBS and the CRC tell apart."""
    return [
        Frame(Command.INFO, 1),
        Frame(Command.VERIFY, 0x01020304, b"\0"),
        Frame(Command.INPUT, 7, bytes(range(256)) * 4),
        Frame(Command.INPUT, 8, b"\0" * 64),
        Frame(Command.INPUT, 9, b"\x55" * 1028),
        # Runs of 253, 254 and 255 bytes without a zero, at the end of the frame's COBS blocks.
        *(Frame(Command.INPUT, 0, b"\x01" * count) for count in (245, 246, 247, 248, 500, 501, 502)),
        Frame(Command.CHUNK | 0x80, 0xFFFFFFFF, b"stale", Status.STALE),
        Frame(Command.INFO | 0x80, 0, b"", Status.WRONG_VERSION, version=2),
    ]


def manifest() -> SlotManifest:
    """Every field with a value of its own."""
    return SlotManifest(
        program_bytes=5588,
        description_bytes=600,
        state_bytes=3664,
        arena_bytes=1408,
        scratch_bytes=48,
        sequence=7,
        expiry=2_000_000_000,
        sha256=hashlib.sha256(b"payload").digest(),
        target="cortex-m4",
        board="mps2-an386",
        name="keywords",
        version="1.2.0",
        test_seed=0x1234ABCD,
        test_tolerance=0.25,
        test_values=(0.5, -1.0, 2.0),
        key_id=key().id,
    )


def vectors() -> dict[str, object]:
    """What vectors.json holds."""
    owner = key()
    request = Frame(Command.ACTIVATE, 0x11223344, bytes.fromhex("0100000007000000"))
    nonce, counter = bytes(range(16)), (5).to_bytes(4, "little")
    secret = owner.device_secret(b"0123456789abcdef")
    identity = Identity.of(owner, b"0123456789abcdef")
    commit = Commit(9, 1, 0, 2, Status.TRIAL_PASSED, 70, 69, 68, 71)
    return {
        "frames": [
            {
                "version": frame.version,
                "command": frame.command,
                "status": frame.status,
                "sequence": frame.sequence,
                "body": frame.body.hex(),
                "line": frame.encode().hex(),
            }
            for frame in frames()
        ],
        "authentication": {
            "secret": secret.hex(),
            "nonce": nonce.hex(),
            "counter": counter.hex(),
            "header": request.header.hex(),
            "body": request.body.hex(),
            "mac": link_mac(secret, nonce + request.header + counter + request.body).hex(),
        },
        "manifest": sign_manifest(manifest(), owner).hex(),
        "public_key": owner.public.hex(),
        "identity": identity.pack().hex(),
        "commit": commit.pack().hex(),
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
