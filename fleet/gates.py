"""Quality gates: what a new model must reach on a device's own inputs before the device activates it.

    accuracy>=0.9|latency_p95<20ms|confidence>=0.6|agreement>=0.95

Conditions stand between bars, and every one must hold. The server checks the text when it is given, the device when it
judges; both with this parser, which knows four measures and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.runtime.errors import BadInput

SHARES = ("accuracy", "agreement", "confidence")
"""Of the device's labelled inputs those told rightly; of all, those with the old model's answer; mean best score."""

LATENCY = "latency_p95"
MAX_GATE = 300

_CONDITION = re.compile(r"([a-z_0-9]{1,20})(>=|<=|>|<)([0-9]{1,7}(?:\.[0-9]{1,6})?)(us|ms|s|%)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Measures:
    """What shadow inference found; None where there was nothing to measure it on.

    Attributes:
        samples: inputs that both models ran.
        source: "device" for its own inputs, "reference" where it had none.
        accuracy, agreement, confidence: shares, 0 to 1.
        latency_p95: of the new model, in seconds.
        old_latency_p95: of the model it replaces, in seconds.
    """

    samples: int
    source: str = "device"
    accuracy: float | None = None
    agreement: float | None = None
    confidence: float | None = None
    latency_p95: float | None = None
    old_latency_p95: float | None = None

    def to_dict(self) -> dict[str, float | int | str | None]:
        return dict(vars(self))


@dataclass(frozen=True)
class Condition:
    """`measure` `sign` `limit`; shares from 0 to 1, latency in seconds."""

    measure: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        return {
            ">=": value >= self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            "<": value < self.limit,
        }[self.sign]

    def failure(self, measures: Measures) -> str | None:
        """Why it does not hold, or None."""
        value: float | None = getattr(measures, self.measure)
        if value is None:
            return f"{self.measure}: was not measured: {_WHY_NOT[self.measure]}"
        if self.holds(value):
            return None
        return f"{self.measure} is {_shown(self.measure, value)}, not {self.sign} {_shown(self.measure, self.limit)}"


_WHY_NOT = {
    "accuracy": "the device has no labelled inputs",
    "agreement": "the device has no model to compare with",
    "confidence": "the model gives no class scores",
    LATENCY: "no input was run",
}


@dataclass(frozen=True)
class Gate:
    """All conditions; an empty gate lets everything pass."""

    conditions: tuple[Condition, ...] = ()

    def failures(self, measures: Measures) -> list[str]:
        """What does not hold, each as a line; none if the gate lets the model pass.

        A measure that could not be taken does not hold. The one exception is `agreement` where there is no model that
        the new one replaces: a first model has nothing to agree with.
        """
        told = []
        for condition in self.conditions:
            if condition.measure == "agreement" and measures.agreement is None:
                continue
            failure = condition.failure(measures)
            if failure is not None:
                told.append(failure)
        return told


def parse_gate(text: str) -> Gate:
    """Reads a gate.

    Raises:
        BadInput: it names what is wrong, and what would be right.
    """
    if not text:
        return Gate()
    if len(text) > MAX_GATE:
        raise BadInput(f"gate: {len(text)} characters; at most {MAX_GATE} are read")
    conditions = []
    for part in text.split("|"):
        words = part.strip().replace(" ", "")
        match = _CONDITION.fullmatch(words)
        if match is None:
            raise BadInput(
                f"gate {part.strip()[:60]!r}: expected a measure, a sign and a limit, as accuracy>=0.9 or "
                "latency_p95<20ms"
            )
        measure, sign, digits, unit = match.groups()
        conditions.append(Condition(measure, sign, _limit(measure, sign, float(digits), unit, part.strip())))
    return Gate(tuple(conditions))


def _limit(measure: str, sign: str, value: float, unit: str | None, part: str) -> float:
    if measure == LATENCY:
        if unit not in _SECONDS:
            raise BadInput(f"gate {part!r}: a latency needs its unit: {LATENCY}<20ms")
        if sign not in ("<", "<="):
            raise BadInput(f"gate {part!r}: a latency is bounded from above: {LATENCY}<20ms")
        return value * _SECONDS[unit]
    if measure not in SHARES:
        raise BadInput(f"gate {part!r}: expected one of {', '.join((*SHARES, LATENCY))}")
    if unit == "%":
        value /= 100
    elif unit is not None:
        raise BadInput(f"gate {part!r}: {measure} is a share: from 0 to 1, or per cent")
    if not 0 <= value <= 1:
        raise BadInput(f"gate {part!r}: {measure} is a share: from 0 to 1, or per cent")
    if sign not in (">", ">="):
        raise BadInput(f"gate {part!r}: {measure} is bounded from below: {measure}>=0.9")
    return value


def _shown(measure: str, value: float) -> str:
    return f"{value * 1e3:.3g} ms" if measure == LATENCY else f"{value:.3f}"
