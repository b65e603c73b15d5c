"""Semantics: CPU time of discovery, of a device's update, of matching, and of a rebuild, over a made-up fleet.

    python benchmarks/semantic.py --devices 10000
    python benchmarks/semantic.py --devices 100000 --disk

Discovery is `ram>=256KB and sensor=microphone and dtype=int8 and building=7 and model!=kws:2.1`. Figures are CPU time
of the whole process (the store works in this one), not wall time: the machine may be busy. Each is the smallest, the
median and the largest of many runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge.fleet.inventory import Inventory
from edge.fleet.server import registry
from edge.fleet.server.database import Database
from edge.fleet.server.semantic import candidates
from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.filter_sparql import find_devices
from edge.fleet.server.semantic.filters import matches, parse
from edge.fleet.server.semantic.match import match, match_devices
from edge.fleet.server.semantic.projection import Projection
from edge.fleet.server.semantic.registry import Event
from edge.fleet.server.semantic.sql import SqlRegistry
from edge.fleet.server.semantic.store import LocalStore

DISCOVERY = "ram>=256KB and sensor=microphone and dtype=int8 and building=7 and model!=kws:2.1"
# What asks for less: no building, so a fifth of the fleet is looked at.
BROAD = "ram>=256KB and sensor=microphone and dtype=int8 and model!=kws:2.1"

BOARDS = ({"kind": "microcontroller", "arch": "armv7em", "runtimes": {"core": "0.1.0"}, "flash_kb": 1024},)
COMPUTERS = (
    {"target": "pi-zero", "arch": "armv6l", "runtimes": {"core": "0.1.0"}, "ram_kb": 512 << 10},
    {"target": "pi4", "arch": "aarch64", "runtimes": {"core": "0.1.0", "litert": "2.3.0"}, "ram_kb": 4 << 20},
    {"target": "pi5", "arch": "aarch64", "runtimes": {"core": "0.1.0", "onnx": "1.32.0"}, "ram_kb": 8 << 20},
)
SENSORS = ("accelerometer", "camera", "gyroscope", "microphone", "thermometer")


def inventory(rng: random.Random) -> dict[str, Any]:
    """The inventory of a device: half are boards, in 50 buildings."""
    board = rng.random() < 0.5
    made = dict(rng.choice(BOARDS if board else COMPUTERS))
    if board:
        made |= {"ram_kb": rng.choice((64, 128, 256, 512)), "board": rng.choice(("nano33ble", "stm32f4"))}
        made["dtypes"] = ["int8", "ternary"] if rng.random() < 0.5 else ["ternary"]
    version = rng.choice(("1.9", "2.0", "2.1"))
    return {
        "kind": "linux",
        "cpu": "a processor",
        "features": ["asimd"] if not board else [],
        "cores": 1 if board else 4,
        "os": "" if board else "Debian 12",
        "sensors": rng.sample(SENSORS, 2),
        "labels": {"building": str(rng.randrange(50)), "floor": str(rng.randrange(5))},
        "models": [{"name": "kws", "version": version, "sha256": "", "active": True}],
        **made,
    }


class Fleet:
    """A registry of made-up devices, without models."""

    def __init__(self, count: int) -> None:
        rng = random.Random(5)
        self.bodies = {f"d{index:06}": {"inventory": inventory(rng)} for index in range(count)}

    def devices(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self.bodies.items()

    def capabilities(self) -> Iterator[tuple[str, str]]:
        yield from ()

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        return []

    def events(self, after: int) -> list[Event]:
        return []

    def first_event(self) -> int:
        return 1

    def last_event(self) -> int:
        return 1


def model() -> ModelFacts:
    """A keyword spotter with a file for the core and one for LiteRT."""
    audio = {
        "kind": "audio", "sample_rate": 16000, "samples": 16000, "window": 512, "hop": 256,
        "mels": 40, "fmin": 20.0, "fmax": 8000.0, "mean": 0.0, "std": 1.0,
    }  # fmt: skip
    entry = {"sha256": "0" * 64, "arena_bytes": 150 << 10, "macs": 10**6, "ops": {"edge::ternary_linear.out": 4}}
    return ModelFacts.from_published(
        {
            "schema": 1, "name": "kws", "version": "2.2", "task": "audio-classification",
            "created": "2026-11-24T08:00:00Z", "license": "", "generator": {},
            "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 1, 61, 40], "preprocess": audio}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 12]}], "labels": [],
            "files": {
                "model.pte": {"engines": ["core"], "bytes": 120_000, **entry},
                "model.tflite": {"engines": ["litert"], "bytes": 130_000, **entry},
            },
            "quantization": {"bits": 1.58, "measure": "median", "conv": "int8", "norm": True, "layers": []},
            "metrics": None, "training": {}, "reference": None,
        }
    )  # fmt: skip


def measured(work: Callable[[], object], runs: int) -> dict[str, float]:
    """CPU milliseconds of `work`: smallest, median, largest, and how often it ran."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - started))
    return {
        "min_ms": round(min(times), 3),
        "median_ms": round(statistics.median(times), 3),
        "max_ms": round(max(times), 3),
        "runs": runs,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--devices", type=int, default=10_000)
    options.add_argument("--disk", action="store_true", help="a store on disk, as the server's; else in memory")
    given = options.parse_args()
    fleet = Fleet(given.devices)
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder) / "semantic" if given.disk else None)
        projection = Projection(store)
        results: dict[str, Any] = {"devices": given.devices, "store": "disk" if given.disk else "memory"}
        results["rebuild"] = measured(lambda: projection.rebuild(fleet), 1)
        results["triples"] = len(store)
        facts = [DeviceFacts.from_body(name, body) for name, body in fleet.devices()]
        for name, text in (("discovery", DISCOVERY), ("discovery without building", BROAD)):
            wanted = parse(text)
            found = find_devices(store, wanted)
            assert found == sorted(each.id for each in facts if matches(wanted, each)), "SPARQL and Python differ"
            results[name] = measured(lambda wanted=wanted: find_devices(store, wanted), 11) | {"found": len(found)}
        results["update, another model"] = updates(projection, fleet, another_model)
        results["update, another machine"] = updates(projection, fleet, lambda body, rng: {"inventory": inventory(rng)})
        spotter = model()
        found_ = match_devices(spotter, facts)
        results["match"] = measured(lambda: match_devices(spotter, facts), 5) | {"fit": sum(m.fits for m in found_)}
        results |= from_sql(fleet, Path(folder), spotter)
    print(json.dumps(results, indent=1))


