"""Bundles: reading, writing, the cache, and every way in which a hostile one is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.runtime import BadFile, BadInput, Bundle, EdgeError, Manifest, file_entry, load, write_bundle
from edge.runtime._core import Program
from edge.runtime.bundle import ALIGNMENT
from edge.runtime.cache import cache_dir

WEIGHTS = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
FILES = {"model.pte": WEIGHTS, "notes.txt": b"some notes " * 100, "empty.bin": b""}


@pytest.fixture
def manifest(colour_manifest: Manifest) -> Manifest:
    entries = {name: file_entry(data, ("core",) if name == "model.pte" else ()) for name, data in FILES.items()}
    return replace(colour_manifest, files=entries)


@pytest.fixture
def good(manifest: Manifest, tmp_path: Path) -> Path:
    write_bundle(tmp_path / "good.edge", manifest, FILES)
    return tmp_path / "good.edge"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_round_trip(good: Path, manifest: Manifest) -> None:
    with Bundle.open(good) as bundle:
        assert bundle.manifest == manifest
        for name, data in FILES.items():
            assert bundle.read(name) == data
            assert bytes(bundle.view(name)) == data
        view = bundle.view("model.pte")
        with pytest.raises(BadInput, match="has no file 'x'; it has model.pte, notes.txt"):
            bundle.read("x")
    assert isinstance(view, memoryview) and view.readonly and bytes(view) == WEIGHTS


def test_programs_are_stored_aligned_and_mapped(good: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        assert archive.testzip() is None
        info = archive.getinfo("model.pte")
        assert info.compress_type == zipfile.ZIP_STORED
        assert archive.getinfo("notes.txt").compress_type == zipfile.ZIP_DEFLATED
        assert archive.namelist()[0] == "manifest.json"
    data = good.read_bytes()
    assert data.index(WEIGHTS) % ALIGNMENT == 0
    with Bundle.open(good) as bundle:
        address = np.frombuffer(bundle.view("model.pte"), np.uint8).ctypes.data
    assert address % ALIGNMENT == 0


def test_an_unaligned_bundle_of_another_zip_tool_is_read(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "other.edge"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.pte", WEIGHTS)
        archive.writestr("notes.txt", FILES["notes.txt"], zipfile.ZIP_STORED)
        archive.writestr("empty.bin", b"")
        archive.writestr("manifest.json", manifest.to_json())
    with Bundle.open(path) as bundle:
        assert [bytes(bundle.view(name)) for name in FILES] == list(FILES.values())


def test_same_arguments_same_bytes(good: Path, manifest: Manifest, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again.edge", manifest, FILES)
    assert (tmp_path / "again.edge").read_bytes() == good.read_bytes()
    source = tmp_path / "weights.bin"
    source.write_bytes(WEIGHTS)
    write_bundle(tmp_path / "paths.edge", manifest, {**FILES, "model.pte": source})
    assert (tmp_path / "paths.edge").read_bytes() == good.read_bytes()


def test_compressible_data_is_still_readable(manifest: Manifest, tmp_path: Path) -> None:
    """Four megabytes of zeros compress by more than the reader allows, so the writer stores them."""
    zeros = bytes(4 << 20)
    entries = {**manifest.files, "zeros.bin": file_entry(zeros)}
    write_bundle(tmp_path / "z.edge", replace(manifest, files=entries), {**FILES, "zeros.bin": zeros})
    with Bundle.open(tmp_path / "z.edge") as bundle:
        assert bundle.read("zeros.bin") == zeros


def test_extract(good: Path, cache: Path) -> None:
    with Bundle.open(good) as bundle:
        path = bundle.extract("model.pte")
        assert path == cache / "files" / hashlib.sha256(WEIGHTS).hexdigest() / "model.pte"
        assert path.read_bytes() == WEIGHTS
        before = path.stat().st_mtime_ns
        assert bundle.extract("model.pte") == path and path.stat().st_mtime_ns == before
        path.write_bytes(WEIGHTS[:-1] + b"?")  # damaged copy: written anew
        assert bundle.extract("model.pte").read_bytes() == WEIGHTS
    assert sorted(p.name for p in cache.rglob("*") if p.is_file()) == ["model.pte"]


def test_extract_into_a_cache_that_cannot_be_written(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "file"))
    with Bundle.open(good) as bundle, pytest.raises(EdgeError, match="set EDGE_CACHE to a folder that is writable"):
        bundle.extract("model.pte")


def test_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/edge")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_dir() == Path("/home/someone/.cache/edge")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_dir() == Path("/home/someone/Library/Caches/edge")


def test_writing_is_all_or_nothing(good: Path, manifest: Manifest, tmp_path: Path) -> None:
    before = good.read_bytes()
    wrong = {**FILES, "model.pte": WEIGHTS[:-1]}
    with pytest.raises(BadInput, match="model.pte is not the file that the manifest describes"):
        write_bundle(good, manifest, wrong)
    with pytest.raises(BadInput, match=r"differ: extra\.txt"):
        write_bundle(good, manifest, {**FILES, "extra.txt": b""})
    with pytest.raises(BadFile, match=r"gone\.bin: cannot be read"):
        write_bundle(good, manifest, {**FILES, "model.pte": tmp_path / "gone.bin"})
    with pytest.raises(EdgeError, match="cannot be written"):
        write_bundle(tmp_path / "missing" / "x.edge", manifest, FILES)
    assert good.read_bytes() == before
    assert os.listdir(tmp_path) == ["good.edge"]


def test_full_disk_leaves_the_old_file(good: Path, manifest: Manifest, tmp_path: Path) -> None:
    """A process that may write no more than 4,000 bytes to a file fails half-way through the bundle."""
    before = good.read_bytes()
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    code = (
        "import resource, signal; from pathlib import Path\n"
        "from edge.runtime import EdgeError, Manifest, write_bundle\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "manifest = Manifest.from_json(Path('manifest.json').read_text())\n"
        "try: write_bundle('good.edge', manifest, {name: Path(name) for name in manifest.files})\n"
        "except EdgeError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "good.edge: cannot be written (File too large): nothing was left behind\n"
    assert good.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted(["good.edge", "manifest.json", *FILES])


# ---- what is refused


def rezipped(path: Path, target: Path, change: Callable[[list[tuple[zipfile.ZipInfo, bytes]]], object]) -> Path:
    """Writes a bundle's entries again after `change` has edited the list of them."""
    with zipfile.ZipFile(path) as archive:
        entries = [(zipfile.ZipInfo(info.filename), archive.read(info)) for info in archive.infolist()]
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return target


