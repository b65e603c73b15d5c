"""The plan of a rollout: which devices, how many at a time, when to stop; and which variant fits which device."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge.fleet.gates import parse_gate
from edge.fleet.identity import DEVICE_ID
from edge.fleet.inventory import Inventory
from edge.fleet.server.semantic.match import version_key
from edge.fleet.variant import Variant
from edge.runtime.errors import BadInput
from edge.runtime.fields import shown

DAY = 86400.0
MAX_STEPS = 32

_STEP = re.compile(r"(?:([0-9]{1,9})|([0-9]{1,3}(?:\.[0-9]{1,3})?)%)")

# As a board behind a gateway says which programs its core runs.
_BOARD_ABI = re.compile(r"abi ([0-9]{1,9})")

_MIRROR = re.compile(r"https://[A-Za-z0-9.:\[\]-]{1,255}(/[A-Za-z0-9._~/-]{0,200})?")


@dataclass(frozen=True)
class Step:
    """How many devices may have been started by the end of a phase: a count, or a share (0 to 1) of all."""

    count: int | None = None
    share: float | None = None

    def of(self, total: int) -> int:
        """The number of devices, of `total`."""
        if self.share is None:
            return min(self.count or 0, total)
        return min(total, math.ceil(self.share * total - 1e-9))

    def __str__(self) -> str:
        return str(self.count) if self.share is None else f"{self.share * 100:g} %"


@dataclass(frozen=True)
class Plan:
    """What an operator asks for.

    Attributes:
        model, version: what is rolled out.
        devices: these; or
        where: those that a filter finds, also while the rollout runs; both None: all.
        steps: the phases; each says how many devices may have started in all.
        abort_over: share of the started devices that may fail; one more and the rollout aborts.
        success: share of a phase's devices that must succeed before the next begins.
        gate: what devices judge the model by, beside the gate that it was published with.
        samples: inputs that shadow inference runs on each device.
        pause_on_success: stop after each phase until `resume`.
        activate_at: when devices activate it, in seconds since 1970; they download and try it before. None: at once.
        mirror: HTTPS URL of a copy of the server's store; "": none.
        timeout: seconds after which a device that has not come to an end counts as silent, a failure.
    """

    model: str
    version: str
    devices: tuple[str, ...] | None = None
    where: str | None = None
    steps: tuple[Step, ...] = (Step(share=1.0),)
    abort_over: float = 0.0
    success: float = 0.0
    gate: str = ""
    samples: int = 64
    pause_on_success: bool = False
    activate_at: float | None = None
    timeout: float = DAY
    mirror: str = ""

    def __post_init__(self) -> None:
        parse_gate(self.gate)
        if self.devices is not None and self.where is not None:
            raise BadInput("devices: name them, or find them with --where, not both")
        for device in self.devices or ():
            if not DEVICE_ID.fullmatch(device):
                raise BadInput(f"device {shown(device)}: not a device's id")
        if not 0 < len(self.steps) <= MAX_STEPS:
            raise BadInput(f"phases: expected 1 to {MAX_STEPS}, found {len(self.steps)}")
        if self.mirror and not _MIRROR.fullmatch(self.mirror):
            raise BadInput(f"mirror {shown(self.mirror)}: expected https://host/path")
        for name in ("abort_over", "success"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name}: expected a share from 0 to 1, found {getattr(self, name)}")
        if not 1 <= self.samples <= 1024:
            raise BadInput(f"samples: expected 1 to 1024, found {self.samples}")
        if not 1 <= self.timeout <= 365 * DAY:
            raise BadInput(f"timeout: expected 1 s to 365 days, found {self.timeout:g} s")

    def allowed(self, phase: int, total: int) -> int:
        """How many of `total` devices may have been started in phases 0 to `phase`."""
        return max(step.of(total) for step in self.steps[: phase + 1])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Plan:
        """What `to_dict` gave."""
        devices = value["devices"]
        return cls(
            **{
                **value,
                "devices": None if devices is None else tuple(devices),
                "steps": tuple(Step(**step) for step in value["steps"]),
            }
        )


def parse_steps(text: str, canary: int = 0) -> tuple[Step, ...]:
    """Reads `10%,50%,100%` or `5,50,100%`, with a canary phase before it if `canary` is not 0.

    Raises:
        BadInput: it names the part that is wrong.
    """
    steps = [Step(count=canary)] if canary else []
    for part in text.split(","):
        match = _STEP.fullmatch(part.strip())
        if match is None:
            raise BadInput(f"phases {part.strip()[:40]!r}: expected numbers of devices or per cent, as 10%,50%,100%")
        step = Step(count=int(match[1])) if match[1] else Step(share=float(match[2]) / 100)
        if step.of(10**9) == 0 or (step.share or 0) > 1:
            raise BadInput(f"phases {part.strip()!r}: expected at least one device, and at most 100 %")
        last = steps[-1] if steps else None
        if last is not None and (last.share is None) == (step.share is None) and step.of(10**9) <= last.of(10**9):
            raise BadInput(f"phases {part.strip()!r}: each counts all devices so far: expected more than {last}")
        steps.append(step)
    return tuple(steps)


def unmet(variant: Variant, inventory: Inventory) -> list[str]:
    """What of a variant's needs a device does not meet, each as a line; none if it fits."""
    needs = []
    is_board = inventory.kind == "microcontroller"
    if is_board and variant.kind == "program":
        needs.append("is a bare program, and boards take slot images (edge firmware sign)")
    elif is_board != (variant.kind != "bundle"):
        needs.append("is a bundle, for Linux" if is_board else "is for a board's firmware")
    if variant.board is not None and variant.board != inventory.board:
        needs.append(f"is for the board {variant.board}, not {inventory.board or 'an unknown one'}")
    if variant.target != "generic" and variant.target != inventory.target:
        needs.append(f"is for {variant.target}, not {inventory.target or 'an unknown target'}")
    if not is_board and variant.engines and not _runnable(variant, inventory):
        wanted = " or ".join(
            f"{engine} {variant.runtimes[engine]} or later" if engine in variant.runtimes else engine
            for engine in variant.engines
        )
        installed = ", ".join(
            f"{name} {version}" if name in variant.runtimes else name for name, version in inventory.runtimes.items()
        )
        needs.append(f"needs {wanted}; installed: {installed or 'none'}")
    abi = _BOARD_ABI.fullmatch(inventory.runtimes.get("core", "")) if is_board else None
    if abi is not None and variant.abi is not None and variant.abi != int(abi[1]):
        needs.append(f"is a program of ABI {variant.abi}; its firmware runs ABI {abi[1]}")
    missing = sorted(set(variant.operators) - set(inventory.operators)) if is_board and inventory.operators else []
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        needs.append(f"calls {', '.join(missing[:8])}{more}, which its firmware lacks")
    if inventory.ram_kb and variant.ram_bytes > inventory.ram_kb * 1024:
        needs.append(f"needs {variant.ram_bytes:,} bytes of RAM of {inventory.ram_kb * 1024:,}")
    if inventory.flash_kb and variant.blob.length > inventory.flash_kb * 1024:
        needs.append(f"takes {variant.blob.length:,} bytes of storage of {inventory.flash_kb * 1024:,}")
    return needs


