"""Damaged bundles, opened and run: `python -m tests.runtime.fuzz.bundle_cases SEEDS FIRST COUNT [CORE]`.

SEEDS is a folder of sound bundles, FIRST and COUNT choose the cases: case N is the same on every machine, so a fault is
reproduced with FIRST = N, COUNT = 1. A third of the cases damages a bundle's bytes, a third its manifest, a third the
program in it, whose sizes and hashes are then made right again, so that the core meets it through `edge.runtime.load`.
What opens is read, extracted, loaded on the core and run. Anything but an EdgeError, or a write outside the cache, ends
the process; so does a fault, if CORE is a build of edge.runtime._core with sanitizers.

Run in an empty folder, with EDGE_CACHE inside it; the case at hand is N.edge there. Prints {"refused": …, "read": …,
"loaded": …, "ran": …} as JSON.
"""

from __future__ import annotations

import copy
import faulthandler
import hashlib
import importlib.util
import io
import json
import os
import random
import re
import resource
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PROGRAM = "model.pte"
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "../../evil", "/etc/passwd", "C:\\evil", "a\\b", "..", ".", "manifest.json", PROGRAM, "\0", "\u202e",
    "\ud800", "x" * 10_000, [], {}, [[]], [[[[[[[[[[[[[[]]]]]]]]]]]]]], {"": {"": {"": {}}}}, [None] * 100,
    ["core"] * 5,
    {"kind": "image"}, {"../x": {}}, [1, 2, 3], ["red", "green", "blue"], "float32", "core", "NaN",
]  # fmt: skip
_INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]
_EXTREMES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFF0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# A hostile program may well be slow or large; a fuzzer may not. What wants more memory is refused by the core.
MEMORY_TO_SPARE = 256 << 20
MAX_MACS = 5_000_000
CASE_SECONDS = 60

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
    """The paths that the block wrote to."""
    global _recorded
    _recorded = []
    try:
        yield _recorded
    finally:
        _recorded = None


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