def edit_manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[list[tuple[zipfile.ZipInfo, bytes]]], None]:
    def change(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        record = json.loads(entries[0][1])
        edit(record)
        entries[0] = (entries[0][0], json.dumps(record).encode())

    return change


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def method(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = kind
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.append((zipfile.ZipInfo("../evil"), b"x")), r"entry '\.\./evil': expected letters"),
        (lambda e: e.append((zipfile.ZipInfo("/etc/evil"), b"x")), "entry '/etc/evil'"),
        (lambda e: e.append((zipfile.ZipInfo("sub/evil"), b"x")), "without folders"),
        (lambda e: e.append((zipfile.ZipInfo("folder/"), b"")), "entry 'folder/'"),
        (lambda e: e.append((zipfile.ZipInfo("..\\evil"), b"x")), r"entry '\.\.\\\\evil'"),
        (lambda e: e.append((zipfile.ZipInfo("C:evil"), b"x")), "entry 'C:evil'"),
        (lambda e: e.append((zipfile.ZipInfo("nul"), b"x")), "entry 'nul'"),
        (lambda e: e.append((zipfile.ZipInfo("."), b"x")), r"entry '\.'"),
        (lambda e: e.append((zipfile.ZipInfo(".hidden"), b"x")), r"entry '\.hidden'"),
        (lambda e: e.append((zipfile.ZipInfo("\u202egpj.exe"), b"x")), "entry"),
        (lambda e: e.append((zipfile.ZipInfo("x" * 300), b"x")), "expected letters"),
        (lambda e: e.append((link("link"), b"/etc/passwd")), "'link': is a link or a special file"),
        (lambda e: e.append((zipfile.ZipInfo("model.pte"), b"x")), "'model.pte': occurs twice"),
        (lambda e: e.append((zipfile.ZipInfo("MODEL.PTE"), b"x")), "'MODEL.PTE': occurs twice"),
        (lambda e: e.append((zipfile.ZipInfo("manifest.json"), e[0][1])), "'manifest.json': occurs twice"),
        (lambda e: e.append((zipfile.ZipInfo("stray.txt"), b"x")), "in the bundle, but not listed"),
        (lambda e: e.append((method("stray.txt", zipfile.ZIP_LZMA), b"x")), "compression method 14"),
        (lambda e: e.extend((zipfile.ZipInfo(f"f{i}"), b"") for i in range(70)), "74 entries; at most 65"),
        (lambda e: e.pop(1), "model.pte: listed in the manifest, but not in the bundle"),
        (lambda e: e.pop(0), "has no manifest.json: not a bundle"),
        (lambda e: e.__setitem__(1, (e[1][0], e[1][1][:-1])), "4,999 bytes in the bundle, 5,000 in the manifest"),
        (lambda e: e.__setitem__(0, (e[0][0], b"{")), "not valid JSON"),
        (lambda e: e.__setitem__(0, (e[0][0], b" " * (1 << 20) + b"{}")), "at most 1,048,576 are read"),
        (edit_manifest(lambda m: m.update(schema=9)), "the bundle has 9"),
        (edit_manifest(lambda m: m["labels"].append("fourth")), "4 labels for an output of 3 classes"),
        (edit_manifest(lambda m: m["files"].update({"../x": m["files"]["model.pte"]})), "'../x'"),
    ],
)
def test_hostile_entries(good: Path, change: Callable[[Any], object], message: str) -> None:
    bad = rezipped(good, good.with_name("bad.edge"), change)
    with pytest.raises(BadFile, match=message) as caught:
        Bundle.open(bad)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)


