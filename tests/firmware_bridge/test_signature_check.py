"""The check of signatures in firmware, with its loops, says what Monocypher's own and the standard library say."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.firmware_bridge.compile import FIRMWARE
from edge.firmware_bridge.monocypher_source import monocypher_folder, small_source
from tests.conftest import made_once, source_hash
from tests.runtime.compilers import c_compiler

monocypher = pytest.importorskip("monocypher")

# The order of the group, of which a signature's second half stays below.
_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(scope="module")
def firmware() -> ctypes.CDLL:
    """What firmware is built of, for this machine and with checks for undefined behaviour."""

    def make(folder: Path) -> None:
        original = monocypher_folder()
        source = folder / "monocypher.c"
        source.write_text(small_source((original / "monocypher.c").read_text(encoding="utf-8")))
        command = [
            c_compiler(),
            "-std=c11",
            "-O1",
            "-shared",
            "-fPIC",
            "-fsanitize=signed-integer-overflow,shift,bounds",
            "-fsanitize-undefined-trap-on-error",
            f"-I{original}",
            f"-I{FIRMWARE / 'signature'}",
            str(source),
            "-o",
            str(folder / "small.so"),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr

    here = "tests/firmware_bridge/test_signature_check.py"
    key = source_hash("firmware_bridge/firmware/signature/*", "firmware_bridge/monocypher_source.py", here)
    library = ctypes.CDLL(str(made_once("small-monocypher", key, make) / "small.so"))
    library.crypto_eddsa_check.restype = ctypes.c_int
    return library


def accepts(library: ctypes.CDLL, signature: bytes, key: bytes, message: bytes) -> bool:
    result = library.crypto_eddsa_check(signature, key, message, ctypes.c_size_t(len(message)))
    assert result in (0, -1)
    return result == 0


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_what_monocypher_signs_is_accepted(firmware: ctypes.CDLL, secret: bytes, message: bytes) -> None:
    key = monocypher.compute_signing_public_key(secret)
    signature = monocypher.signature_sign(secret, message)
    assert accepts(firmware, signature, key, message)
    bad = bytearray(signature)
    bad[random.Random(message).randrange(64)] ^= 1 << random.Random(secret).randrange(8)
    assert not accepts(firmware, bytes(bad), key, message)
    assert not accepts(firmware, signature, key, message + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_rubbish_is_judged_as_monocypher_judges_it(
    firmware: ctypes.CDLL, signature: bytes, key: bytes, message: bytes
) -> None:
    assert accepts(firmware, signature, key, message) == monocypher.signature_check(signature, key, message)


def test_edges_are_judged_as_monocypher_judges_them(firmware: ctypes.CDLL) -> None:
    """Points of small order and near the field's end, scalars of zero and at the group's order, in every pairing."""
    field = 2**255 - 19
    points = [0, 1, 2, field - 1, field, field + 1, 2**255 - 1, 2**256 - 1, 2**255, 2**255 + 1]
    points += [
        int.from_bytes(bytes.fromhex(text), "little")
        for text in (
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        )
    ]
    scalars = [0, 1, 8, _ORDER - 1, _ORDER, _ORDER + 1, 2**253, 2**256 - 1]
    seen = set()
    for key in points:
        for r in points:
            for s in scalars:
                signature = r.to_bytes(32, "little") + s.to_bytes(32, "little")
                wanted = monocypher.signature_check(signature, key.to_bytes(32, "little"), b"edge")
                assert accepts(firmware, signature, key.to_bytes(32, "little"), b"edge") == wanted
                seen.add(wanted)
    assert False in seen


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 255, 256, 257, 1000])
def test_blake2b_is_the_standard_librarys(firmware: ctypes.CDLL, length: int) -> None:
    message, secret = os.urandom(length), os.urandom(32)
    digest = ctypes.create_string_buffer(64)
    firmware.crypto_blake2b(digest, ctypes.c_size_t(64), message, ctypes.c_size_t(length))
    assert digest.raw == hashlib.blake2b(message).digest()
    firmware.crypto_blake2b_keyed(
        digest, ctypes.c_size_t(64), secret, ctypes.c_size_t(32), message, ctypes.c_size_t(length)
    )
    assert digest.raw == hashlib.blake2b(message, key=secret).digest()
