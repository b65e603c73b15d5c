"""10,000 seeded mutations of a bundle: each is refused with one of our errors or read; nothing escapes the cache."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.runtime import Bundle, EdgeError

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "../../evil", "/etc/passwd", "C:\\evil", "a\\b", "..", ".", "manifest.json", "model.pte", "\0", "\u202e",
    "\ud800", "x" * 10_000, [], {}, [[]], [[[[[[[[[[[[[[]]]]]]]]]]]]]], {"": {"": {"": {}}}}, [None] * 100,
    ["core"] * 5,
    {"kind": "image"}, {"../x": {}}, [1, 2, 3], ["red", "green", "blue"], "float32", "core", "NaN",
]  # fmt: skip
_INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_recorded: list[str] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Notes every path that is opened for writing, made, moved or linked while `recorded_writes` is active."""
    if _recorded is None:
        return
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
        _recorded.append(os.fspath(args[0]) if not isinstance(args[0], int) else f"fd {args[0]}")
    elif event in ("os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.truncate"):
        _recorded.append(os.fspath(args[0]))
    elif event in ("os.rename", "os.link", "os.symlink"):
        _recorded.extend(os.fspath(path) for path in args[:2])


@contextmanager
def recorded_writes() -> Iterator[list[str]]:
    global _recorded
    _recorded = []
    try:
        yield _recorded
    finally:
        _recorded = None


sys.addaudithook(_audit)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, overwrites, cuts, repeats, inserts; now and then one of zip's own length fields."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        kind = rng.randrange(8)
        at = rng.randrange(len(out)) if out else 0
        if not out or kind == 0:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at] = rng.choice(_INTERESTING)
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 16, 300, len(out)))]
        elif kind == 4:
            out[at:at] = out[at : at + rng.randrange(1, 200)]
        elif kind == 5:
            value = rng.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, len(out), rng.randrange(len(out) + 1)))
            out[at : at + 4] = value.to_bytes(4, "little")
        else:
            # The headers are a small part of the file: aim at one of them.
            marks = [mark.start() for mark in re.finditer(b"PK[\1\3\5]", out)]
            if marks:
                field = rng.choice(marks) + rng.randrange(64)
                out[field : field + 1] = bytes([rng.choice((*_INTERESTING, rng.randrange(256)))])
    return bytes(out)


def mutate_manifest(entries: dict[str, bytes], rng: random.Random) -> bytes:
    """A sound zip around a manifest in which a few values were replaced, removed, renamed or added."""
    record = json.loads(entries["manifest.json"])
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder: Any = record
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.75:
                holder = holder[key]
                continue
            action = rng.randrange(5)
            if action == 0:
                del holder[key]
            elif action == 1 and isinstance(holder, dict):
                holder[str(rng.choice(HOSTILE))[:50]] = holder.pop(key)
            else:
                holder[key] = copy.deepcopy(rng.choice(HOSTILE))
            break
    text = json.dumps(record)
    if rng.random() < 0.2:
        text = mutate_bytes(text.encode(), rng).decode("utf-8", "replace")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in {**entries, "manifest.json": text.encode("utf-8", "replace")}.items():
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.mark.parametrize("part", range(4))
def test_mutations(colour_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGE_CACHE", str(cache))
    data = colour_bundle.read_bytes()
    with zipfile.ZipFile(colour_bundle) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    mutations: list[Callable[[random.Random], bytes]] = [
        lambda rng: mutate_bytes(data, rng),
        lambda rng: mutate_manifest(entries, rng),
    ]
    path = tmp_path / "mutated.edge"
    outcomes = {"refused": 0, "read": 0}
    for number in range(2500):
        rng = random.Random(f"{part}/{number}")
        # A new file each time: ext4 flushes to disk when an old one is truncated.
        path.unlink(missing_ok=True)
        path.write_bytes(mutations[number % 2](rng))
        with recorded_writes() as writes:
            try:
                with Bundle.open(path) as bundle:
                    for name, entry in bundle.manifest.files.items():
                        assert len(bundle.view(name)) == len(bundle.read(name)) == entry.bytes
                        assert bundle.extract(name).parent.parent == cache / "files"
                outcomes["read"] += 1
            except EdgeError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
        outside = [written for written in writes if not Path(written).is_relative_to(cache)]
        assert not outside, f"seed {part}/{number}: wrote {outside}"
    assert sorted(os.listdir(tmp_path)) in (["cache", "mutated.edge"], ["mutated.edge"])
    # Both must occur, or the mutations are too mild or too wild to tell anything.
    assert outcomes["refused"] > 1000 and outcomes["read"] > 20, outcomes
