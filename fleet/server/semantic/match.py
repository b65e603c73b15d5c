"""Which devices can run a model, and for the others exactly which need is not met.

A model has variants, one for each file that an engine runs; a device can run the model if it meets every need of one of
them. Of a device that cannot, the variant that lacks least is told, so that a person learns the shortest way to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts, Variant

# How a board's firmware says which programs its core runs, in place of a version.
_BOARD_ABI = re.compile(r"abi ([0-9]{1,9})")


@dataclass(frozen=True)
class Unmet:
    """A need that a device does not meet.

    Attributes:
        need: "ram", "flash", "kind", "arch", "target", "board", "runtime", "abi", "operators" or "dtype".
        wanted, found: in words, with units: "300 KB", "256 KB".
    """

    need: str
    wanted: str
    found: str

    def __str__(self) -> str:
        if self.need == "operators":
            several = "," in self.wanted
            return f"operator{'s' if several else ''} {self.wanted} {'are' if several else 'is'} {self.found}"
        return f"{self.need}: needs {self.wanted}, has {self.found}"


@dataclass(frozen=True)
class Match:
    """A device and a model: the variant that fits, or the nearest one and what it lacks.

    Attributes:
        without: sensors that the model listens to and the device does not have. It can run the model all the same: its
            inputs may come from elsewhere, so a rollout does not ask for them, and nor does `fits`.
    """

    device: str
    model: str
    variant: str
    unmet: tuple[Unmet, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.unmet


def match(model: ModelFacts, device: DeviceFacts) -> Match:
    """Compares a device with every variant of a model; of those that fit, the first in the bundle's order is told."""
    nearest: Match | None = None
    without = tuple(sorted(model.sensors - device.sensors))
    for variant in model.variants:
        unmet = unmet_needs(variant, device)
        if nearest is None or len(unmet) < len(nearest.unmet):
            nearest = Match(device.id, model.key, variant.file, unmet, without)
            if not unmet:
                break
    if nearest is None:
        no_file = Unmet("runtime", "a file that an engine runs", "none in the bundle")
        return Match(device.id, model.key, "", (no_file,), without)
    return nearest


def match_devices(model: ModelFacts, devices: Iterable[DeviceFacts]) -> list[Match]:
    """`match` of one model with many devices; those that are alike in all that it looks at are compared once."""
    known: dict[object, Match] = {}
    made = []
    for device in devices:
        alike = _capability(device)
        found = known.get(alike)
        if found is None:
            found = known[alike] = match(model, device)
        made.append(replace(found, device=device.id))
    return made


def _capability(device: DeviceFacts) -> object:
    """All that `match` looks at."""
    return (
        device.kind,
        device.arch,
        device.target,
        device.board,
        device.ram,
        device.flash,
        device.sensors,
        device.dtypes,
        device.operators,
        tuple(device.runtimes.items()),
    )


def unmet_needs(variant: Variant, device: DeviceFacts) -> tuple[Unmet, ...]:
    """The needs of one variant that a device does not meet, in the order in which `Unmet.need` names them.

    What a device does not say (RAM, flash, what a board's firmware links) is not held against it: the rollout tries.
    """
    unmet: list[Unmet] = []
    ram = needed_ram(variant, device)
    if ram is not None and device.ram is not None and device.ram < ram:
        unmet.append(Unmet("ram", _size(ram), _size(device.ram)))
    if device.flash is not None and device.flash < variant.flash:
        unmet.append(Unmet("flash", _size(variant.flash), _size(device.flash)))
    for need, wanted, found in (
        ("kind", variant.kind, device.kind),
        ("arch", variant.arch, device.arch),
        ("target", variant.target, device.target),
        ("board", variant.board, device.board),
    ):
        if wanted is not None and wanted != found:
            unmet.append(Unmet(need, wanted, found or "none"))
    silent = device.kind == "microcontroller" and not device.runtimes
    runtime = None if silent or not variant.engines else _unmet_runtime(variant, device)
    if runtime is not None:
        unmet.append(runtime)
    runs = _BOARD_ABI.fullmatch(device.runtimes.get("core", "")) if device.kind == "microcontroller" else None
    if variant.abi is not None and runs is not None and int(runs[1]) != variant.abi:
        unmet.append(Unmet("abi", f"a core of ABI {variant.abi}", f"one of ABI {runs[1]}"))
    if device.operators is not None and not variant.operators <= device.operators:
        lacking = (name.removesuffix(".out") for name in variant.operators - device.operators)
        unmet.append(Unmet("operators", _listed(lacking), "not in the firmware"))
    if variant.dtype not in device.dtypes and (device.dtypes or not silent):
        unmet.append(Unmet("dtype", variant.dtype, _listed(device.dtypes)))
    return tuple(unmet)


def needed_ram(variant: Variant, device: DeviceFacts) -> int | None:
    """Bytes of RAM that a variant takes there: its arena, and on Linux the file too, which a board reads from flash."""
    if device.kind == "microcontroller":
        return variant.least_ram
    return variant.ram if variant.ram is not None else (variant.arena or 0) + variant.flash


def _unmet_runtime(variant: Variant, device: DeviceFacts) -> Unmet | None:
    """None if one engine of the variant is there in a version that is new enough."""
    old = []
    for engine in variant.engines:
        have = device.runtimes.get(engine)
        if have is None:
            continue
        least = variant.runtimes.get(engine)
        if least is None or version_key(have) >= version_key(least):
            return None
        old.append(f"{engine} {have}")
    wanted = " or ".join(
        f"{engine} {variant.runtimes[engine]} or later" if engine in variant.runtimes else engine
        for engine in variant.engines
    )
    return Unmet("runtime", wanted, ", ".join(old) or _listed(device.runtimes))


@cache
def version_key(version: str) -> tuple[tuple[int, ...], int]:
    """Orders versions by their numbers; one with a pre-release suffix comes before the same without.

    "0.10.0" is after "0.9.1"; "1.0rc1" is before "1.0"; what has no number at all is before everything.
    """
    numbers = re.match(r"v?([0-9]{1,9}(?:\.[0-9]{1,9})*)", version)
    if numbers is None:
        return (), -2
    parts = [int(part) for part in numbers[1].split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    suffix = version[numbers.end() :]
    return tuple(parts), -1 if re.match(r"[.-]?(a|b|c|rc|alpha|beta|dev|pre)", suffix) else 0


def _listed(words: Iterable[str]) -> str:
    ordered = sorted(words)
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "") or "none"


def _size(count: int) -> str:
    """Bytes in the units that filters take, with two digits."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= size:
            return f"{count / size:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{count} B"