def test_name_cut_by_a_nul_byte(good: Path) -> None:
    data = good.read_bytes().replace(b"notes.txt", b"note\0.txt")
    good.write_bytes(data)
    with pytest.raises(BadFile):
        Bundle.open(good)


def test_whole_contents(good: Path) -> None:
    with Bundle.open(good) as bundle:
        bundle.verify()


def test_wrong_contents(good: Path, cache: Path) -> None:
    data = bytearray(good.read_bytes())
    data[data.index(WEIGHTS) + 77] ^= 1
    good.write_bytes(data)
    with Bundle.open(good) as bundle:
        assert bundle.read("notes.txt") == FILES["notes.txt"]
        for read in (bundle.view, bundle.read, bundle.extract):
            with pytest.raises(BadFile, match=r"good\.edge: model\.pte"):
                read("model.pte")
        with pytest.raises(BadFile, match=r"good\.edge: model\.pte"):
            bundle.verify()
    assert not list(cache.rglob("*.pte"))


def test_wrong_contents_with_a_right_checksum(good: Path) -> None:
    def change(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        entries[1] = (entries[1][0], bytes(5000))

    with Bundle.open(rezipped(good, good.with_name("bad.edge"), change)) as bundle:
        for read in (bundle.view, bundle.read):
            with pytest.raises(BadFile, match=r"its SHA-256 is .*the file is damaged or was changed"):
                read("model.pte")


@pytest.mark.parametrize("keep", [0, 1, 21, 22, 100, 1000, 5500, -1, -22])
def test_truncated(good: Path, keep: int) -> None:
    good.write_bytes(good.read_bytes()[:keep])
    with pytest.raises(BadFile, match="not a bundle"):
        Bundle.open(good)


@pytest.mark.parametrize("where", ["before", "after"])
def test_polyglots_are_refused(good: Path, where: str) -> None:
    data = good.read_bytes()
    good.write_bytes(b"#!/bin/sh\n" + data if where == "before" else data + b"tail")
    with pytest.raises(BadFile, match="not a bundle"):
        Bundle.open(good)


def _parts(good: Path) -> tuple[bytes, bytes, int]:
    """The entries, the directory, and the number of entries of a bundle."""
    data = good.read_bytes()
    entries, length, start = struct.unpack_from("<H2I", data, len(data) - 12)
    return data[:start], data[start : start + length], entries


def _end(entries: int, length: int, start: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, length, start, 0)


def test_a_second_directory_behind_a_zip64_record_is_refused(good: Path) -> None:
    """zipfile would read model.pte, a reader without zip64 other.pte."""
    entries, directory, count = _parts(good)
    shown = directory.replace(b"model.pte", b"other.pte")
    hidden = len(entries) + len(shown)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), hidden)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, hidden + len(directory), 1)
    both = shown + directory + record + locator
    good.write_bytes(entries + both + _end(count, len(both), len(entries)))
    with pytest.raises(BadFile, match="not a bundle: it has a zip64 end record"):
        Bundle.open(good)


