"""Slot images: a program with the signed manifest that a device checks before it runs it.

The layout is that of firmware_bridge/firmware/protocol/slot.h; docs/protocol.md describes it byte by byte.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.firmware_bridge.signature import KEY_ID_BYTES, SIGNATURE_BYTES, FirmwareKey, signature_holds
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.manifest import Manifest, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST_BYTES = 320
SIGNED_BYTES = 256
SLOT_FORMAT = 1
PROGRAM_ABI = 1
SELF_TEST_VALUES = 16
MAX_DESCRIPTION_BYTES = 1 << 14
MAX_SEQUENCE = (1 << 32) - 1
PAYLOAD_ALIGN = 16

_MAGIC = b"EDGESLOT"
# Everything before the signature, as in slot.h.
_SIGNED = struct.Struct("<8s2H7IQ32s16s16s32s16s2IfI16f8s8x")
assert _SIGNED.size == SIGNED_BYTES
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class SlotManifest:
    """What a slot image says of itself.

    Args:
        program_bytes, description_bytes: of the two parts of the payload.
        state_bytes, arena_bytes, scratch_bytes: memory as the maker measured it; a device refuses a program that plans
            a larger arena than this, or that does not fit its own memory.
        sequence: 1 ..; a device never goes back to a lower one than it has confirmed.
        expiry: Unix seconds after which no device should take it; 0 is never. A board without a clock cannot check it:
            there the host refuses to send it, and the sequence keeps the device from going back.
        sha256: of the payload.
        target, board: classes of processor and board that may run it, for example "cortex-m4" and "mps2-an386"; "" is
            any.
        test_seed, test_tolerance, test_values: the self-test of a trial boot: inputs made from the seed
            (`self_test_input`), the first values of the first output, and how far each may be off.
        key_id: 8 bytes that name the public key.
    """

    program_bytes: int
    description_bytes: int
    state_bytes: int
    arena_bytes: int
    scratch_bytes: int
    sequence: int
    expiry: int
    sha256: bytes
    target: str
    board: str
    name: str
    version: str
    test_seed: int
    test_tolerance: float
    test_values: tuple[float, ...]
    key_id: bytes
    abi: int = PROGRAM_ABI

    @property
    def payload_bytes(self) -> int:
        """Bytes of program, padding and description."""
        if not self.description_bytes:
            return self.program_bytes
        return _padded(self.program_bytes) + self.description_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes of the whole image."""
        return MANIFEST_BYTES + self.payload_bytes

    def signed_bytes(self) -> bytes:
        """The 256 bytes that the signature covers."""
        values = [*self.test_values, *[0.0] * (SELF_TEST_VALUES - len(self.test_values))]
        return _SIGNED.pack(
            _MAGIC,
            SLOT_FORMAT,
            self.abi,
            self.program_bytes,
            self.description_bytes,
            self.state_bytes,
            self.arena_bytes,
            self.scratch_bytes,
            self.sequence,
            0,
            self.expiry,
            self.sha256,
            self.target.encode(),
            self.board.encode(),
            self.name.encode(),
            self.version.encode(),
            self.test_seed,
            len(self.test_values),
            self.test_tolerance,
            0,
            *values,
            self.key_id,
        )


