"""Which devices can run a model, and for the others exactly which need is not met.

A model has variants, one for each file that an engine runs; a device can run the model if it meets every need of one of
them. Of a device that cannot, the variant that lacks least is told, so that a person learns the shortest way to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts, Variant
from edge.runtime.target import TARGETS

_TARGETS = {target.name: target for target in TARGETS}


@dataclass(frozen=True)
class Unmet:
    """A need that a device does not meet.

    Attributes:
        need: "ram", "flash", "kind", "arch", "target", "runtime", "sensor", "operators" or "dtype".
        wanted, found: in words, with units: "300 KB", "256 KB".
    """

    need: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.need}: needs {self.wanted}, has {self.found}"


@dataclass(frozen=True)
class Match:
    """A device and a model: the variant that fits, or the nearest one and what it lacks."""

    device: str
    model: str
    variant: str
    unmet: tuple[Unmet, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.unmet


def match(model: ModelFacts, device: DeviceFacts) -> Match:
    """Compares a device with every variant of a model; of those that fit, the first in the bundle's order is told."""
    nearest: Match | None = None
    for variant in model.variants:
        unmet = unmet_needs(model, variant, device)
        if nearest is None or len(unmet) < len(nearest.unmet):
            nearest = Match(device.id, model.key, variant.file, unmet)
            if not unmet:
                break
    if nearest is None:
        return Match(device.id, model.key, "", (Unmet("runtime", "a file that an engine runs", "none in the bundle"),))
    return nearest


def match_devices(model: ModelFacts, devices: Iterable[DeviceFacts]) -> list[Match]:
    """`match` of one model with many devices."""
    return [match(model, device) for device in devices]


def unmet_needs(model: ModelFacts, variant: Variant, device: DeviceFacts) -> tuple[Unmet, ...]:
    """The needs of one variant that a device does not meet, in the order in which `Unmet.need` names them."""
    unmet: list[Unmet] = []
    ram = needed_ram(variant, device)
    if ram is not None and (device.ram is None or device.ram < ram):
        unmet.append(Unmet("ram", _size(ram), _size(device.ram)))
    if variant.flash and _flash_short(variant.flash, device):
        unmet.append(Unmet("flash", _size(variant.flash), _size(device.flash)))
    if variant.kind is not None and variant.kind != device.kind:
        unmet.append(Unmet("kind", variant.kind, device.kind or "unknown"))
    if variant.arch is not None and variant.arch != device.arch:
        unmet.append(Unmet("arch", variant.arch, device.arch or "unknown"))
    if variant.target is not None and not _runs_target(variant.target, device):
        unmet.append(Unmet("target", _target_words(variant.target), device.target or "another"))
    runtime = _unmet_runtime(variant, device)
    if runtime is not None:
        unmet.append(runtime)
    missing = model.sensors - device.sensors
    if missing:
        unmet.append(Unmet("sensor", _listed(missing), _listed(device.sensors)))
    if device.operators is not None and not variant.operators <= device.operators:
        unmet.append(Unmet("operators", _listed(variant.operators - device.operators), "not these"))
    if variant.dtype not in device.dtypes:
        unmet.append(Unmet("dtype", variant.dtype, _listed(device.dtypes)))
    return tuple(unmet)


def needed_ram(variant: Variant, device: DeviceFacts) -> int | None:
    """Bytes of RAM that a variant takes there: its arena, and the file too where it is not read in place from flash."""
    if device.kind == "microcontroller":
        return variant.ram
    return (variant.ram or 0) + variant.flash


def _flash_short(flash: int, device: DeviceFacts) -> bool:
    if device.flash is None:
        # Computers often do not say; of a board it is always known, and what is unknown there is not assumed.
        return device.kind == "microcontroller"
    return device.flash < flash


def _runs_target(name: str, device: DeviceFacts) -> bool:
    """Whether the device is that target, or has all instructions of it and is of its architecture."""
    if name in ("generic", device.target):
        return True
    wanted, have = _TARGETS.get(name), _TARGETS.get(device.target or "")
    if wanted is None or have is None:
        return False
    # Targets of one architecture share the first word of their instruction sets ("asimd", "sse2", "vfp").
    return wanted.isa[:1] == have.isa[:1] and set(wanted.isa) <= set(have.isa)


def _target_words(name: str) -> str:
    target = _TARGETS.get(name)
    return f"{name} ({', '.join(target.isa)})" if target is not None and target.isa else name


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
        return (), 0
    parts = [int(part) for part in numbers[1].split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    suffix = version[numbers.end() :]
    return tuple(parts), -1 if re.match(r"[.-]?(a|b|c|rc|alpha|beta|dev|pre)", suffix) else 0


def _listed(words: Iterable[str]) -> str:
    ordered = sorted(words)
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "") or "none"


def _size(count: int | None) -> str:
    """Bytes in the units that filters take; what is needed is rounded up by nobody: KB have two digits."""
    if count is None:
        return "an unknown amount"
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= size:
            return f"{count / size:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{count} B"