def test_a_directory_must_be_what_its_end_record_says(good: Path) -> None:
    entries, directory, count = _parts(good)
    good.write_bytes(entries + directory + _end(count - 1, len(directory), len(entries)))
    with pytest.raises(BadFile, match="has 4 entries, its end record says 3"):
        Bundle.open(good)
    good.write_bytes(entries + directory + bytes(100_000) + _end(count, len(directory) + 100_000, len(entries)))
    with pytest.raises(BadFile, match=r"a directory of 100,\d{3} bytes; at most 4,680 are read"):
        Bundle.open(good)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (0, r"'manifest\.json': has 24 unused bytes before it"),
        (2, r"'notes\.txt': has 24 unused bytes before it"),
        (4, r"its entries end at byte \d,\d{3}, its directory begins at"),
    ],
)
def test_bytes_of_no_entry_are_refused(good: Path, where: int, message: str) -> None:
    """Before the first entry, between two, or before the directory: a script, say, that another program would run."""
    entries, directory, count = _parts(good)
    with zipfile.ZipFile(good) as archive:
        offsets = [info.header_offset for info in archive.infolist()] + [len(entries)]
    hidden = b"#!/bin/sh\necho hi".ljust(24)
    moved, at = bytearray(directory), 0
    for offset in offsets[:-1]:
        if offset >= offsets[where]:
            struct.pack_into("<I", moved, at + 42, offset + len(hidden))
        at += 46 + sum(struct.unpack_from("<3H", moved, at + 28))
    entries = entries[: offsets[where]] + hidden + entries[offsets[where] :]
    good.write_bytes(entries + moved + _end(count, len(moved), len(entries)))
    with pytest.raises(BadFile, match=message):
        Bundle.open(good)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"notes.txt", b"other.txt", r"'notes\.txt': its header and the directory differ"),
        (b"PK\3\4", b"PK\3\5", "its header is not where the directory says"),
    ],
)
def test_an_entry_says_of_itself_what_the_directory_says(good: Path, old: bytes, new: bytes, message: str) -> None:
    """Tools that read entries one after the other would unpack another file."""
    good.write_bytes(good.read_bytes().replace(old, new, 1))
    with pytest.raises(BadFile, match=message):
        Bundle.open(good)