def _runnable(variant: Variant, inventory: Inventory) -> set[str]:
    """Engines of the device that run a variant: installed, and new enough."""
    return {
        engine
        for engine in set(variant.engines) & set(inventory.runtimes)
        if version_key(inventory.runtimes[engine]) >= version_key(variant.runtimes.get(engine, "0"))
        or engine not in variant.runtimes
    }


def choose(variants: Iterable[Variant], inventory: Inventory) -> tuple[Variant | None, str]:
    """The variant that suits a device best, and otherwise why none does.

    What is made for its board goes before what is made for its kind of machine, that before what is for any; among
    those, what runs on the core before other engines, and then the smallest file.
    """
    fitting: list[Variant] = []
    reasons: list[str] = []
    for variant in variants:
        needs = unmet(variant, inventory)
        if needs:
            reasons.append(f"{variant.name}: {', '.join(needs)}")
        else:
            fitting.append(variant)
    if not fitting:
        return None, "; ".join(reasons)[:1000] or "nothing is published"
    return min(fitting, key=lambda variant: _preference(variant, inventory)), ""


def _preference(variant: Variant, inventory: Inventory) -> tuple[bool, bool, bool, int, str]:
    return (
        variant.board is None,
        variant.target == "generic",
        "core" not in _runnable(variant, inventory),
        variant.blob.length,
        variant.name,
    )


def active_sha256(inventory: Inventory, model: str) -> str:
    """Hash of the version of `model` that a device says is active; "" if there is none."""
    for installed in inventory.models:
        if installed.name == model and installed.active:
            return installed.sha256
    return ""


def read_variants(rows: Sequence[dict[str, Any]]) -> list[Variant]:
    """The variants as the table `models` holds them."""
    return [Variant.from_dict(row) for row in rows]
