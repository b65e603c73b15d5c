"""The trainer: the same run twice, stopped and resumed, interrupted, diverging; schedules; presets that learn."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.export.checkpoint import load_checkpoint, save_checkpoint
from edge.export.data import Dataset, Split, load_dataset
from edge.export.models import ModelSpec
from edge.export.progress import Silent
from edge.export.quantize import QuantConfig, quantized_layers, ternarize
from edge.export.train import NonFiniteLoss, TrainConfig, default_config, evaluate, train
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.preprocess import ArrayPreprocess


def blobs(count: int = 96, seed: int = 0) -> Dataset:
    """Three Gaussian clouds in eight dimensions."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = (rng.normal(size=(count, 8)) + 4 * np.eye(8)[y]).astype(np.float32)
    preprocess = ArrayPreprocess((8,))
    cut = count * 3 // 4
    train_split, test_split = Split(x[:cut], y[:cut], preprocess), Split(x[cut:], y[cut:], preprocess)
    return Dataset("blobs", ("a", "b", "c"), train_split, test_split, preprocess, {}, None)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return ternarize(model)


CONFIG = TrainConfig(epochs=6, batch_size=12, lr=0.02, seed=3)
STEPS = 6 * 6


class Watcher(Silent):
    """Calls `action` after step `at`."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.at, self.action = at, action
        self.stages: list[str] = []
        self.values: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(f"{name} {total}")

    def update(self, done: int, **values: float | str) -> None:
        self.values.append(values)
        if done == self.at and len(values) == 2:
            self.action()

    def note(self, text: str) -> None:
        self.notes.append(text)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def weights(model: nn.Module) -> list[Tensor]:
    return [v.clone() for v in model.state_dict().values()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(weights(a), weights(b), strict=True))


def test_a_small_ternary_network_learns() -> None:
    model = network()
    watcher = Watcher(0, lambda: None)
    result = train(model, blobs(), CONFIG, progress=watcher)
    assert result.test_accuracy >= 0.9 and result.train_accuracy >= 0.9
    assert result.steps == STEPS and not result.interrupted and not model.training
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5, 6]
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 1.5
    assert result.history[-1]["test_accuracy"] == result.test_accuracy
    assert result.history[-1]["lambda"] == 1.0 and result.history[0]["lambda"] < 1.0
    assert watcher.stages == [f"train {STEPS}", "evaluate None"]
    assert {"loss", "accuracy"} <= watcher.values[0].keys()
    assert all(layer.lambda_ == 1 for _, layer in quantized_layers(model))


def test_the_same_seed_gives_the_same_weights() -> None:
    models = []
    for seed in (3, 3, 4):
        model = network()
        train(model, blobs(), TrainConfig(epochs=2, batch_size=12, seed=seed))
        models.append(model)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_the_callers_random_numbers_are_left_alone() -> None:
    model = network()
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    train(model, blobs(), TrainConfig(epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("at", [1, 5, 6, 20, STEPS - 1])
def test_interrupted_and_resumed_is_the_same_run(tmp_path: Path, at: int) -> None:
    whole = network()
    expected = train(whole, blobs(), CONFIG)
    path = tmp_path / "run.ckpt"
    before = signal.getsignal(signal.SIGINT)
    stopped = train(network(), blobs(), CONFIG, progress=Watcher(at, interrupt), checkpoint=path)
    assert stopped.interrupted and stopped.steps == at
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(path).info["step"] == at
    resumed = network(seed=7)
    watcher = Watcher(0, lambda: None)
    result = train(resumed, blobs(), CONFIG, progress=watcher, checkpoint=path, resume=True)
    assert same(whole, resumed) and result.steps == STEPS and not result.interrupted
    drop = ("seconds",)
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in r.history] for r in (expected, result)]
    assert rows[0] == rows[1]
    assert watcher.notes == [f"goes on from step {at} of {STEPS} ({path})"]


def test_an_interrupt_after_the_last_step_is_no_interruption(tmp_path: Path) -> None:
    result = train(network(), blobs(), CONFIG, progress=Watcher(STEPS, interrupt), checkpoint=tmp_path / "c")
    assert not result.interrupted and result.steps == STEPS


def test_a_second_interrupt_ends_the_program() -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    # A process that was started in the background of a shell has Ctrl-C switched off; Python's own handler is meant.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(network(), blobs(), CONFIG, progress=Watcher(3, twice))
    finally:
        signal.signal(signal.SIGINT, before)


def test_resuming_another_job_is_refused(tmp_path: Path) -> None:
    train(network(), blobs(), CONFIG, checkpoint=tmp_path / "c", identity={"bits": 1.58, "measure": "median"})
    with pytest.raises(BadInput, match=r"--bits 1\.58.*now it is 4"):
        train(
            network(),
            blobs(),
            CONFIG,
            checkpoint=tmp_path / "c",
            resume=True,
            identity={"bits": 4.0, "measure": "median"},
        )


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    model, again = network(), network()
    first = train(model, blobs(), CONFIG, checkpoint=tmp_path / "c")
    second = train(again, blobs(), CONFIG, checkpoint=tmp_path / "c", resume=True)
    assert same(model, again) and second.history == first.history and second.test_accuracy == first.test_accuracy


def test_resume_without_a_file_starts_anew(tmp_path: Path) -> None:
    model, plain = network(), network()
    train(model, blobs(), CONFIG, checkpoint=tmp_path / "c", resume=True)
    train(plain, blobs(), CONFIG)
    assert same(model, plain)
    with pytest.raises(BadInput, match="there is no checkpoint to go on from"):
        train(network(), blobs(), CONFIG, resume=True)


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    train(network(), blobs(), CONFIG, progress=Watcher(8, interrupt), checkpoint=path)

    def resume(model: nn.Module, data: Dataset, config: TrainConfig) -> None:
        train(model, data, config, checkpoint=path, resume=True)

    with pytest.raises(BadInput, match=r"was made with --lr 0\.02, now it is 0\.1"):
        resume(network(), blobs(), TrainConfig(epochs=6, batch_size=12, lr=0.1, seed=3))
    with pytest.raises(BadInput, match="made with 72 training samples, now there are 45"):
        resume(network(), blobs(60), CONFIG)
    other = ternarize(nn.Sequential(nn.Linear(8, 3)))
    with pytest.raises(BadInput, match=r"optimizer state of an unknown parameter '3\.bias'"):
        resume(other, blobs(), CONFIG)
    saved = load_checkpoint(path)
    del saved.info["running"]
    save_checkpoint(path, saved)
    with pytest.raises(BadInput, match="description is incomplete"):
        resume(network(), blobs(), CONFIG)
    path.write_bytes(b"damaged")
    with pytest.raises(BadFile, match=r"run\.ckpt"):
        resume(network(), blobs(), CONFIG)


class Poisoned(nn.Module):
    """Gives NaN from its n-th training step on, in the loss or only in the gradient."""

    def __init__(self, at: int, where: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 3)
        self.at, self.where, self.calls = at, where, 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        if self.training:
            self.calls += 1
            if self.calls >= self.at:
                # sqrt has an infinite slope at 0, and 0 times that is NaN.
                y = y * torch.nan if self.where == "loss" else y + (self.fc.weight.sum() * 0).sqrt()
        return y


@pytest.mark.parametrize(("where", "named"), [("loss", "the loss"), ("gradient", "a gradient")])
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, where: str, named: str) -> None:
    model, path = Poisoned(9, where), tmp_path / "run.ckpt"
    message = f"{named} is not finite at step 9 of 36; the last good checkpoint \\(step 6\\) is .*run.ckpt: use a lower"
    with pytest.raises(NonFiniteLoss, match=message):
        train(model, blobs(), CONFIG, checkpoint=path)
    saved = load_checkpoint(path)
    assert saved.info["step"] == 6
    assert all(bool(torch.isfinite(v).all()) for v in saved.model.values())
    assert all(bool(torch.isfinite(v).all()) for v in model.state_dict().values())
    with pytest.raises(NonFiniteLoss, match="no checkpoint had been written"):
        train(Poisoned(1, where), blobs(), CONFIG)


def test_long_epochs_are_saved_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.export.train.SAVE_SECONDS", 0.0)
    path = tmp_path / "run.ckpt"
    steps: list[int] = []
    watcher = Watcher(0, lambda: None)
    watcher.update = lambda done, **values: steps.append(  # type: ignore[method-assign]
        load_checkpoint(path).info["step"] if path.exists() else 0
    )
    train(network(), blobs(), TrainConfig(epochs=1, batch_size=12), progress=watcher, checkpoint=path)
    assert steps[:6] == [0, 1, 2, 3, 4, 5]


def test_no_epochs_train_nothing() -> None:
    model, untouched = network(), network()
    result = train(model, blobs(), TrainConfig(epochs=0))
    assert same(model, untouched) and result.steps == 0 and 0 <= result.test_accuracy <= 1


def test_fewer_samples_than_a_batch() -> None:
    assert train(network(), blobs(8), TrainConfig(epochs=2, batch_size=64)).steps == 2


def test_weight_decay_spares_norms_biases_and_embeddings() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.positions = nn.Parameter(torch.ones(1, 8))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            # Only the head's gradient differs from zero.
            hidden = self.norm(self.fc(x) + self.positions) * 0
            y: Tensor = self.head(hidden + x)
            return y

    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train(model, blobs(), TrainConfig(epochs=1, weight_decay=0.5, lr=0.01))
    after = model.state_dict()
    for name in ("fc.bias", "norm.weight", "norm.bias", "positions"):
        assert torch.equal(after[name], before[name]), name
    assert bool((after["fc.weight"].abs() < before["fc.weight"].abs()).all())


def test_schedules() -> None:
    config = TrainConfig(lr=1.0, warmup_fraction=0.1, float_fraction=0.25, lambda_fraction=0.25)
    rates = [config.rate(i, 100) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == rates[10] == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    lambdas = [config.lambda_at(i, 100) for i in range(100)]
    assert lambdas[:25] == [0.0] * 25 and lambdas[49:] == [1.0] * 51
    assert lambdas[25:50] == pytest.approx([(i + 1) / 25 for i in range(25)])
    assert TrainConfig(lambda_fraction=0, float_fraction=0.5).lambda_at(50, 100) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("weight_decay", -1.0),
        ("warmup_fraction", 1.5),
        ("lambda_fraction", -0.1),
        ("label_smoothing", 1.0),
        ("clip_norm", 0.0),
        ("seed", -1),
        ("augment", "mixup"),
    ],
)
def test_bad_settings_are_named(field: str, value: object) -> None:
    typed = {"epochs": "--epochs", "batch_size": "--batch-size", "lr": "--lr", "seed": "--seed"}
    with pytest.raises(BadInput, match=f"^{typed.get(field, field)}: "):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    assert TrainConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    with pytest.raises(BadInput, match="unknown field 'epoch'"):
        TrainConfig.from_dict({"epoch": 3})
    with pytest.raises(BadInput, match="--float-fraction: expected at most 0.4, so that training ends quantized"):
        TrainConfig(float_fraction=0.6, lambda_fraction=0.6)


def test_evaluate_is_in_order_and_restores_the_mode() -> None:
    data, model = blobs(), network().train()
    accuracy, logits = evaluate(model, data.test)
    assert model.training and logits.shape == (len(data.test), 3)
    model.eval()
    with torch.no_grad():
        assert torch.equal(logits, model(data.test.batch(range(len(data.test)))))
    assert accuracy == float((logits.argmax(1).numpy() == data.test.y).mean())


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8, 32])
def test_every_width_learns_the_digits(bits: float) -> None:
    """A few seconds of the default model on a part of the digits: far above chance at any number of bits."""
    data = load_dataset("digits", limit=600)
    torch.manual_seed(0)
    spec = ModelSpec("mlp", {"input_shape": data.input_shape, "num_classes": 10})
    model = ternarize(spec.build(), spec.keep, config=QuantConfig(bits=bits))
    result = train(model, data, TrainConfig(epochs=12, lr=3e-3, batch_size=32))
    assert result.test_accuracy > 0.85


def test_presets_follow_model_and_data() -> None:
    data = load_dataset("digits", limit=100)
    small, large = (default_config(ModelSpec(name), data, seed=5) for name in ("cct_2_3x2", "cct_7_3x1"))
    assert small.seed == large.seed == 5 and small.lr == 3 * large.lr
    assert default_config(ModelSpec("cct_2_3x2"), load_dataset("digits")).epochs == 30