def test_a_program_that_plans_more_than_the_manifest_says(
    samples: Path, colour_manifest: Manifest, tmp_path: Path
) -> None:
    source, path = samples / "colour.pte", tmp_path / "m.edge"
    planned = Program(source.read_bytes()).arena_bytes
    files = {"model.pte": file_entry(source, ("core",), arena_bytes=planned)}
    write_bundle(path, replace(colour_manifest, files=files), {"model.pte": source})
    load(path, "core").close()
    files = {"model.pte": file_entry(source, ("core",), arena_bytes=planned - 1)}
    write_bundle(path, replace(colour_manifest, files=files), {"model.pte": source})
    with pytest.raises(BadFile, match=f"plans {planned:,} bytes of memory; the manifest says {planned - 1:,}"):
        load(path, "core")


def test_encrypted_entry(good: Path) -> None:
    data = bytearray(good.read_bytes())
    at = data.rindex(b"notes.txt") - 46 + 8
    data[at] |= 1
    good.write_bytes(data)
    with pytest.raises(BadFile, match=r"'notes\.txt': is encrypted"):
        Bundle.open(good)


def _patched(good: Path, name: bytes, **values: int) -> None:
    """Overwrites 32-bit fields of an entry's central directory record, and the size in its own header, too."""
    places = {"crc": 16, "compressed": 20, "size": 24, "offset": 42}
    data = bytearray(good.read_bytes())
    record = data.rindex(name) - 46
    (header,) = struct.unpack_from("<I", data, record + places["offset"])
    for field, value in values.items():
        struct.pack_into("<I", data, record + places[field], value)
        if field == "size":
            struct.pack_into("<I", data, header + 22, value)
    good.write_bytes(data)


def test_zip_bomb_that_declares_its_size(colour_manifest: Manifest, tmp_path: Path) -> None:
    """1 GiB of zeros in 1 MB is refused from the directory alone."""
    size = 300 << 20
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "{}")
        with archive.open("zeros.bin", "w") as entry:
            for _ in range(size >> 20):
                entry.write(bytes(1 << 20))
    (tmp_path / "bomb.edge").write_bytes(packed.getvalue())
    with pytest.raises(BadFile, match=r"'zeros\.bin': unpacks to more than 200 times its size"):
        Bundle.open(tmp_path / "bomb.edge")


def test_zip_bomb_that_hides_its_size(manifest: Manifest, tmp_path: Path) -> None:
    """An entry that declares 1,100 bytes and holds 20 MB gives up after the declared size."""
    path = tmp_path / "bomb.edge"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", manifest.to_json())
        archive.writestr("model.pte", WEIGHTS)
        archive.writestr("notes.txt", bytes(20 << 20))
        archive.writestr("empty.bin", b"")
    _patched(path, b"notes.txt", size=1100)
    with Bundle.open(path) as bundle, pytest.raises(BadFile, match=r"notes\.txt"):
        bundle.read("notes.txt")


def test_oversized_and_overlapping_entries(good: Path) -> None:
    data = good.read_bytes()
    _patched(good, b"notes.txt", size=(1 << 29) + 1, compressed=1 << 28)
    with pytest.raises(BadFile, match="unpacks to 536,870,913 bytes; at most 536,870,912"):
        Bundle.open(good)
    good.write_bytes(data)
    _patched(good, b"notes.txt", offset=1)
    with pytest.raises(BadFile, match="overlaps another entry"):
        Bundle.open(good)
    good.write_bytes(data)
    _patched(good, b"model.pte", size=4000)
    with pytest.raises(BadFile, match="is stored, yet has two sizes"):
        Bundle.open(good)


def test_manifest_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.edge", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "[" * 1_000_000)
    with pytest.raises(BadFile, match="nested deeper than 12 levels"):
        Bundle.open(tmp_path / "x.edge")


def test_not_bundles(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        Bundle.open(tmp_path / "none.edge")
    with pytest.raises(BadFile):
        Bundle.open(tmp_path)
    with pytest.raises(BadFile):
        Bundle.open("nul\0byte.edge")
    (tmp_path / "x.edge").write_bytes(b"text" * 100)
    with pytest.raises(BadFile, match="no zip end record"):
        Bundle.open(tmp_path / "x.edge")
