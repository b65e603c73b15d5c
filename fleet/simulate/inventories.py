"""What simulated devices say of themselves: plausible machines, as varied as a fleet is, always the same for one id."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from edge.fleet.inventory import Inventory

SIMULATED = {"simulated": "yes"}
"""The label that tells simulated devices from others, given by their claim tokens."""


@dataclass(frozen=True)
class _Machine:
    weight: int
    arch: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    ram_mb: tuple[int, ...]
    target: str


_NEON = ("asimd", "fphp")
_DOT = (*_NEON, "asimddp", "asimdhp")
_MACHINES = (
    _Machine(30, "aarch64", "Raspberry Pi 4 Model B", _NEON, 4, (1024, 2048, 4096, 8192), "pi4"),
    _Machine(25, "aarch64", "Raspberry Pi 5 Model B", _DOT, 4, (2048, 4096, 8192), "pi5"),
    _Machine(15, "aarch64", "Raspberry Pi 3 Model B+", _NEON, 4, (1024,), "pi3"),
    _Machine(10, "aarch64", "Raspberry Pi Zero 2 W", _NEON, 4, (512,), "pi3"),
    _Machine(10, "armv6l", "Raspberry Pi Zero W", (), 1, (512,), "pi-zero"),
    _Machine(10, "x86_64", "Intel N100", ("avx2", "avx_vnni", "fma"), 4, (8192, 16384), ""),
)
_SENSORS = ("microphone", "camera", "accelerometer", "thermometer", "gyroscope")
_SYSTEMS = ("Debian GNU/Linux 12", "Debian GNU/Linux 11", "Raspbian GNU/Linux 12", "Ubuntu 24.04 LTS")
_PYTHONS = ("3.11.2", "3.12.3", "3.13.1")
_BUILDINGS, _FLOORS = 12, 5


def simulated_inventory(device: str, labels: dict[str, str] | None = None) -> Inventory:
    """The machine that the simulated device of this id is.

    Args:
        labels: beside and instead of the building and floor that it has by chance.
    """
    chance = random.Random(f"edge {device}")  # noqa: S311 (made up, and the same at each start)
    machine = chance.choices(_MACHINES, [one.weight for one in _MACHINES])[0]
    where = {"building": str(chance.randint(1, _BUILDINGS)), "floor": str(chance.randint(0, _FLOORS - 1))}
    version = _edge_version()
    return Inventory(
        arch=machine.arch,
        cpu=machine.cpu,
        features=machine.features,
        cores=machine.cores,
        ram_kb=chance.choice(machine.ram_mb) * 1000,
        os=chance.choice(_SYSTEMS),
        python=chance.choice(_PYTHONS),
        edge=version,
        runtimes={"core": version},
        sensors=tuple(sorted(chance.sample(_SENSORS, chance.randint(1, 3)))),
        labels={**where, **(labels or {})},
        target=machine.target,
    )


@cache
def _edge_version() -> str:
    try:
        return metadata.version("edge-deploy")
    except metadata.PackageNotFoundError:
        return "unknown"


class Measurements:
    """The values that a simulated device reports: a temperature that follows the day, a load that wanders."""

    __slots__ = ("_chance", "_load", "_mean")

    def __init__(self, device: str) -> None:
        self._chance = random.Random(device)  # noqa: S311
        self._mean = self._chance.uniform(17, 26)
        self._load = self._chance.uniform(0, 1)

    def at(self, seconds: float) -> dict[str, float | int | str | bool]:
        """What is measured at a moment, in seconds since 1970."""
        day = math.sin(2 * math.pi * seconds / 86400)
        self._load = min(4.0, max(0.0, self._load + self._chance.gauss(0, 0.05)))
        return {
            "celsius": round(self._mean + 3 * day + self._chance.gauss(0, 0.1), 2),
            "load": round(self._load, 2),
            "uptime": round(seconds % 1e6, 1),
        }
