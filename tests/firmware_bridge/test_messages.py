"""Numbers of the protocol: the same in C, in Python and in the document."""

from __future__ import annotations

import re

import pytest

from edge.firmware_bridge.messages import Command, Info, Status, status_text, unpack_port, unpack_profile
from edge.firmware_bridge.operators import operator_symbols, pack_operators, unpack_operators
from edge.firmware_bridge.slot_image import read_manifest
from edge.runtime.errors import BadFile
from tests.conftest import ROOT

HEADER = (ROOT / "firmware_bridge/firmware/protocol/messages.h").read_text()
DOCUMENT = (ROOT / "docs/protocol.md").read_text()


def enumerators(name: str) -> dict[str, int]:
    body = re.search(rf"typedef enum {name} {{(.*?)}} {name};", HEADER, re.DOTALL)
    assert body is not None
    return {word: int(number, 0) for word, number in re.findall(r"EDGE_(\w+) = (\w+)", body[1])}


def test_commands_are_the_same_everywhere() -> None:
    in_c = enumerators("edge_command")
    assert in_c.pop("ANSWER") == 0x80
    assert in_c.pop("FIRST_AUTHENTICATED") == 0x40
    assert in_c == {command.name: command.value for command in Command}
    told = {name: int(number, 16) for number, name in re.findall(r"^\| (0x\w\w) \| (\w+) \|", DOCUMENT, re.MULTILINE)}
    assert told == in_c


def test_statuses_are_the_same_everywhere() -> None:
    in_c = enumerators("edge_refusal")
    assert in_c == {status.name: status.value for status in Status}
    told = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", DOCUMENT, re.MULTILINE)}
    assert told == in_c


def test_statuses_in_words() -> None:
    assert status_text(Status.WRONG_BOARD) == "wrong board"
    assert status_text(0) == "none"
    assert status_text(999) == "status 999"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\6\1\0\0\4\0\0\0",
        b"\6\2\0\0\4\0\0\0\1\0\0\0",
        b"\5\1\0\0\4\0\0\0\1\0\0\0",
        b"\6\1\0\0\4\0\0\0\xff\xff\xff\xff",
    ],
)
def test_damaged_descriptions_of_tensors(body: bytes) -> None:
    with pytest.raises(BadFile, match="description of a tensor is damaged"):
        unpack_port(body, "input_0")


@pytest.mark.parametrize("body", [b"\0" * 9, b"\0" * 8 + b"\1\1abc", b"\0" * 8 + b"\0\5abc", b"\0" * 8 + b"\0\1\xff"])
def test_damaged_profiles(body: bytes) -> None:
    with pytest.raises(BadFile, match="profile is damaged"):
        unpack_profile(body)


def test_damaged_info() -> None:
    for body in (b"", b"\0" * 223, b"\0" * 224):
        with pytest.raises(BadFile, match="the device's info"):
            Info.unpack(body)


def test_operators_as_info_tells_them() -> None:
    known = tuple(operator_symbols())
    for some in ((), known[:1], known[3:20:4], known):
        assert unpack_operators(pack_operators(some)) == tuple(some)
        assert unpack_operators(pack_operators(some) + b"of a later version") == tuple(some)
    told = pack_operators(known[:5])
    # Of an older firmware, of one with another core's list, and what is damaged: not told.
    for body in (b"", told[:-1], b"\0" + told[1:]):
        assert unpack_operators(body) == ()


def test_images_that_are_none() -> None:
    for image in (b"", b"x" * 400):
        with pytest.raises(BadFile, match="does not begin with EDGESLOT"):
            read_manifest(image)
    with pytest.raises(BadFile, match="8 bytes; a manifest alone has 320"):
        read_manifest(b"EDGESLOT")
    with pytest.raises(BadFile, match="slot format 0"):
        read_manifest(b"EDGESLOT" + b"\0" * 400)
    with pytest.raises(BadFile, match="the manifest is damaged"):
        read_manifest(b"EDGESLOT\1\0\1\0" + b"\0" * 400)
