"""`Model.learn`: labels, new classes, budgets, and what survives a restart."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.runtime import BadFile, BadInput, EdgeError, Unsupported, load
from tests.runtime.learn.learn_programs import learn_folder


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return Path(shutil.copy(learn_folder() / "mlp_ternary.pte", tmp_path))


@pytest.fixture
def digits(digits_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(digits_bundle, tmp_path / "digits.edge"))


def inputs(count: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(seed).normal(size=(count, 1, 8, 8)).astype(np.float32))


def kept(path: Path) -> Path:
    return path.with_name(path.name + ".learned")


def test_learned_weights_survive_a_restart(mlp: Path) -> None:
    x = inputs(12)
    with load(mlp) as model:
        assert model.learned is None and not kept(mlp).exists()
        before = model(x[0][None])
        done = model.learn(x, [i % 3 for i in range(12)], learning_rate=0.05)
        assert done.samples == done.total == 12 and 0 <= done.accuracy <= 1
        after = model(x[0][None])
        assert not np.array_equal(before, after)
    with load(mlp) as model:
        assert model.learned is not None and model.learned.samples == 12
        np.testing.assert_array_equal(model(x[0][None]), after)
        assert model.predict(x[0]).index == int(after.argmax())
        model.learn(x[0], 1)
        assert model.learned.samples == 13 and model.learned.learning_rate == pytest.approx(0.05)
    with load(mlp, learned=False) as model:
        np.testing.assert_array_equal(model(x[0][None]), before)
    with load(mlp) as model:
        model.forget()
        assert not kept(mlp).exists()
        np.testing.assert_array_equal(model(x[0][None]), before)


def test_what_was_learned_is_on_disk_before_the_model_is_closed(mlp: Path) -> None:
    model = load(mlp)
    model.learn(inputs(1)[0], 2)
    assert kept(mlp).exists()
    with load(mlp) as other:  # as after a power cut
        assert other.learned is not None and other.learned.samples == 1
    model.close()


def test_new_classes_have_labels_and_survive(digits: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [rng.integers(0, 255, (16, 16), dtype=np.uint8) // 128 * 255 for _ in range(8)]
    with load(digits) as model:
        own = model.labels
        with pytest.raises(BadInput, match="no class 'noise'; it has 0, 1, .*new_labels=True"):
            model.learn(shapes[0], "noise")
        assert model.learned is None or model.learned.samples == 0
        model.learn(shapes * 12, ["noise"] * 96, new_labels=True)
        assert model.labels == (*own, "noise") and model.outputs[0].shape == (1, len(own) + 1)
        assert model.predict(shapes[3]).label == "noise"
        total = model.learned.samples if model.learned else 0
        model.learn(shapes[:1], ["more"], new_labels=True)
        assert model.learned is not None and model.learned.samples == total + 1
        assert model.predict(shapes[3]).label == "noise", "what was learned stays when a class is added"
    with load(digits) as model:
        assert model.labels == (*own, "noise", "more")
        assert model.predict(shapes[3]).label == "noise"
        model.forget()
        assert model.labels == own and model.outputs[0].shape == (1, len(own))


def test_layers_loss_and_budget(mlp: Path) -> None:
    with load(mlp, learned=False) as model:
        one, both = model.learning_budget(), model.learning_budget(layers="all", new_labels=["x"])
        assert (one.layers, one.classes, one.body) == (1, 10, 1)
        assert (both.layers, both.classes, both.body) == (2, 11, 0)
        assert model.learned is None, "a budget takes nothing"
        learner = model.learner(layers="all", new_labels=["x"], learning_rate=0.1, loss="squared")
        assert learner.budget == both and learner.weights.size == both.parameters
        target = np.zeros(11, np.float32)
        target[10] = 1
        for _ in range(40):
            model.learn(inputs(1)[0], target)
        assert model.predict(inputs(1)[0]).label == "x"
        with pytest.raises(BadInput, match="expected a class .* or 11 finite floats"):
            model.learn(inputs(1)[0], np.zeros(10, np.float32))
        learner.weights = np.zeros(both.parameters, np.float32)
        np.testing.assert_array_equal(model(inputs(1)[0][None]), np.zeros((1, 11)))
        with pytest.raises(BadInput, match="weights: expected"):
            learner.weights = np.full(both.parameters, np.nan, np.float32)


def test_a_batch_with_a_wrong_target_teaches_nothing(mlp: Path) -> None:
    with load(mlp) as model:
        for y, text in (
            ([1, 10], "class 10: the model has 10"),
            ([1, -1], "class -1"),
            ([1], "2 samples, 1 targets"),
            ([1, None], "expected a class"),
            ([1, True], "expected a class"),
        ):
            with pytest.raises(BadInput, match=text):
                model.learn(inputs(2), y)
        with pytest.raises(BadInput, match="probabilities"):
            model.learn(inputs(1)[0], np.full(10, 0.3, np.float32))
        assert model.learned is None or model.learned.samples == 0
        with pytest.raises(BadInput, match="expected float32"):
            model.learn(np.zeros((3, 3), np.float32), 1)
    assert not kept(mlp).exists()


def test_what_cannot_learn_says_so(mlp: Path) -> None:
    text = r"gelu.pte: instruction 0, edge::linear.out: this activation function"
    with load(learn_folder() / "gelu.pte", learned=False) as model, pytest.raises(Unsupported, match=text):
        model.learner(layers=2)
    with load(mlp, learned=False) as model:
        for options, text in (
            ({"layers": 0}, "layers"),
            ({"layers": 3}, "3 layers to learn: the program has 2"),
            ({"learning_rate": 0}, "learning_rate"),
            ({"loss": "hinge"}, "loss"),
            ({"new_labels": ["0"]}, "each once"),
            ({"new_labels": ["a\nb"]}, "printable"),
        ):
            with pytest.raises(BadInput, match=text):
                model.learner(**options)
        with pytest.raises(BadInput, match="nothing was learned"):
            model.save_learned(mlp.with_name("nowhere"))


def test_a_learning_rate_too_high_is_told_and_harms_no_file(tmp_path: Path) -> None:
    mlp = Path(shutil.copy(learn_folder() / "mlp_float.pte", tmp_path))
    x = [50 * one for one in inputs(30)]
    with load(mlp) as model:
        model.learner(layers="all", learning_rate=1e5)
        with pytest.raises(BadInput, match="the learning rate was too high"):
            for _ in range(30):
                model.learn(x, [i % 10 for i in range(30)])
        model.forget()
        assert np.isfinite(model(inputs(1)[0][None])).all()


def test_another_models_weights_are_left_alone(mlp: Path, digits: Path, tmp_path: Path) -> None:
    with load(mlp) as model:
        model.learn(inputs(1)[0], 1)
    shutil.copy(kept(mlp), kept(digits))
    with pytest.warns(UserWarning, match="of another model: the model is as it was exported"):
        model = load(digits)
    assert model.learned is None
    with pytest.raises(BadFile, match="of another model"):
        model.load_learned(kept(mlp))
    model.close()
    assert kept(digits).read_bytes() == kept(mlp).read_bytes()


def test_weights_of_a_microcontroller_have_no_labels(mlp: Path, tmp_path: Path) -> None:
    """The bytes that the C core writes, alone."""
    with load(mlp, learned=False) as model:
        model.learner(new_labels=["a"])
        model.learn(inputs(1)[0], 3)
        path = model.save_learned(tmp_path / "full")
        blob = Path(path).read_bytes()
        bare = tmp_path / "bare"
        bare.write_bytes(blob[: 96 + 4 * 11 * 33])
        output = model(inputs(1)[0][None])
    with load(mlp, learned=bare) as model:
        assert model.labels[-1] == "10" and len(model.labels) == 11
        np.testing.assert_array_equal(model(inputs(1)[0][None]), output)


def test_a_folder_that_cannot_be_written_is_told(mlp: Path) -> None:
    with load(mlp, learned=mlp.parent / "missing" / "file") as model:
        with pytest.raises(EdgeError, match="cannot be written"):
            model.learn(inputs(1)[0], 1)
        model.forget()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused(data: st.DataObject, mlp: Path) -> None:
    if not kept(mlp).exists():
        with load(mlp) as model:
            model.learner(new_labels=["new"])
            model.learn(inputs(1)[0], "new")
    good = kept(mlp).read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "more", "junk"]))
    if kind == "flip":
        at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
        bad = good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
    elif kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
        if len(bad) == 96 + 4 * 11 * 33:
            return  # the weights alone are whole
    elif kind == "more":
        bad = good + data.draw(st.binary(min_size=1, max_size=80))
    else:
        bad = data.draw(st.binary(max_size=300))
    path = mlp.with_name("bad")
    path.write_bytes(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = load(mlp, learned=path)
        except BadFile as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # the program's hash was hit: of another model
            assert model.learned is None
            model.close()
    path.unlink()
