"""The training loop: AdamW, warm-up and cosine, quantization phased in, resumable, and stoppable at any step."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.export.checkpoint import Checkpoint, check_resumable, load_checkpoint, load_into, save_checkpoint
from edge.export.data import Dataset, Split
from edge.export.data.augment import augmentation
from edge.export.models import ModelSpec
from edge.export.options import as_typed
from edge.export.progress import Progress, Silent
from edge.export.quantize import set_lambda
from edge.runtime.errors import BadInput, EdgeError

SAVE_SECONDS = 30.0
"""A long epoch is saved this often in between."""

_EVALUATIONS = 20
_SAMPLES_SEEN = 43_000
_FEWEST_EPOCHS = 10
_EVALUATION_BATCH = 256


class NonFiniteLoss(EdgeError):
    """The loss or a gradient became NaN or infinite; the model keeps the weights of the last good step."""


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Args:
        epochs, batch_size: passes over the training split (0 trains nothing), and samples a step.
        lr: peak learning rate of AdamW (arXiv 1711.05101).
        weight_decay: of matrices and kernels; norms, biases and embeddings have none.
        warmup_fraction: share of the steps in which the rate rises linearly; then it falls as a cosine to 1 %.
        float_fraction: share of the steps before quantization begins (16-bit to 1.58-bit continuation).
        lambda_fraction: share of the steps after that in which lambda rises from 0 to 1.
        label_smoothing: of the cross entropy.
        augment: name of an augmentation, "none", or None for the one that suits the data set.
        clip_norm: largest norm of the whole gradient.
        seed: of order, augmentation and dropout.

    Raises:
        BadInput: a value out of range.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    float_fraction: float = 0.0
    lambda_fraction: float = 0.2
    label_smoothing: float = 0.1
    augment: str | None = None
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 0, "0 or more")
        _check("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        _check("lr", self.lr, 0 < self.lr < math.inf, "more than 0")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more")
        for name in ("warmup_fraction", "float_fraction", "lambda_fraction"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        fits = self.float_fraction + self.lambda_fraction <= 1
        most = f"at most {1 - self.lambda_fraction:g}, so that training ends quantized"
        _check("float_fraction", self.float_fraction, fits, most)
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "0 to below 1")
        _check("clip_norm", self.clip_norm, self.clip_norm > 0, "more than 0")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "0 to 2**63 - 1")
        augmentation(self.augment)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise BadInput(f"training: unknown field {unknown[0]!r}")
        return cls(**values)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step 0 .. steps - 1."""
        warmup = max(1, round(self.warmup_fraction * steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def lambda_at(self, step: int, steps: int) -> float:
        """How far quantization is phased in at step 0 .. steps - 1."""
        begin, length = self.float_fraction * steps, self.lambda_fraction * steps
        if step < begin:
            return 0.0
        return 1.0 if length == 0 else min(1.0, (step - begin + 1) / length)


def default_config(spec: ModelSpec, dataset: Dataset, *, seed: int = 0) -> TrainConfig:
    """Settings that work for a model on a data set, tuned on the digits (CCT-2) and on spoken digits (DS-CNN).

    About 43,000 samples are seen, in at least 10 passes: 30 epochs of the digits, 16 of the spoken ones.

    Args:
        spec: the model.
        dataset: what it learns.
        seed: goes into the settings.
    """
    epochs = max(_FEWEST_EPOCHS, round(_SAMPLES_SEEN / len(dataset.train)))
    return TrainConfig(epochs=epochs, lr=spec.info.rate, seed=seed)


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise BadInput(f"{as_typed(name)}: expected {expected}, found {value!r}")


@dataclass
class TrainResult:
    """What a training run came to.

    Attributes:
        history: one row an epoch: epoch, step, seconds, loss, accuracy (of the augmented training batches), rate,
            lambda, and now and then test_accuracy.
        train_accuracy, test_accuracy: of the final weights, 0..1, without augmentation.
        seconds: of training in all, resumed parts included.
        steps: optimizer steps done.
        interrupted: Ctrl-C or SIGTERM ended it early; the checkpoint continues it.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    train_accuracy: float = 0.0
    test_accuracy: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    interrupted: bool = False


def evaluate(model: nn.Module, split: Split) -> tuple[float, Tensor]:
    """Accuracy (0..1) of `model` in evaluation mode over a split, and its logits float32 [n, classes]."""
    training = model.training
    model.eval()
    logits = []
    with torch.inference_mode():
        for start in range(0, len(split), _EVALUATION_BATCH):
            indices = torch.arange(start, min(start + _EVALUATION_BATCH, len(split)))
            logits.append(model(split.batch(indices)))
    model.train(training)
    scores = torch.cat(logits)
    right = scores.argmax(1) == torch.as_tensor(split.y)
    return float(right.double().mean()), scores


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Trains `model` in place and leaves it in evaluation mode, fully quantized.

    The same arguments give the same weights on the same machine; so does a run that was stopped and resumed. Ctrl-C
    or SIGTERM ends the run after the present step (a second one ends the program).

    Args:
        model: float, or made by `ternarize`.
        dataset: its `train` split is learned, its `test` split only measured.
        config: see `TrainConfig`.
        progress: told about every step.
        checkpoint: file to write after every epoch, every 30 s of a long one, and when stopped.
        resume: go on from `checkpoint` where it exists.
        identity: what else must be the same to resume (quantization, model, data): JSON values by name.

    Raises:
        NonFiniteLoss: the loss or a gradient is NaN or infinite; names the step.
        BadFile: `checkpoint` is damaged.
        BadInput: `checkpoint` belongs to another model, data set or configuration.
        EdgeError: `checkpoint` cannot be written.
    """
    if resume and checkpoint is None:
        raise BadInput("resume: there is no checkpoint to go on from: give its path")
    # The caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        run = _Run(model, dataset, config, progress or Silent(), checkpoint, dict(identity or {}))
        if resume and checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint)
        with _interrupts() as stop:
            run.go(stop)
    return run.finish()


class _Run:
    """One training run: what changes from step to step, and how it is saved."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        config: TrainConfig,
        progress: Progress,
        checkpoint: Path | None,
        identity: dict[str, Any],
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.config = config
        self.progress = progress
        self.checkpoint = checkpoint
        # As a checkpoint gives it back: JSON has no tuples.
        self.identity = json.loads(json.dumps(identity))
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise BadInput("the model has no parameters to train")
        self.optimizer = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.lr, fused=True)
        self.augment = augmentation(config.augment or dataset.augment)
        # A last batch of one sample would break BatchNorm; a short one is dropped unless it is all there is.
        self.per_epoch = max(1, len(dataset.train) // config.batch_size)
        self.steps = self.per_epoch * config.epochs
        self.y = torch.from_numpy(dataset.train.y)
        self.result = TrainResult()
        self.loss_sum = self.right = self.seen = 0.0
        self.saved_step: int | None = None
        self.saved_at = time.monotonic()

    def go(self, stop: Callable[[], bool]) -> None:
        self.progress.stage("train", self.steps)
        self.model.train()
        while self.result.steps < self.steps:
            began = time.monotonic()
            epoch, within = divmod(self.result.steps, self.per_epoch)
            if within == 0:
                self.loss_sum = self.right = self.seen = 0.0
            order = self._order(epoch)
            while within < self.per_epoch and not stop():
                self._step(order[within * self.config.batch_size : (within + 1) * self.config.batch_size])
                within += 1
                if time.monotonic() - self.saved_at > SAVE_SECONDS and within < self.per_epoch:
                    self.result.seconds, began = self.result.seconds + time.monotonic() - began, time.monotonic()
                    self.save()
            self.result.seconds += time.monotonic() - began
            if within == self.per_epoch:
                self._end_epoch(epoch)
            self.save()
            if stop() and self.result.steps < self.steps:
                self.result.interrupted = True
                return

    def finish(self) -> TrainResult:
        set_lambda(self.model, 1.0)
        self.model.eval()
        if not self.result.interrupted:
            self.progress.stage("evaluate")
            self.result.train_accuracy = evaluate(self.model, self.dataset.train)[0]
            self.result.test_accuracy = evaluate(self.model, self.dataset.test)[0]
        return self.result

    def _order(self, epoch: int) -> Tensor:
        """The samples of an epoch; a function of seed and epoch alone, so a resumed run sees the same."""
        generator = torch.Generator().manual_seed(self.config.seed + 1_000_003 * (epoch + 1))
        return torch.randperm(len(self.y), generator=generator)

    def _step(self, indices: Tensor) -> None:
        step, config = self.result.steps, self.config
        set_lambda(self.model, config.lambda_at(step, self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(step, self.steps)
        labels = self.y[indices]
        logits = self.model(self.augment(self.dataset.train.batch(indices)))
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), config.clip_norm)
        # Checked before the weights change, so the model still holds the last good ones.
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise self._diverged(step, value)
        self.optimizer.step()
        self.result.steps += 1
        self.loss_sum += value * len(indices)
        self.right += float((logits.argmax(1) == labels).sum())
        self.seen += len(indices)
        self.progress.update(self.result.steps, loss=self.loss_sum / self.seen, accuracy=self.right / self.seen)

    def _diverged(self, step: int, loss: float) -> NonFiniteLoss:
        what = "the loss" if not math.isfinite(loss) else "a gradient"
        if self.saved_step is None:
            kept = "no checkpoint had been written yet"
        else:
            kept = f"the last good checkpoint (step {self.saved_step}) is {self.checkpoint}"
        return NonFiniteLoss(
            f"{what} is not finite at step {step + 1} of {self.steps}; {kept}: use a lower learning rate than "
            f"{self.config.lr:g}, or look for NaN in the data"
        )

    def _end_epoch(self, epoch: int) -> None:
        step = self.result.steps
        row = {
            "epoch": epoch + 1,
            "step": step,
            "seconds": self.result.seconds,
            "loss": self.loss_sum / self.seen,
            "accuracy": self.right / self.seen,
            "rate": self.config.rate(step - 1, self.steps),
            "lambda": self.config.lambda_at(step - 1, self.steps),
        }
        every = max(1, self.config.epochs // _EVALUATIONS)
        if (epoch + 1) % every == 0 or epoch + 1 == self.config.epochs:
            row["test_accuracy"] = evaluate(self.model, self.dataset.test)[0]
            self.progress.update(step, loss=row["loss"], accuracy=row["accuracy"], test=row["test_accuracy"])
        self.result.history.append(row)

    def save(self) -> None:
        self.saved_at = time.monotonic()
        if self.checkpoint is None:
            return
        optimizer = {
            name: {k: v for k, v in self.optimizer.state[p].items() if isinstance(v, Tensor)}
            for name, p in self.parameters.items()
            if p in self.optimizer.state
        }
        info = {
            "step": self.result.steps,
            "config": self.config.to_dict(),
            "identity": self.identity,
            "samples": len(self.y),
            "history": self.result.history,
            "seconds": self.result.seconds,
            "running": [self.loss_sum, self.right, self.seen],
        }
        save_checkpoint(self.checkpoint, Checkpoint(self.model.state_dict(), optimizer, torch.get_rng_state(), info))
        self.saved_step = self.result.steps

    def restore(self, path: Path) -> None:
        """Takes over the state of a checkpoint; the model is untouched if it does not fit."""
        saved = load_checkpoint(path)
        info = saved.info
        try:
            then, now = {**info["config"], **info["identity"]}, {**self.config.to_dict(), **self.identity}
            for key, value in now.items():
                if then.get(key) != value:
                    was = f"{path}: was made with {as_typed(key)} {then.get(key)!r}"
                    raise BadInput(f"{was}, now it is {value!r}: use the same, or start anew without --resume")
            if info["samples"] != len(self.y):
                raise BadInput(f"{path}: was made with {info['samples']} training samples, now there are {len(self.y)}")
            step, seconds = int(info["step"]), float(info["seconds"])
            history = [{str(k): float(v) for k, v in row.items()} for row in info["history"]]
            self.loss_sum, self.right, self.seen = (float(v) for v in info["running"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadInput(f"{path}: the checkpoint's description is incomplete: delete it and start again") from None
        check_resumable(saved, self.parameters, path)
        load_into(self.model, saved.model, path)
        for name, state in saved.optimizer.items():
            self.optimizer.state[self.parameters[name]] = state
        torch.set_rng_state(saved.rng)
        self.result = TrainResult(history=history, seconds=seconds, steps=step)
        self.saved_step = step
        self.progress.note(f"goes on from step {step} of {self.steps} ({path})")


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels of layers only: not for norms, biases and embeddings."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, layers)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C or SIGTERM into a flag to be asked at a step's end; a second one acts as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may handle signals
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_interrupt(signum: int, frame: object) -> None:
        asked.set()
        restore()

    for number in previous:
        signal.signal(number, on_interrupt)
    try:
        yield asked.is_set
    finally:
        restore()
