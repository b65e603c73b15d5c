"""Measuring: engines in turn, the machine's peak, profiles, and the machine described."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
from collections.abc import Callable

import pytest

from edge.runtime import OpProfile, _core
from edge.runtime.bench.machine import describe_machine, machine_line
from edge.runtime.bench.profile import Peak, Profile, gather, measure_peak
from edge.runtime.bench.timing import time_in_turn


def _sleeper(seconds: float, calls: list[str], name: str) -> Callable[[], None]:
    def run() -> None:
        calls.append(name)
        time.sleep(seconds)

    return run


@pytest.mark.quiet
def test_engines_run_in_turn_and_the_first_is_the_measure() -> None:
    calls: list[str] = []
    runs = {"first": _sleeper(0.004, calls, "first"), "second": _sleeper(0.012, calls, "second")}
    times = time_in_turn(runs, rounds=6)
    assert list(times) == ["first", "second"]
    assert times["first"].ratio == times["first"].low == times["first"].high == 1
    second = times["second"]
    assert 0.012 <= second.minimum <= second.median
    assert 1.5 < second.ratio < 3.2  # a sleep lasts a little longer than asked
    assert second.low <= second.middle <= second.high
    assert second.to_dict()["runs"] == 6
    rounds = calls[-24:]  # each runs twice in its turn, the second run is timed
    turns = [rounds[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(turn) == ["first", "first", "second", "second"] for turn in turns)
    assert all(turn[0] == turn[1] for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 2, "the order does not change"


def test_the_garbage_collector_rests_while_engines_are_timed() -> None:
    seen: list[bool] = []
    time_in_turn({"only": lambda: seen.append(gc.isenabled())}, rounds=2)
    assert seen[-4:] == [False] * 4
    assert gc.isenabled()


# Multiply-accumulates of one instruction; no core issues more than two of the vector ones a cycle, nor runs at 6.5 GHz.
_WIDTHS = {
    "vpmaddubsw+vpaddw": 32,
    "vpdpbusd ymm": 32,
    "vpdpbusd zmm": 64,
    "vmulps+vaddps ymm": 8,
    "vmulps+vaddps zmm": 16,
    "mulps+addps xmm": 4,
}


@pytest.mark.quiet
def test_the_peak_is_what_a_processor_can_do() -> None:
    peak = _core.measure_peak(10)
    rates = {**peak["int8"], **peak["float32"]}
    assert peak["int8"] and peak["float32"]
    for name, rate in rates.items():
        assert 1e8 < rate < 2 * 6.5e9 * _WIDTHS.get(name, 64), f"{name}: the compiler removed the loop, or half of it"
    assert max(peak["int8"].values()) > max(peak["float32"].values())
    assert 1e8 < peak["read"] < 1e12
    assert max(measure_peak(5).int8.values()) > max(peak["int8"].values()), "operations are two a multiply-accumulate"


@pytest.mark.quiet
def test_measuring_the_peak_lets_other_threads_run() -> None:
    done = threading.Event()
    ticks = 0

    def measure() -> None:
        _core.measure_peak(100)
        done.set()

    worker = threading.Thread(target=measure)
    worker.start()
    while not done.wait(0.01):
        ticks += 1
    worker.join()
    assert ticks > 10


@pytest.mark.parametrize("milliseconds", [0, -1, math.nan, 1e6])
def test_a_measurement_that_makes_no_sense_is_refused(milliseconds: float) -> None:
    with pytest.raises(_core.CoreError, match="milliseconds"):
        _core.measure_peak(milliseconds)


def test_calls_with_the_same_work_become_one_row() -> None:
    linear = OpProfile("edge::ternary_linear.out", 2e-6, 1000, (1, 10), 600, True)
    calls = [linear, OpProfile("aten::relu.out", 9e-6, 0, (1, 10), 80), linear, OpProfile("aten::mm.out", 1e-6, 500)]
    relu, linears, product = gather(calls)
    assert (relu.op, relu.count, relu.macs) == ("aten::relu.out", 1, 0)
    assert (linears.count, linears.macs, linears.bytes) == (2, 2000, 1200)
    assert linears.seconds == pytest.approx(4e-6)
    assert linears.ops_per_second == pytest.approx(2 * 2000 / 4e-6)
    assert linears.intensity == pytest.approx(2 * 2000 / 1200)
    profile = Profile(calls, [relu, linears, product], 14e-6, Peak({"a": 1e9, "b": 2e9}, {"c": 5e9}, 1e10), threads=2)
    assert profile.share(relu) is None
    assert profile.share(linears) == pytest.approx(1e9 / (2 * 2e9))
    assert profile.share(product) == pytest.approx(1e9 / (2 * 5e9))


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cores"] >= machine["cores_usable"] >= 1
    assert machine["engines"]["numpy"]
    assert machine["cpu"] in machine_line(machine)
