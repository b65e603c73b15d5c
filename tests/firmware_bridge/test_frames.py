"""Frames: both sides of the protocol against the same bytes."""

from __future__ import annotations

import json
import random
import subprocess
import zlib
from pathlib import Path

import pytest

from edge.firmware_bridge.frames import MAX_FRAME_BYTES, Frame, FrameReader
from edge.firmware_bridge.signature import link_mac, signature_holds
from edge.firmware_bridge.slot_image import SIGNED_BYTES, read_manifest
from edge.firmware_bridge.storage import Commit
from tests.conftest import made_once, source_hash
from tests.firmware_bridge.host_board import FIRMWARE, HERE
from tests.firmware_bridge.make_vectors import VECTORS, manifest, vectors
from tests.runtime.compilers import CORE, SANITIZERS, sanitizing_compiler

PINNED = json.loads(VECTORS.read_text())


@pytest.fixture(scope="module")
def tool() -> Path:
    """The firmware's frames as a program, with sanitizers."""

    def make(folder: Path) -> None:
        sources = [HERE / "frame_tool.c", FIRMWARE / "protocol/frame.c", FIRMWARE / "protocol/crc32.c"]
        command = [sanitizing_compiler(), "-std=c11", "-O1", "-g", *SANITIZERS]
        command += [f"-I{path}" for path in (CORE, FIRMWARE, FIRMWARE / "protocol", HERE)]
        subprocess.run([*command, *map(str, sources), "-o", str(folder / "frame_tool")], check=True)

    key = source_hash("firmware_bridge/firmware/protocol/*.[ch]", "tests/firmware_bridge/host/*")
    return made_once("frame-tool", key, make) / "frame_tool"


def ask(tool: Path, lines: list[str]) -> list[str]:
    result = subprocess.run([tool], input="\n".join(lines) + "\n", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()


def test_vectors_are_as_pinned() -> None:
    assert vectors() == PINNED, "the protocol's bytes have changed: so must its version (make_vectors.py)"


def test_python_reads_the_pinned_frames() -> None:
    for pinned in PINNED["frames"]:
        frame = Frame(
            pinned["command"], pinned["sequence"], bytes.fromhex(pinned["body"]), pinned["status"], pinned["version"]
        )
        assert FrameReader().feed(bytes.fromhex(pinned["line"])) == [frame]


def test_c_reads_and_writes_the_pinned_frames(tool: Path) -> None:
    plain = []
    for pinned in PINNED["frames"]:
        frame = Frame(
            pinned["command"], pinned["sequence"], bytes.fromhex(pinned["body"]), pinned["status"], pinned["version"]
        )
        plain.append((frame.header + frame.body).hex())
    lines = [pinned["line"] for pinned in PINNED["frames"]]
    assert ask(tool, [f"d {line}" for line in lines]) == [f" whole {frame}" for frame in plain]
    assert ask(tool, [f"e {frame}" for frame in plain]) == lines


def test_c_has_zlibs_crc(tool: Path) -> None:
    samples = [b"", b"123456789", bytes(range(256)) * 5]
    assert ask(tool, [f"c {sample.hex()}" for sample in samples]) == [f"{zlib.crc32(s):08x}" for s in samples]


def test_random_frames_are_the_same_on_both_sides(tool: Path) -> None:
    draw = random.Random(1)
    frames = [
        Frame(
            draw.randrange(256),
            draw.getrandbits(32),
            bytes(draw.choice((0, 1, 255, draw.randrange(256))) for _ in range(draw.randrange(MAX_FRAME_BYTES - 11))),
            draw.getrandbits(16),
        )
        for _ in range(200)
    ]
    lines = [frame.encode().hex() for frame in frames]
    plain = [(frame.header + frame.body).hex() for frame in frames]
    assert ask(tool, [f"e {frame}" for frame in plain]) == lines
    assert ask(tool, [f"d {line}" for line in lines]) == [f" whole {frame}" for frame in plain]


def test_damage_is_found_on_both_sides(tool: Path) -> None:
    draw = random.Random(2)
    lines = []
    for pinned in PINNED["frames"] * 20:
        line = bytearray.fromhex(pinned["line"])
        line[draw.randrange(1, len(line) - 1)] ^= draw.randrange(1, 256)
        lines.append(bytes(line))
    for line, said in zip(lines, ask(tool, [f"d {line.hex()}" for line in lines]), strict=True):
        reader = FrameReader()
        assert reader.feed(line) == []
        assert reader.damaged == said.count("bad") > 0
        assert "whole" not in said


def test_reader_finds_frames_in_noise_however_they_are_cut() -> None:
    draw = random.Random(3)
    wanted = [Frame(1, number, bytes(draw.randrange(256) for _ in range(40))) for number in range(50)]
    stream = b"".join(bytes(draw.randrange(1, 256) for _ in range(draw.randrange(9))) + f.encode() for f in wanted)
    reader, found = FrameReader(), []
    while stream:
        count = draw.randrange(1, 30)
        found += reader.feed(stream[:count])
        stream = stream[count:]
    assert found == wanted


def test_reader_keeps_no_more_than_a_frame() -> None:
    reader = FrameReader()
    for _ in range(100):
        assert reader.feed(b"\x55" * 4096) == []
    assert len(reader._begun) <= MAX_FRAME_BYTES + 10
    assert reader.feed(b"\0" + Frame(1, 2).encode()) == [Frame(1, 2)]


def test_pinned_records() -> None:
    signed = bytes.fromhex(PINNED["manifest"])
    assert read_manifest(signed) == manifest()
    assert signature_holds(signed[SIGNED_BYTES:], bytes.fromhex(PINNED["public_key"]), signed[:SIGNED_BYTES])
    commit = Commit.unpack(bytes.fromhex(PINNED["commit"]))
    assert commit == Commit(9, 1, 0, 2, 46, 70, 69, 68, 71)
    parts = {name: bytes.fromhex(value) for name, value in PINNED["authentication"].items()}
    message = parts["nonce"] + parts["header"] + parts["counter"] + parts["body"]
    assert link_mac(parts["secret"], message) == parts["mac"]
