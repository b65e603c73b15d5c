"""Engines timed in turn, in one process, so that every disturbance of the machine hits all of them."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.runtime.manifest import TensorSpec
from edge.runtime.model import Model

_WARM_UPS = 3


@dataclass(frozen=True)
class Timing:
    """What one engine took, in seconds, and beside the engine that is the measure.

    Attributes:
        minimum, median: of all rounds. Other work on a machine only ever adds, so the minimum is the steadier one.
        ratio: minimum over the measure's minimum; above 1 is slower than the measure.
        low, middle, high: 10th, 50th and 90th percentile of the ratios of the same round.
        rounds: how many times it was timed.
    """

    minimum: float
    median: float
    ratio: float
    low: float
    middle: float
    high: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `ratio_p10` to `ratio_p90` are the spread."""
        return {
            "min_seconds": self.minimum,
            "median_seconds": self.median,
            "ratio": self.ratio,
            "ratio_p10": self.low,
            "ratio_p50": self.middle,
            "ratio_p90": self.high,
            "runs": self.rounds,
        }


def time_in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Times each of `runs` once a round; the first is the measure that the others are compared with.

    Within a round each runs twice and the second run is timed: its weights are in the caches again and another
    engine's threads have gone to sleep, as where one model runs over and over. The order changes from round to round
    (seed 0), so that nobody always follows the same neighbour.

    Args:
        runs: what to time, by name.
        rounds: at least 1.
    """
    for run in runs.values():
        for _ in range(_WARM_UPS):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    shuffler = random.Random(0)  # noqa: S311 (no secret)
    with _no_collection():
        for _ in range(rounds):
            shuffler.shuffle(order)
            for name in order:
                run = runs[name]
                run()
                start = perf_counter()
                run()
                seconds[name].append(perf_counter() - start)
    measure = seconds[next(iter(runs))]
    return {name: _timing(values, measure) for name, values in seconds.items()}


def run_of(model: Model) -> Callable[[], object]:
    """One run of a model through its public call, on random inputs (seed 0)."""
    return partial(model, *random_inputs(model.inputs, np.random.default_rng(0)))


def _timing(values: Sequence[float], measure: Sequence[float]) -> Timing:
    ratios = np.divide(values, measure)
    low, middle, high = (float(value) for value in np.percentile(ratios, (10, 50, 90)))
    return Timing(min(values), statistics.median(values), min(values) / min(measure), low, middle, high, len(values))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector would stop whoever is being timed."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def random_inputs(specs: Sequence[TensorSpec], generator: np.random.Generator) -> list[NDArray[Any]]:
    """Inputs made up for a model that is measured, not asked: normal values for floats, zeros for the rest.

    Zeros are valid indices anywhere.
    """
    arrays: list[NDArray[Any]] = []
    for spec in specs:
        if spec.dtype.startswith("float"):
            arrays.append(generator.standard_normal(spec.shape).astype(spec.dtype))
        else:
            arrays.append(np.zeros(spec.shape, dtype=spec.dtype))
    return arrays