def slot_image(
    pte: bytes,
    key: FirmwareKey,
    *,
    sequence: int,
    target: str = "",
    board: str = "",
    name: str = "model",
    version: str = "1",
    expiry: int = 0,
    manifest: Manifest | None = None,
    needs: tuple[int, int, int] | None = None,
) -> bytes:
    """A signed slot image of a program.

    The core runs the program here once, for the self-test, and says how much memory it takes.

    Args:
        pte: the program.
        key: signs it.
        sequence: higher than that of every image the devices had before.
        target, board: classes of device that may run it; "" is any.
        expiry: Unix seconds; 0 is never.
        manifest: the bundle's, whose labels and preprocessing travel along for those who connect to the device.
        needs: bytes of state, arena and scratch memory on the device; as measured here if not given.

    Raises:
        BadFile: the core does not read the program.
        BadInput: a text too long or of other characters, or a number out of range.
        Unsupported: the program needs what the core does not have.
    """
    from edge.runtime.backends.core import open as open_core

    for what, text, longest in (
        ("target", target, 16),
        ("board", board, 16),
        ("name", name, 32),
        ("version", version, 16),
    ):
        if len(text) > longest or (text and not _WORD.fullmatch(text)):
            raise BadInput(f"{what} {text!r}: expected at most {longest} letters, digits and . _ + - within")
    if not 1 <= sequence <= MAX_SEQUENCE:
        raise BadInput(f"sequence {sequence}: expected 1 to {MAX_SEQUENCE:,}")
    if not 0 <= expiry < 1 << 63:
        raise BadInput(f"expiry {expiry}: expected Unix seconds, or 0 for never")
    session = open_core(pte, 1)
    seed = int.from_bytes(hashlib.sha256(pte).digest()[:4], "little")
    expected = session.run(self_test_inputs(session.inputs, seed))[0].reshape(-1)
    values = expected[:SELF_TEST_VALUES].astype(np.float32) if expected.dtype == np.float32 else np.zeros(0, np.float32)
    largest = float(np.max(np.abs(expected))) if values.size else 0.0
    if not np.isfinite(largest):  # a model that gives infinities for noise only has to run
        values, largest = np.zeros(0, np.float32), 0.0
    program = session._program
    state, arena, scratch = needs or (program.state_bytes, program.arena_bytes, program.scratch_bytes)
    description = b"" if manifest is None else description_of(manifest)
    payload = pte if not description else pte + bytes(_padded(len(pte)) - len(pte)) + description
    made = SlotManifest(
        program_bytes=len(pte),
        description_bytes=len(description),
        state_bytes=state,
        arena_bytes=arena,
        scratch_bytes=scratch,
        sequence=sequence,
        expiry=expiry,
        sha256=hashlib.sha256(payload).digest(),
        target=target,
        board=board,
        name=name,
        version=version,
        test_seed=seed,
        # Another C library's exp or another order of a sum may turn an int8 rounding: see DESIGN, "Quantization".
        test_tolerance=0.05 * largest + 1e-3,
        test_values=tuple(map(float, values)),
        key_id=key.id,
    )
    session.close()
    return sign_manifest(made, key) + payload


def sign_manifest(manifest: SlotManifest, key: FirmwareKey) -> bytes:
    """The 320 bytes of a manifest with its signature."""
    signed = replace(manifest, key_id=key.id).signed_bytes()
    return signed + key.sign(signed)


def read_manifest(image: bytes, where: str = "slot image") -> SlotManifest:
    """Reads the manifest at the beginning of an image, whoever signed it.

    Raises:
        BadFile: no manifest, or one that contradicts itself.
    """
    if len(image) < MANIFEST_BYTES and image[:8] == _MAGIC:
        raise BadFile(f"{where}: {len(image)} bytes; a manifest alone has {MANIFEST_BYTES}")
    if image[:8] != _MAGIC:
        raise BadFile(f"{where}: no slot image: it does not begin with {_MAGIC.decode()}")
    fields: list[Any] = list(_SIGNED.unpack_from(image))
    form, abi, program, description, state, arena, scratch, sequence, reserved, expiry, digest = fields[1:12]
    target, board, name, version = (_text(field, where) for field in fields[12:16])
    seed, count, tolerance, reserved_2 = fields[16:20]
    if form != SLOT_FORMAT:
        raise BadFile(f"{where}: slot format {form}; this version reads {SLOT_FORMAT}: update edge-deploy")
    if reserved or reserved_2 or count > SELF_TEST_VALUES or not program or not sequence:
        raise BadFile(f"{where}: the manifest is damaged")
    if description > MAX_DESCRIPTION_BYTES:
        raise BadFile(f"{where}: a description of {description:,} bytes; at most {MAX_DESCRIPTION_BYTES:,} are read")
    return SlotManifest(
        program,
        description,
        state,
        arena,
        scratch,
        sequence,
        expiry,
        digest,
        target,
        board,
        name,
        version,
        seed,
        tolerance,
        tuple(fields[20 : 20 + count]),
        fields[36],
        abi,
    )


