"""What a backend offers, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from edge.runtime.manifest import TensorSpec

Buffer: TypeAlias = "bytes | memoryview"


@dataclass(frozen=True)
class OpProfile:
    """Time that one operator took in one run.

    Args:
        op: the operator, or "(whole model)" where the engine does not say more.
        seconds: wall time.
        macs: multiply-accumulates, where known.
        shape: of its first output, where known.
        bytes: of all that it reads and writes (weights, inputs, outputs), where known.
        integer: whether it multiplies integers: one of its constants is of 8 bits or packed into bytes.
        instructions: that a microcontroller took, or its cycles: whatever its board counts.
    """

    op: str
    seconds: float
    macs: int | None = None
    shape: tuple[int, ...] | None = None
    bytes: int | None = None
    integer: bool = False
    instructions: int | None = None


class Session(Protocol):
    """A model that an engine has opened; for one thread at a time."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs once. `arrays` are C-contiguous and match `inputs`; the results are the caller's to keep."""

    def profile(self, arrays: Sequence[NDArray[Any]]) -> list[OpProfile]:
        """Runs once, after a run to warm up, and says where the time went."""

    def close(self) -> None:
        """Frees the engine's memory; the session is not used afterwards."""


class Backend(Protocol):
    """What a module of this package offers."""

    def available(self) -> str | None:
        """None if the engine is installed, else one line that says what to install. Imports nothing heavy."""

    def open(self, data: Buffer, threads: int) -> Session:
        """Opens a model's bytes.

        Raises:
            BadFile: damaged bytes.
            Unsupported: an operator, delegate, dtype or dynamic shape that the engine or we do not run.
        """


def whole_model(run: Callable[[], object]) -> list[OpProfile]:
    """Profile of an engine that does not tell its operators apart: one warm-up, one timed run."""
    run()
    start = perf_counter()
    run()
    return [OpProfile("(whole model)", perf_counter() - start)]
