"""Learning in the C core: the numpy oracle's to the last bit, on every instruction set, in the RAM it announced."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.export.learning_reference import LearningReference, tail_of
from edge.runtime import _core
from tests.runtime.learn.learn_programs import LAYOUTS, LEARNABLE, REFUSED, learn_folder


@cache
def program_bytes(name: str) -> bytes:
    return (learn_folder() / f"{name}.pte").read_bytes()


def opened(name: str) -> _core.Program:
    return _core.Program(program_bytes(name))


def samples(program: _core.Program, count: int, seed: int, scale: float = 1.0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.normal(size=program.inputs[0][1])).astype(np.float32) for _ in range(count)]


def entry_of(program: _core.Program, x: np.ndarray[Any, Any], first: int) -> np.ndarray[Any, Any]:
    """What the body leaves for the tail: [C, H, W] or a row."""
    name, arguments, _ = program.trace([x])[first]
    values = np.asarray(arguments[1 if name.startswith("aten::addmm") else 0])
    return values[0] if values.ndim == 4 else values.reshape(-1)


def check_against_oracle(
    name: str, layers: int, classes: int, rate: float, loss: str, seed: int, steps: int = 3
) -> None:
    program = opened(name)
    learner = _core.Learner(program, layers, classes, rate, loss)
    tail, first = tail_of(program.trace(samples(program, 1, 0)), layers, classes or None)
    oracle = LearningReference(tail, rate, squared=loss == "squared")
    np.testing.assert_array_equal(learner.weights(), oracle.weights())
    rng = np.random.default_rng(seed)
    for x in samples(program, steps, seed):
        entry = entry_of(program, x, first)
        given_output = learner.predict([x]).reshape(-1)
        if name != "softmax":
            np.testing.assert_array_equal(given_output, oracle.forward(entry)[-1].reshape(-1))
        if loss == "squared":
            target = rng.normal(size=given_output.shape).astype(np.float32)
            found, wanted = learner.learn_target([x], target), oracle.learn(entry, target)
        else:
            index = int(rng.integers(given_output.size))
            found, wanted = learner.learn_class([x], index), oracle.learn(entry, index)
        assert found == (wanted[0], float(wanted[1]))
        np.testing.assert_array_equal(learner.weights(), oracle.weights())
    assert learner.samples == steps


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("name", LEARNABLE)
def test_c_and_oracle_agree_to_the_last_bit(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ISA", isa)
    for layers in range(1, LEARNABLE[name] + 1):
        check_against_oracle(name, layers, 0, 0.05, "cross-entropy", layers, steps=2)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["mlp_ternary", "mlp_int4", "tanh", "windows", "portable_cnn", "portable_mlp", "ds_cnn"]),
    share=st.floats(0, 1),
    more=st.integers(0, 4),
    rate=st.floats(1e-4, 0.2),
    loss=st.sampled_from(["cross-entropy", "squared"]),
    seed=st.integers(0, 1 << 30),
)
def test_any_plan_agrees_with_the_oracle(name: str, share: float, more: int, rate: float, loss: str, seed: int) -> None:
    layers = 1 + round(share * (LEARNABLE[name] - 1))
    classes = opened(name).outputs[0][1][-1] + more
    check_against_oracle(name, layers, classes, float(np.float32(rate)), loss, seed)


@pytest.mark.parametrize("name", ["tanh", "mlp_ternary", "ds_cnn", "cnn"])
def test_steps_follow_finite_differences(name: str) -> None:
    """(weights before - after) / rate is the gradient of the loss: what a small change of each weight does to it.

    So small that hardly a ReLU or a largest value changes over, so large that float32 shows it.
    """
    program = opened(name)
    rate, width = 1e-3, 1e-3
    learner = _core.Learner(program, 0, 0, rate, "cross-entropy")
    x = samples(program, 1, 3)
    start = learner.weights()

    def loss(weights: np.ndarray[Any, Any]) -> float:
        learner.set_weights(weights)
        logits = learner.predict(x).reshape(-1).astype(np.float64)
        return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[1])

    learner.learn_class(x, 1)
    gradient = (start.astype(np.float64) - learner.weights()) / rate
    rng = np.random.default_rng(0)
    strongest = np.argsort(-np.abs(gradient))[: len(gradient) // 4]
    for index in rng.choice(strongest, 24, replace=False):
        moved = np.array([start, start])
        moved[0, index] += width
        moved[1, index] -= width
        estimate = (loss(moved[0]) - loss(moved[1])) / (2 * width)
        assert estimate == pytest.approx(gradient[index], rel=0.05, abs=3e-3)


def test_the_head_starts_as_the_program() -> None:
    """But for the quantization of its inputs, which a float32 head does without."""
    for name in ("mlp_ternary", "mlp_int4", "mlp_int8", "mlp_float", "head_256", "softmax"):
        program = opened(name)
        learner = _core.Learner(program, 1, 0, 0.1, "cross-entropy")
        for x in samples(program, 5, 1):
            exported = program.run([x])[0]
            np.testing.assert_allclose(learner.predict([x]), exported, atol=0.02 * np.abs(exported).max())


def test_new_classes_are_the_mean_of_the_old_and_are_learned() -> None:
    program = opened("mlp_ternary")
    learner = _core.Learner(program, 1, 13, 0.05, "cross-entropy")
    inputs = samples(program, 6, 5)
    output = learner.predict([inputs[0]])
    assert output.shape == (1, 13)
    np.testing.assert_allclose(output[0, 10:], np.full(3, output[0, :10].mean()), atol=1e-5)
    assert output.argmax() < 10, "a class that was never seen is never the best"
    for _ in range(60):
        for index, x in enumerate(inputs):
            learner.learn_class([x], (11, 12)[index % 2] if index < 4 else 3)
    found = [int(learner.predict([x]).argmax()) for x in inputs]
    assert found == [11, 12, 11, 12, 3, 3]


def test_weights_start_the_same_in_every_layout() -> None:
    starts = [_core.Learner(opened(f"odd_{layout}"), 2, 9, 0.1, "cross-entropy").weights() for layout in LAYOUTS]
    for start in starts:
        np.testing.assert_array_equal(start, starts[0])
    assert len(np.unique(np.abs(starts[0][: 11 * 13]))) == 2, "a scale and zero"


def test_the_program_still_runs_as_it_was() -> None:
    program = opened("cnn")
    x = samples(program, 2, 8)
    before = [program.run([one])[0] for one in x]
    learner = _core.Learner(program, 0, 0, 0.1, "cross-entropy")
    for one in x:
        learner.learn_class([one], 3)
        learner.predict([one])
    for one, wanted in zip(x, before, strict=True):
        np.testing.assert_array_equal(program.run([one])[0], wanted)


def test_reset_goes_back_to_the_program() -> None:
    program = opened("portable_cnn")
    learner = _core.Learner(program, 0, 0, 0.1, "cross-entropy")
    start = learner.weights()
    for x in samples(program, 3, 2):
        learner.learn_class([x], 1)
    assert not np.array_equal(learner.weights(), start)
    learner.reset()
    np.testing.assert_array_equal(learner.weights(), start)
    assert learner.samples == 0


@pytest.mark.parametrize(
    ("name", "layers", "most"),
    [("head_256", 1, 12_800), ("mlp_float", 0, 10_240), ("mlp_196", 0, 55_000), ("cnn", 0, 40_000)],
)
def test_learning_fits_the_ram_that_the_design_gives_it(name: str, layers: int, most: int) -> None:
    """Last layer 256->12: 12 KB (12,336 bytes are weights); MLP 64-32-10: 10 KB; 196-64-10: 55 KB; CNN 16x16: 40 KB."""
    budget = _core.learning_budget(opened(name), layers, 0, 0.1, "cross-entropy")
    assert budget["total_bytes"] <= most
    parts = ("state_bytes", "weight_bytes", "activation_bytes", "gradient_bytes")
    assert 0 <= budget["total_bytes"] - sum(budget[part] for part in parts) < 16
    assert budget["weight_bytes"] == 4 * budget["parameters"]
    if name == "cnn":
        assert budget["parameters"] == 3818


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_through_is_named(name: str) -> None:
    program = opened(name)
    assert _core.learning_budget(program, 1, 0, 0.1, "cross-entropy")["layers"] == 1
    for layers in (2, 0):
        with pytest.raises(_core.CoreError) as refusal:
            _core.Learner(program, layers, 0, 0.1, "cross-entropy")
        status, text = refusal.value.args
        assert status == "unsupported" and REFUSED[name] in text, text
        assert "layers behind it that can learn: 1" in text


def test_plans_out_of_range_are_refused() -> None:
    program = opened("mlp_ternary")
    for layers, classes, rate, text in (
        (3, 0, 0.1, "3 layers to learn: the program has 2"),
        (1, 9, 0.1, "9 classes: the program has 10"),
        (1, 65537, 0.1, "out of range"),
        (1, 0, 0.0, "out of range"),
        (1, 0, float("nan"), "out of range"),
        (1, 0, float("inf"), "out of range"),
    ):
        with pytest.raises(_core.CoreError, match=text):
            _core.learning_budget(program, layers, classes, rate, "cross-entropy")
    with pytest.raises(_core.CoreError, match="does not go with the loss"):
        _core.learning_budget(opened("softmax"), 1, 0, 0.1, "squared")
    learner = _core.Learner(program, 1, 0, 0.1, "cross-entropy")
    with pytest.raises(_core.CoreError, match="class 10: the learner has 10"):
        learner.learn_class(samples(program, 1, 0), 10)


def test_outputs_that_are_not_finite_change_nothing() -> None:
    program = opened("mlp_float")
    learner = _core.Learner(program, 0, 0, 0.1, "cross-entropy")
    start = learner.weights()
    x = samples(program, 1, 0)[0]
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[0, 0, 3, 3] = bad
        with pytest.raises(_core.CoreError, match="not finite"):
            learner.learn_class([broken], 1)
    np.testing.assert_array_equal(learner.weights(), start)
    wild = _core.Learner(program, 0, 0, 1e5, "cross-entropy")
    with pytest.raises(_core.CoreError, match="the learning rate was too high"):
        for _ in range(50):
            wild.learn_class([100 * x], 1)
            wild.learn_class([-100 * x], 2)


def test_weights_go_out_and_come_back() -> None:
    program = opened("mlp_ternary")
    key = bytes(range(32))
    learner = _core.Learner(program, 2, 12, 0.05, "cross-entropy")
    inputs = samples(program, 4, 9)
    for index, x in enumerate(inputs):
        learner.learn_class([x], index)
    blob = learner.save(key)
    layers, classes, rate, loss, used = _core.learned_plan(blob + b"more", key)
    assert (layers, classes, loss, used) == (2, 12, "cross-entropy", len(blob))
    assert rate == np.float32(0.05)
    again = _core.Learner(program, layers, classes, rate, loss)
    again.load(blob, key)
    assert again.samples == 4
    np.testing.assert_array_equal(again.weights(), learner.weights())
    np.testing.assert_array_equal(again.predict([inputs[0]]), learner.predict([inputs[0]]))
    for other in (_core.Learner(program, 1, 12, 0.05, "cross-entropy"), _core.Learner(program, 2, 10, 0.05, "squared")):
        start = other.weights()
        with pytest.raises(_core.CoreError, match="of other layers or classes"):
            other.load(blob, key)
        np.testing.assert_array_equal(other.weights(), start)
    with pytest.raises(_core.CoreError, match="of another model"):
        again.load(blob, bytes(32))


def test_header_is_as_documented() -> None:
    import hashlib
    import struct

    learner = _core.Learner(opened("head_256"), 1, 0, 0.25, "squared")
    key = bytes(range(32))
    blob = learner.save(key)
    words = struct.unpack("<4sHHIIIfII", blob[:32])
    assert words == (b"EDGW", 1, 1, 12, 3084, 0, 0.25, 1, 0)
    assert blob[32:64] == key
    assert blob[64:96] == hashlib.sha256(blob[:64] + blob[96:]).digest()
    assert len(blob) == 96 + 4 * 3084
    np.testing.assert_array_equal(np.frombuffer(blob[96:], "<f4"), learner.weights())
