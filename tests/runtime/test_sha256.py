"""The core's SHA-256 against FIPS 180-4's examples and hashlib, at once and in pieces."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge.runtime import _core
from tests.runtime.compilers import CORE, STRICT, c_compiler

NOISE = np.random.default_rng(7).bytes(1000)


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
    ids=["empty", "one block", "two blocks", "a million"],
)
def test_examples_of_the_standard(message: bytes, digest: str) -> None:
    assert _core.sha256(message) == digest


def test_every_length_around_the_padding() -> None:
    for count in range(300):
        assert _core.sha256(memoryview(NOISE)[:count]) == hashlib.sha256(NOISE[:count]).hexdigest(), count


def test_pieces(tmp_path: Path) -> None:
    program = tmp_path / "pieces"
    source = Path(__file__).with_name("sha256_pieces.c")
    subprocess.run([c_compiler(), *STRICT, source, CORE / "sha256.c", "-o", program], check=True)
    for piece in (0, 1, 55, 56, 63, 64, 65, 127, 1000):
        for count in (0, 1, 64, 119, 1000):
            done = subprocess.run([program, str(piece)], input=NOISE[:count], capture_output=True, check=True)
            expected = hashlib.sha256(NOISE[:count] if piece else b"").hexdigest()
            assert done.stdout.decode() == expected, (piece, count)