def check_image(image: bytes, public: bytes | None = None, where: str = "slot image") -> SlotManifest:
    """Reads an image and checks that it is whole; with a public key, also that this key signed it.

    Raises:
        BadFile: it is not; the message says why.
    """
    manifest = read_manifest(image, where)
    if len(image) != manifest.image_bytes:
        raise BadFile(f"{where}: {len(image):,} bytes; its manifest says {manifest.image_bytes:,}")
    if hashlib.sha256(image[MANIFEST_BYTES:]).digest() != manifest.sha256:
        raise BadFile(f"{where}: its program is not the one that was signed (SHA-256 differs)")
    signature = image[SIGNED_BYTES : SIGNED_BYTES + SIGNATURE_BYTES]
    if public is not None and not signature_holds(signature, public, image[:SIGNED_BYTES]):
        raise BadFile(f"{where}: broken signature: it is not of the key given")
    return manifest


def image_program(image: bytes) -> bytes:
    """The `.pte` in an image that was checked."""
    return image[MANIFEST_BYTES : MANIFEST_BYTES + read_manifest(image).program_bytes]


def image_description(image: bytes) -> bytes:
    """The description in an image that was checked; empty if it has none."""
    manifest = read_manifest(image)
    return image[manifest.image_bytes - manifest.description_bytes : manifest.image_bytes]


def description_of(manifest: Manifest) -> bytes:
    """What of a bundle's manifest travels with the program: names, shapes, labels, preprocessing, as a manifest.

    Raises:
        BadInput: it is too long for a device.
    """
    import json

    files = {name: entry for name, entry in manifest.files.items() if "core" in entry.engines}
    short = replace(
        manifest, files=files, generator={}, quantization=None, metrics=None, training={}, reference=None
    ).to_json()
    packed = json.dumps(json.loads(short), separators=(",", ":"), ensure_ascii=False).encode()
    if len(packed) > MAX_DESCRIPTION_BYTES:
        raise BadInput(
            f"labels and preprocessing take {len(packed):,} bytes; a device keeps {MAX_DESCRIPTION_BYTES:,} at most"
        )
    return packed


def self_test_inputs(specs: Sequence[TensorSpec], seed: int) -> list[NDArray[Any]]:
    """The inputs that a device makes for its self-test.

    A xorshift32 generator gives one number an element, all inputs in order. float32: its upper 24 bits as −1 … 1 (in
    steps of 2^-23); float64 likewise; other types: 0, because an index or a code may be out of a model's range.
    """
    state = (seed & 0xFFFFFFFF) or 1
    arrays: list[NDArray[Any]] = []
    for spec in specs:
        array = np.zeros(spec.shape, spec.dtype)
        if spec.dtype in ("float32", "float64"):
            numbers = np.empty(array.size, np.int64)
            for index in range(array.size):
                state ^= (state << 13) & 0xFFFFFFFF
                state ^= state >> 17
                state ^= (state << 5) & 0xFFFFFFFF
                numbers[index] = state >> 8
            array = ((numbers - (1 << 23)) / (1 << 23)).astype(spec.dtype).reshape(spec.shape)
        arrays.append(array)
    return arrays


def _padded(count: int) -> int:
    return -(-count // PAYLOAD_ALIGN) * PAYLOAD_ALIGN


def _text(field: bytes, where: str) -> str:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0") or (text and not (text.isascii() and _WORD.fullmatch(text.decode("ascii")))):
        raise BadFile(f"{where}: a name in the manifest is damaged")
    return text.decode("ascii")


assert KEY_ID_BYTES == 8
