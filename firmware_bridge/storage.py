"""What lies where in a device's storage: the twin of firmware_bridge/firmware/protocol/storage.h.

The build uses it for the storage that a device begins with: an identity, and a model that is active.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from edge.firmware_bridge.signature import DEVICE_ID_BYTES, PUBLIC_KEY_BYTES, SECRET_BYTES, FirmwareKey
from edge.firmware_bridge.slot_image import check_image
from edge.runtime.errors import BadFile, BadInput

ERASED = 0xFF
NO_SLOT = 0xFF
MAX_KEYS = 4

_IDENTITY = struct.Struct("<8sHHI16s32s128s12x")
_COMMIT = struct.Struct("<4sI4B4I16x")
_CRC = struct.Struct("<I")
_IDENTITY_MAGIC = b"EDGEIDEN"
_COMMIT_MAGIC = b"CMIT"
COMMIT_BYTES = _COMMIT.size + _CRC.size
IDENTITY_BYTES = _IDENTITY.size + _CRC.size
assert (COMMIT_BYTES, IDENTITY_BYTES) == (48, 208)


@dataclass(frozen=True)
class Layout:
    """Offsets in a storage of `storage_bytes`, erased in sectors of `erase_bytes`; all are multiples of that.

    Args:
        learned_share: bytes that the board asks for to keep learned weights in, before they are rounded up to sectors;
            None: a sixteenth of the storage (EDGE_STORAGE_LEARNED_BYTES of board_config.h).
    """

    storage_bytes: int
    erase_bytes: int
    learned_share: int | None = None

    @property
    def log_at(self) -> int:
        """Of the two sectors of commit records."""
        return self.erase_bytes

    @property
    def learned_at(self) -> int:
        """Of the first of two copies of learned weights."""
        return 3 * self.erase_bytes

    @property
    def learned_bytes(self) -> int:
        """Of one copy."""
        share = self.storage_bytes // 16 if self.learned_share is None else self.learned_share
        return -(-share // self.erase_bytes) * self.erase_bytes

    @property
    def slots_at(self) -> int:
        """Of slot A."""
        return self.learned_at + 2 * self.learned_bytes

    @property
    def slot_bytes(self) -> int:
        """Of one slot."""
        return (self.storage_bytes - self.slots_at) // (2 * self.erase_bytes) * self.erase_bytes

    def slot_at(self, slot: int) -> int:
        """Of slot 0 (A) or 1 (B)."""
        return self.slots_at + slot * self.slot_bytes


@dataclass(frozen=True)
class Identity:
    """Who a device is.

    Args:
        device_id: 16 bytes.
        secret: 32 bytes that its owner derives from the device's id (`FirmwareKey.device_secret`).
        keys: public keys of those whose models it runs, 1 to 4.
    """

    device_id: bytes
    secret: bytes
    keys: tuple[bytes, ...]

    @classmethod
    def of(cls, key: FirmwareKey, device_id: bytes) -> Identity:
        """The identity that the owner of `key` gives to the device of this id."""
        return cls(device_id, key.device_secret(device_id), (key.public,))

    def pack(self) -> bytes:
        """The 208 bytes at the beginning of the storage.

        Raises:
            BadInput: a part has another length than it must.
        """
        if len(self.device_id) != DEVICE_ID_BYTES or len(self.secret) != SECRET_BYTES:
            raise BadInput(f"a device id has {DEVICE_ID_BYTES} bytes and a secret {SECRET_BYTES}")
        if not 1 <= len(self.keys) <= MAX_KEYS or any(len(key) != PUBLIC_KEY_BYTES for key in self.keys):
            raise BadInput(f"a device knows 1 to {MAX_KEYS} public keys of {PUBLIC_KEY_BYTES} bytes")
        packed = _IDENTITY.pack(_IDENTITY_MAGIC, 1, len(self.keys), 0, self.device_id, self.secret, b"".join(self.keys))
        return packed + _CRC.pack(zlib.crc32(packed))


@dataclass(frozen=True)
class Commit:
    """A commit record; see storage.h. Slots are 0, 1 or NO_SLOT."""

    counter: int
    active: int = NO_SLOT
    trial: int = NO_SLOT
    trial_boots: int = 0
    trial_result: int = 0
    floor: int = 0
    active_sequence: int = 0
    previous_sequence: int = 0
    trial_sequence: int = 0

    def pack(self) -> bytes:
        """The 48 bytes of the record."""
        packed = _COMMIT.pack(
            _COMMIT_MAGIC,
            self.counter,
            self.active,
            self.trial,
            self.trial_boots,
            self.trial_result,
            self.floor,
            self.active_sequence,
            self.previous_sequence,
            self.trial_sequence,
        )
        return packed + _CRC.pack(zlib.crc32(packed))

    @classmethod
    def unpack(cls, record: bytes) -> Commit | None:
        """The record, or None if there is no whole one."""
        if len(record) < COMMIT_BYTES or record[:4] != _COMMIT_MAGIC:
            return None
        if _CRC.unpack_from(record, _COMMIT.size)[0] != zlib.crc32(record[: _COMMIT.size]):
            return None
        made = cls(*_COMMIT.unpack_from(record)[1:])
        return made if {made.active, made.trial} <= {0, 1, NO_SLOT} else None


def last_commit(storage: bytes, layout: Layout) -> Commit | None:
    """The commit record of a storage that counts, or None if it has none."""
    found: Commit | None = None
    for sector in range(2):
        start = layout.log_at + sector * layout.erase_bytes
        for at in range(start, start + layout.erase_bytes - COMMIT_BYTES + 1, COMMIT_BYTES):
            record = Commit.unpack(storage[at : at + COMMIT_BYTES])
            if record is not None and (found is None or record.counter > found.counter):
                found = record
    return found


def first_storage_image(layout: Layout, identity: Identity, images: Sequence[bytes] = ()) -> bytes:
    """The storage of a new device, up to its last byte that is not erased.

    Args:
        images: a slot image for slot A, which becomes the active one; none: the device waits for its first.

    Raises:
        BadFile: the image is damaged.
        BadInput: it does not fit into a slot, or there are several.
    """
    if len(images) > 1:
        raise BadInput("a new device has one model")
    made = bytearray([ERASED]) * layout.storage_bytes
    packed = identity.pack()
    made[: len(packed)] = packed
    used = layout.log_at
    for image in images:
        manifest = check_image(image)
        if len(image) > layout.slot_bytes:
            raise BadInput(f"the model takes {len(image):,} bytes of storage; a slot has {layout.slot_bytes:,}")
        made[layout.slot_at(0) : layout.slot_at(0) + len(image)] = image
        commit = Commit(1, active=0, floor=manifest.sequence, active_sequence=manifest.sequence).pack()
        made[layout.log_at : layout.log_at + len(commit)] = commit
        used = layout.slot_at(0) + len(image)
    return bytes(made[:used])


def slot_contents(storage: bytes, layout: Layout, slot: int) -> bytes:
    """The image in a slot of a storage.

    Raises:
        BadFile: there is none.
    """
    from edge.firmware_bridge.slot_image import read_manifest

    start = layout.slot_at(slot)
    held = storage[start : start + layout.slot_bytes]
    size = read_manifest(held, f"slot {slot}").image_bytes
    if size > len(held):
        raise BadFile(f"slot {slot}: holds no whole image")
    return held[:size]