def from_sql(fleet: Fleet, folder: Path, spotter: ModelFacts) -> dict[str, Any]:
    """What `edge fleet match` and `deploy --where` do, from the rows of a real registry (SQLite) to the answer."""
    database = Database(folder / "registry.sqlite")
    with database.transaction() as connection:
        for name, body in fleet.devices():
            registry.add(connection, name, Inventory.read(body["inventory"]).json())
    rows = SqlRegistry(database)
    naive = [match(spotter, facts) for facts in candidates.devices(rows, None, print)]
    assert candidates.match_all(rows, spotter, None, print) == naive, "the quick match is not the plain one"
    made = {
        "match, from SQL": measured(lambda: candidates.match_all(rows, spotter, None, print), 7),
        "match --where, from SQL": measured(lambda: candidates.match_all(rows, spotter, "sensor!=x", print), 3),
        "filter, from SQL": measured(lambda: list(candidates.devices(rows, DISCOVERY, print)), 3),
    }
    database.close()
    return made


def another_model(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A device after an update: what changes most often."""
    running = {"name": "kws", "version": f"3.{rng.randrange(10**6)}", "sha256": "", "active": True}
    return {"inventory": {**body["inventory"], "models": [running]}}


def updates(
    projection: Projection, fleet: Fleet, change: Callable[[dict[str, Any], random.Random], dict[str, Any]]
) -> dict[str, float]:
    """CPU of applying `device.changed` to 400 devices, each for the first time in this process."""
    rng = random.Random(6)
    events = [
        Event(projection.cursor + 1 + number, "device.changed", name, change(fleet.bodies[name], rng))
        for number, name in enumerate(rng.sample(list(fleet.bodies), min(400, len(fleet.bodies))))
    ]
    ordered = iter(events)
    return measured(lambda: projection.apply(next(ordered)), len(events))


if __name__ == "__main__":
    main()
