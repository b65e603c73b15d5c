"""Inventories, manifests and filters, by hand and by hypothesis; and a registry that is a list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from edge.fleet.server.semantic.filters import KEYS, All, Any_, Comparison, Filter, Not
from edge.fleet.server.semantic.registry import Event

INVENTORY: dict[str, Any] = {
    "kind": "linux", "arch": "aarch64", "cpu": "Cortex-A72", "features": ["asimd", "crc32"], "cores": 4,
    "ram_kb": 4 << 20, "flash_kb": 31_000_000, "os": "Debian 12", "python": "3.11.2", "edge": "0.1.0",
    "runtimes": {"core": "0.1.0", "litert": "2.3.0"}, "sensors": ["microphone", "Camera"],
    "labels": {"building": "7", "floor": "ground floor"}, "boards": [], "board": "", "target": "pi4",
    "models": [{"name": "kws", "version": "2.1", "sha256": "", "active": True},
               {"name": "kws", "version": "2.0", "sha256": "", "active": False}],
}  # fmt: skip
BOARD: dict[str, Any] = {
    "kind": "microcontroller", "arch": "armv7em", "cpu": "Cortex-M4", "ram_kb": 256, "flash_kb": 1024,
    "runtimes": {"core": "0.1.0"}, "sensors": ["microphone"], "board": "nano33ble", "labels": {"building": "7"},
    "dtypes": ["int8", "ternary"], "operators": ["edge::ternary_linear.out", "edge::conv2d_int8.out"],
}  # fmt: skip
AUDIO = {
    "kind": "audio", "sample_rate": 16000, "samples": 16000, "window": 512, "hop": 256,
    "mels": 40, "fmin": 20.0, "fmax": 8000.0, "mean": 0.0, "std": 1.0,
}  # fmt: skip


def manifest(name: str = "kws", version: str = "2.2", **changes: Any) -> dict[str, Any]:
    """The manifest of a keyword spotter: 100 KB of arena, 150 KB of file, ternary."""
    entry = {"sha256": "0" * 64, "bytes": 150 << 10, "arena_bytes": 100 << 10, "macs": 10**6}
    layer = {"kind": "linear", "bits": 1.58, "shape": [12, 64], "bytes": 200, "zero_fraction": 0.3, "macs": 768}
    return {
        "schema": 1, "name": name, "version": version, "task": "audio-classification",
        "created": "2026-11-24T08:00:00Z", "license": "Apache-2.0", "generator": {"edge-deploy": "0.1.0"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 1, 61, 40], "preprocess": AUDIO}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 12]}], "labels": [],
        "files": {
            "model.pte": {"engines": ["core", "executorch"], "ops": {"edge::ternary_linear.out": 3}, **entry},
            "model.tflite": {"engines": ["litert"], "ops": {"FULLY_CONNECTED": 3}, **entry, "arena_bytes": None},
        },
        "quantization": {
            "bits": 1.58, "measure": "median", "conv": "int8", "norm": True,
            "layers": [{"name": each, **layer} for each in ("first", "middle", "last")],
        },
        "metrics": {"metric": "accuracy", "samples": 100, "torch": 0.9, "float": None, "engines": {}},
        "training": {}, "reference": None, **changes,
    }  # fmt: skip


class ListRegistry:
    """A registry in memory: what is there, and every event that led to it."""

    def __init__(self) -> None:
        self.things: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.log: list[Event] = []

    def put(self, kind: str, subject: str, body: Mapping[str, Any]) -> None:
        self.log.append(Event(len(self.log) + 1, kind, subject, body))
        what, _, verb = kind.partition(".")
        if verb == "removed":
            self.things.pop((what, subject), None)
        elif verb in ("changed", "published"):
            self.things[what, subject] = body

    def devices(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(subject, body) for (what, subject), body in self.things.items() if what == "device"]

    def capabilities(self) -> list[tuple[str, str]]:
        kept = [(name, body) for name, body in self.devices() if body.get("state") != "revoked"]
        return [(name, json.dumps(body["inventory"])) for name, body in sorted(kept)]

    def models(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(subject, body) for (what, subject), body in self.things.items() if what == "model"]

    def events(self, after: int) -> Iterable[Event]:
        return [event for event in self.log if event.id > after]

    def first_event(self) -> int:
        return self.log[0].id if self.log else 0

    def last_event(self) -> int:
        return self.log[-1].id if self.log else 0


# Few words, so that filters hit; and some that try to break out of a literal, an IRI, or the filter's own quotes.
WORDS = st.sampled_from(
    ["7", "a", "B", "kws", "microphone", "int8", "x y", "é ü", "}", '" . } #', "\\", "\\u0022", "'", "<urn:x>", "?d"]
)
SIZES_KB = st.sampled_from([1, 64, 256, 1024, 1 << 20])
NAMES = st.sampled_from(["kws", "vww"])
VERSIONS = st.sampled_from(["1.0", "2.0", "2.1"])


def _subset(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(values, max_size=3, unique=True)


INVENTORIES = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["linux", "microcontroller"]),
        "arch": WORDS, "cpu": WORDS, "os": WORDS, "board": WORDS, "target": WORDS,
        "cores": st.integers(1, 4), "ram_kb": SIZES_KB, "flash_kb": SIZES_KB,
        "features": _subset(WORDS), "sensors": _subset(st.sampled_from(["microphone", "Camera", "mic", "radar x"])),
        "runtimes": st.dictionaries(st.sampled_from(["core", "litert"]), VERSIONS),
        "labels": st.dictionaries(st.sampled_from(["building", "floor", "a b", 'q"uote', "\\u007d"]), WORDS),
        "dtypes": _subset(st.sampled_from(["int8", "ternary", "float32"])),
        "operators": _subset(st.sampled_from(["edge::conv2d.out", "aten::add.Scalar_out", "aten::add.out"])),
        "models": st.lists(
            st.fixed_dictionaries({"name": NAMES, "version": VERSIONS, "active": st.booleans()}), max_size=3
        ),
    },
)  # fmt: skip
BODIES = st.fixed_dictionaries(
    {"inventory": INVENTORIES},
    optional={
        "labels": st.dictionaries(st.sampled_from(["building", "floor"]), WORDS),
        "groups": _subset(WORDS),
        "state": st.sampled_from(["active", "revoked"]),
        "gateway": st.sampled_from(["d1", None]),
    },
)

_SIZED = ("ram", "flash")
_TEXT_KEYS = sorted(
    set(KEYS) - {*_SIZED, "cores", "label.KEY", "model", "holds", "runtime", "dtype", "operator", "kind", "id"}
)
COMPARISONS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(
        lambda key, operator, kb: Comparison(key, operator, f"{kb}KB", kb * 1024),
        st.sampled_from(_SIZED), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), SIZES_KB,
    ),
    st.builds(
        lambda operator, count: Comparison("cores", operator, str(count), count),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(1, 4),
    ),
    st.builds(
        Comparison,
        st.sampled_from([*_TEXT_KEYS, "label.floor", "label.a b", 'label.q"uote', "label.\\u007d"]),
        st.sampled_from(["=", "!="]), WORDS,
    ),
    st.builds(Comparison, st.just("model"), st.sampled_from(["=", "!="]),
              st.sampled_from(["kws", "kws:2.1", "vww:1.0", "x"])),
    st.builds(Comparison, st.just("holds"), st.sampled_from(["=", "!="]), st.sampled_from(["kws:2.1", "vww:2.0"])),
    st.builds(Comparison, st.just("runtime"), st.sampled_from(["=", "!="]), st.sampled_from(["core", "litert:2.0"])),
    st.builds(Comparison, st.just("dtype"), st.sampled_from(["=", "!="]), st.sampled_from(["int8", "ternary"])),
    st.builds(
        Comparison, st.just("operator"), st.sampled_from(["=", "!="]),
        st.sampled_from(["edge::conv2d.out", "aten::add.out"]),
    ),
    st.builds(Comparison, st.just("kind"), st.sampled_from(["=", "!="]), st.sampled_from(["linux", "microcontroller"])),
    st.builds(Comparison, st.just("id"), st.sampled_from(["=", "!="]), st.sampled_from(["d0", "nobody", "> } #"])),
)  # fmt: skip
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda parts: All(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda parts: Any_(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=6,
)
