"""The core, operator by operator, beside what the machine does at best (the roofline of Williams et al., 2009).

One multiply-accumulate (MAC) counts as two operations: 1 GOPS is 0.5 thousand million MACs a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edge.runtime.backends.session import OpProfile
from edge.runtime.model import Model


@dataclass(frozen=True)
class Peak:
    """What one core does at best, measured: operations a second by instruction sequence, and bytes a second.

    Attributes:
        int8, float32: as {"vpmaddubsw+vpaddw": 4.3e11}; two operations a multiply-accumulate.
        read: bytes a second, read one after the other from a buffer that no L2 holds.
    """

    int8: dict[str, float]
    float32: dict[str, float]
    read: float

    def of(self, op: OpRow) -> float:
        """Operations a second of the fastest instructions of the kind that `op` multiplies with."""
        return max((self.int8 if op.integer else self.float32).values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "int8_ops_per_second": self.int8,
            "float32_ops_per_second": self.float32,
            "read_bytes_per_second": self.read,
        }


@dataclass(frozen=True)
class OpRow:
    """All calls of one operator that give the same shape with the same work.

    Attributes:
        op, shape, integer: as in `OpProfile`.
        count: how many calls.
        seconds: of all of them: the sum of each call's fastest time.
        macs, bytes: of all of them.
    """

    op: str
    shape: tuple[int, ...]
    integer: bool
    count: int
    seconds: float
    macs: int
    bytes: int

    @property
    def ops_per_second(self) -> float:
        return 2 * self.macs / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def intensity(self) -> float:
        """Operations for each byte read or written."""
        return 2 * self.macs / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Profile:
    """A profiled model.

    Attributes:
        calls: every instruction in the order of the program, with its fastest time.
        rows: the same, gathered; slowest first.
        total: seconds of the fastest whole run.
        peak: of one core, measured in the same process.
        threads: of the model; the arithmetic peak it is compared with is that of so many cores.
    """

    calls: list[OpProfile]
    rows: list[OpRow]
    total: float
    peak: Peak
    threads: int

    def share(self, row: OpRow) -> float | None:
        """Share of the measured peak that a row reaches; None if it multiplies nothing."""
        return row.ops_per_second / (self.threads * self.peak.of(row)) if row.macs else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "threads": self.threads,
            "total_seconds": self.total,
            "ops_per_mac": 2,
            "peak": self.peak.to_dict(),
            "operators": [
                {
                    "op": row.op,
                    "shape": list(row.shape),
                    "arithmetic": None if not row.macs else "int8" if row.integer else "float32",
                    "calls": row.count,
                    "seconds": row.seconds,
                    "macs": row.macs,
                    "bytes": row.bytes,
                    "gops": row.ops_per_second / 1e9,
                    "gigabytes_per_second": row.bytes_per_second / 1e9,
                    "share_of_peak": self.share(row),
                }
                for row in self.rows
            ],
            "calls": [
                {"op": call.op, "shape": list(call.shape or ()), "seconds": call.seconds, "macs": call.macs}
                for call in self.calls
            ],
        }


def measure_peak(milliseconds: float = 50.0) -> Peak:
    """Measures what one core does at best, `milliseconds` for each figure."""
    from edge.runtime import _core

    found = _core.measure_peak(milliseconds)
    int8, float32 = ({name: 2 * rate for name, rate in found[kind].items()} for kind in ("int8", "float32"))
    return Peak(int8, float32, found["read"])


def profile_model(model: Model, inputs: Sequence[NDArray[Any]], runs: int, threads: int) -> Profile:
    """Profiles a model that the core runs, `runs` times, and measures the machine's peak before it.

    Args:
        model: opened with backend "core".
        inputs: as for a call of the model.
        runs: at least 1; of each instruction the fastest counts.
        threads: that the model was opened with.
    """
    peak = measure_peak()
    best: list[OpProfile] = []
    total = float("inf")
    for _ in range(runs):
        calls = model.profile(*inputs)
        total = min(total, sum(call.seconds for call in calls))
        best = [min(pair, key=lambda call: call.seconds) for pair in zip(best or calls, calls, strict=True)]
    return Profile(best, gather(best), total, peak, threads)


def gather(calls: Sequence[OpProfile]) -> list[OpRow]:
    """Calls of the same operator, shape and work as one row; slowest row first."""
    rows: dict[tuple[object, ...], OpRow] = {}
    for call in calls:
        key = (call.op, call.shape, call.macs, call.bytes)
        row = rows.get(key) or OpRow(call.op, call.shape or (), call.integer, 0, 0.0, 0, 0)
        rows[key] = replace(
            row,
            count=row.count + 1,
            seconds=row.seconds + call.seconds,
            macs=row.macs + (call.macs or 0),
            bytes=row.bytes + (call.bytes or 0),
        )
    return sorted(rows.values(), key=lambda row: row.seconds, reverse=True)