def packed(entries: dict[str, bytes]) -> bytes:
    """A sound zip of the entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


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
    return packed({**entries, "manifest.json": text.encode("utf-8", "replace")})


def mutate_program(data: bytes, rng: random.Random) -> bytes:
    """Changes numbers in the structure of a .pte: sizes, counts, indices, offsets, dtypes; now and then its length."""
    out = bytearray(data)
    # The header says where the constants begin; before them is the flatbuffer.
    structure = int.from_bytes(data[16:20], "little") if data[8:12] == b"eh00" else len(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        for _ in range(100):
            at = 4 * rng.randrange(8, structure // 4)
            word = int.from_bytes(out[at : at + 4], "little")
            if word < 4096 or word == 0xFFFFFFFF:
                break
        kind = rng.randrange(8)
        if kind == 0:
            out[at + rng.randrange(4)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(16)
        elif kind == 2:
            word = rng.choice(_EXTREMES)
        elif kind == 3:
            word = rng.randrange(64)
        elif kind == 4:
            other = 4 * rng.randrange(8, structure // 4)
            word = int.from_bytes(out[other : other + 4], "little")
        elif kind == 5:
            word = rng.randrange(len(out)) // 4 * 4
        else:
            word += rng.randrange(-8, 9)
        if kind > 1:
            out[at : at + 4] = (word & 0xFFFFFFFF).to_bytes(4, "little")
    if rng.random() < 0.03:
        del out[rng.randrange(len(out)) :]
    return bytes(out)


def mutate_bundled_program(entries: dict[str, bytes], rng: random.Random) -> bytes:
    """A sound bundle of a damaged program: size, hash and, if the core reads them, inputs and outputs are right."""
    from edge.runtime._core import CoreError, Program

    program = mutate_program(entries[PROGRAM], rng)
    record = json.loads(entries["manifest.json"])
    record["files"][PROGRAM] |= {"bytes": len(program), "sha256": hashlib.sha256(program).hexdigest()}
    try:
        loaded = Program(program)
        for role, specs in (("inputs", loaded.inputs), ("outputs", loaded.outputs)):
            made = [{"name": f"{role}{i}", "dtype": dtype, "shape": shape} for i, (dtype, shape) in enumerate(specs)]
            record[role] = [spec | ({"preprocess": None} if role == "inputs" else {}) for spec in made]
    except CoreError:
        pass
    return packed({**entries, "manifest.json": json.dumps(record).encode(), PROGRAM: program})


def run_model(path: Path, rng: random.Random) -> str:
    """Loads the bundle on the core and runs it: "ran", or "loaded" if it is too slow or large to run."""
    from edge.runtime import load
    from edge.runtime._core import Program
    from edge.runtime.bundle import Bundle

    random_inputs = np.random.default_rng(rng.randrange(1 << 32))
    with load(path, backend="core") as model:
        with Bundle.open(path) as bundle:
            need = Program(bundle.view(bundle.manifest.files_for("core")[0]))
        if need.macs > MAX_MACS or need.arena_bytes > MEMORY_TO_SPARE // 16:
            return "loaded"
        arrays = []
        for spec in model.inputs:
            values = random_inputs.normal(size=spec.shape) * rng.choice((1.0, 4.0, 1e30))
            with np.errstate(invalid="ignore", over="ignore"):
                arrays.append(values.astype(spec.dtype))
        model(*arrays)
    return "ran"


def run_case(path: Path, cache: Path, rng: random.Random) -> str:
    """What became of a case: "refused", "read" (but not run), "loaded" or "ran"."""
    from edge.runtime import Bundle, EdgeError

    outcome = "refused"
    try:
        with Bundle.open(path) as bundle:
            for name, entry in bundle.manifest.files.items():
                assert len(bundle.view(name)) == len(bundle.read(name)) == entry.bytes
                assert bundle.extract(name).parent.parent == cache / "files"
        outcome = "read"
        outcome = run_model(path, rng)
    except EdgeError as error:
        assert "\n" not in str(error)
    return outcome


def use_core(path: str) -> None:
    """Makes edge.runtime._core the module in that file."""
    spec = importlib.util.spec_from_file_location("edge.runtime._core", path)
    assert spec is not None and spec.loader is not None
    sys.modules["edge.runtime._core"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def limit_memory() -> None:
    """A program may plan all the memory there is; sanitizers have a limit of their own."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_TO_SPARE, resource.RLIM_INFINITY))


def main(folder: str, first: str, count: str, core: str | None = None) -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, chain=True)  # says where, then ends the process
    if core is not None:
        use_core(core)
    import edge.runtime

    cache = Path(os.environ["EDGE_CACHE"])
    bundles = []
    for source in sorted(Path(folder).glob("*.edge")):
        edge.runtime.load(source, backend="core").close()
        with zipfile.ZipFile(source) as archive:
            bundles.append((source.read_bytes(), {name: archive.read(name) for name in archive.namelist()}))
    if core is None:
        limit_memory()
    mutations: list[Callable[[bytes, dict[str, bytes], random.Random], bytes]] = [
        lambda data, entries, rng: mutate_bytes(data, rng),
        lambda data, entries, rng: mutate_manifest(entries, rng),
        lambda data, entries, rng: mutate_bundled_program(entries, rng),
    ]
    outcomes = dict.fromkeys(("refused", "read", "loaded", "ran"), 0)
    sys.addaudithook(_audit)
    for number in range(int(first), int(first) + int(count)):
        rng = random.Random(number)
        path = Path(f"{number}.edge").resolve()
        path.write_bytes(mutations[number % 3](*rng.choice(bundles), rng))
        signal.alarm(CASE_SECONDS)
        with recorded_writes() as writes:
            outcomes[run_case(path, cache, rng)] += 1
        outside = [written for written in writes if not Path(written).is_relative_to(cache)]
        assert not outside, f"wrote {outside}"
        path.unlink()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
