"""Learning on the device: the last layers of a model are trained, one sample at a time, by the C core.

The rest of the model, its body, stays frozen: a 1.58-bit network learns new classes in the kilobytes of its last layer.
A small model of float layers can be trained as a whole. See `Model.learn`; docs/runtime.md tells the story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from edge.runtime.errors import BadFile, BadInput
from edge.runtime.fields import shown
from edge.runtime.learned_file import MAX_CLASSES, MAX_LABEL, LearnedFile, split_learned, write_learned

if TYPE_CHECKING:
    from numpy.typing import NDArray

Layers: TypeAlias = "int | Literal['all']"
LOSSES = ("cross-entropy", "squared")
_MOST_LAYERS = 24


@dataclass(frozen=True)
class LearningBudget:
    """Memory that learning takes beside the model, in bytes, known before it starts.

    Args:
        total_bytes: all of it.
        state_bytes: the learner and its table of layers.
        weight_bytes: trainable weights, float32.
        activation_bytes: what the way back needs of the way forward; gradients take its place.
        gradient_bytes: temporary memory of the way back.
        layers: with weights, that learn.
        classes: outputs.
        parameters: trainable weights and biases.
        body: instructions of the model that stay as they are.
    """

    total_bytes: int
    state_bytes: int
    weight_bytes: int
    activation_bytes: int
    gradient_bytes: int
    layers: int
    classes: int
    parameters: int
    body: int


@dataclass(frozen=True)
class LearnedSamples:
    """What `Model.learn` did.

    Args:
        samples: learned in this call.
        correct: of these, whose class was predicted right just before it was learned: "test, then train".
        total: learned since the model's own weights, earlier runs included.
    """

    samples: int
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of `correct`; NaN where nothing was learned."""
        return self.correct / self.samples if self.samples else float("nan")


class CoreLearner(Protocol):
    """What the C core gives: edge.runtime._core.Learner, with the core's errors as ours."""

    def predict(self, inputs: list[NDArray[Any]]) -> NDArray[Any]: ...

    def learn_class(self, inputs: list[NDArray[Any]], index: int) -> tuple[int, float]: ...

    def learn_target(self, inputs: list[NDArray[Any]], target: NDArray[np.float32]) -> tuple[int, float]: ...

    def weights(self) -> NDArray[np.float32]: ...

    def set_weights(self, weights: NDArray[np.float32]) -> None: ...

    def save(self, program_hash: bytes) -> bytes: ...

    def load(self, blob: bytes, program_hash: bytes) -> None: ...

    def reset(self) -> None: ...

    def set_rate(self, rate: float) -> None: ...

    def set_samples(self, samples: int) -> None: ...

    @property
    def samples(self) -> int: ...

    @property
    def budget(self) -> dict[str, int]: ...


class Program(Protocol):
    """A session that can learn: the core's."""

    def learning_budget(self, layers: int, classes: int, rate: float, loss: str) -> dict[str, int]: ...

    def learner(self, layers: int, classes: int, rate: float, loss: str) -> CoreLearner: ...

    def learned_plan(self, blob: bytes, program_hash: bytes) -> tuple[int, int, float, str, int]: ...


class Learner:
    """The last layers of a model, as they learn; made by `Model.learner`, for one thread at a time.

    Attributes:
        labels: names of all classes, new ones behind the model's.
        layers: with weights, that learn.
        learning_rate: of the next steps.
        loss: "cross-entropy" or "squared".
        budget: the memory that it takes.
    """

    def __init__(
        self,
        program: Program,
        labels: Sequence[str],
        *,
        layers: Layers = 1,
        learning_rate: float = 0.01,
        loss: str = "cross-entropy",
    ) -> None:
        self._program = program
        self.loss = checked_loss(loss)
        self.learning_rate = checked_rate(learning_rate)
        self._core = program.learner(checked_layers(layers), len(labels), self.learning_rate, self.loss)
        self.budget = LearningBudget(**self._core.budget)
        self.layers = self.budget.layers
        self.labels = tuple(labels)

    @property
    def samples(self) -> int:
        """Learned since the model's own weights."""
        return self._core.samples

    @property
    def weights(self) -> NDArray[np.float32]:
        """All trainable weights, a copy: layer after layer from the input on, [outputs, inputs], then [outputs]."""
        return self._core.weights()

    @weights.setter
    def weights(self, weights: NDArray[np.float32]) -> None:
        values = np.ascontiguousarray(weights, np.float32)
        if values.shape != (self.budget.parameters,) or not np.isfinite(values).all():
            raise BadInput(f"weights: expected {self.budget.parameters:,} finite numbers, found {list(values.shape)}")
        self._core.set_weights(values)

    def predict(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The model's output, from the learned layers; arrays as the model's inputs are."""
        return self._core.predict(list(arrays))

    def learn(self, arrays: Sequence[NDArray[Any]], target: int | NDArray[np.float32]) -> tuple[int, float]:
        """One step of stochastic gradient descent.

        Args:
            arrays: as the model's inputs are.
            target: index of the class, or float32 [classes].

        Returns:
            The class that was predicted before the step, and how well the target fitted: the probability of the class
            (cross-entropy), or half the squared error.

        Raises:
            BadInput: no such class, or the outputs are not finite any more: the learning rate is too high.
        """
        if isinstance(target, int):
            return self._core.learn_class(list(arrays), target)
        return self._core.learn_target(list(arrays), target)

    def set_learning_rate(self, learning_rate: float) -> None:
        self.learning_rate = checked_rate(learning_rate)
        self._core.set_rate(self.learning_rate)

    def add_labels(self, labels: Sequence[str]) -> None:
        """Adds classes; what was learned stays. A new one starts as the mean of the model's own.

        Raises:
            BadInput: a label that is there already, empty or too long, or more classes than can be.
        """
        every = checked_labels((*self.labels, *labels))
        core = self._program.learner(self.layers, len(every), self.learning_rate, self.loss)
        old, new = self._core.weights(), core.weights()
        # Of the last layer, which comes last: [classes, depth] and [classes].
        classes, more = len(self.labels), len(every)
        depth = (len(new) - len(old)) // (more - classes) - 1
        before = len(old) - classes * (depth + 1)
        new[: before + classes * depth] = old[: before + classes * depth]
        start = before + more * depth
        new[start : start + classes] = old[before + classes * depth :]
        core.set_weights(new)
        core.set_samples(self._core.samples)
        self._core, self.labels = core, every
        self.budget = LearningBudget(**core.budget)

    def save(self, program_hash: bytes) -> bytes:
        """The weights as bytes, tied to the program: what a file or another device takes."""
        return self._core.save(program_hash)

    def load(self, blob: bytes, program_hash: bytes) -> None:
        """Takes weights over that `save` gave, all or none.

        Raises:
            BadFile: damaged, or of another model or shape.
        """
        self._core.load(blob, program_hash)

    def reset(self) -> None:
        """Back to the model's own weights; added classes stay."""
        self._core.reset()


def learner_from_file(
    program: Program, name: str, data: bytes, program_hash: bytes, own_labels: Sequence[str]
) -> tuple[Learner, LearnedFile]:
    """A learner with the weights of a file, and what else that holds.

    Args:
        name: of the file, for messages.
        own_labels: the model's own classes.

    Raises:
        BadFile: damaged, of another model, or with other classes than the model's first.
    """
    try:
        layers, classes, rate, loss, used = program.learned_plan(data, program_hash)
        learned = split_learned(name, data, used, classes)
        labels = learned.labels or (*own_labels, *(str(index) for index in range(len(own_labels), classes)))
        if len(labels) != classes or labels[: len(own_labels)] != tuple(own_labels):
            raise BadFile(f"its first classes are not the model's {len(own_labels)}")
        learner = Learner(program, checked_labels(labels), layers=layers, learning_rate=rate, loss=loss)
        learner.load(learned.weights, program_hash)
    except (BadFile, BadInput) as error:
        text = str(error)
        raise BadFile(text if text.startswith(name) else f"{name}: {text}") from None
    return learner, learned


def write_learner(path: str, learner: Learner, program_hash: bytes, stream: str = "", done: int = 0) -> None:
    """Writes what was learned: see `learned_file`."""
    write_learned(path, LearnedFile(learner.save(program_hash), learner.labels, stream, done))


def checked_layers(layers: object) -> int:
    """How many layers learn, as the core counts them: 0 for all."""
    if layers == "all":
        return 0
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= _MOST_LAYERS:
        raise BadInput(f"layers: expected 1 to {_MOST_LAYERS}, or 'all'; found {shown(layers)}")
    return layers


def checked_rate(rate: object) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 1e-12 <= rate <= 1e6:
        raise BadInput(f"learning_rate: expected a number above 0, found {shown(rate)}")
    return float(rate)


def checked_loss(loss: object) -> str:
    if not isinstance(loss, str) or loss not in LOSSES:
        raise BadInput(f"loss: expected {' or '.join(LOSSES)}; found {shown(loss)}")
    return loss


def checked_labels(labels: Sequence[object]) -> tuple[str, ...]:
    """Class names, each once."""
    names = []
    for label in labels:
        if not isinstance(label, str) or not label.strip() or len(label) > MAX_LABEL or not label.isprintable():
            raise BadInput(f"label {shown(label)}: expected 1 to {MAX_LABEL} printable characters")
        names.append(label)
    if len(names) > MAX_CLASSES or len(set(names)) != len(names):
        raise BadInput(f"labels: expected at most {MAX_CLASSES:,}, each once")
    return tuple(names)


def target_of(y: object, labels: Sequence[str], loss: str) -> int | str | NDArray[np.float32]:
    """One sample's target: the index of a class, the name of one that is not there yet, or float32 [classes].

    Raises:
        BadInput: no class, no vector of as many values as classes, or values that are no probabilities.
    """
    if isinstance(y, str):
        return labels.index(y) if y in labels else y
    if isinstance(y, (int, np.integer)) and not isinstance(y, (bool, np.bool_)):
        if not 0 <= int(y) < len(labels):
            raise BadInput(
                f"class {int(y)}: the model has {len(labels)} (0 to {len(labels) - 1}); name a new one by text"
            )
        return int(y)
    vector = np.asarray(y)
    if vector.dtype.kind != "f" or vector.shape != (len(labels),) or not np.isfinite(vector).all():
        raise BadInput(f"target: expected a class (index or label) or {len(labels)} finite floats, found {shown(y)}")
    vector = np.ascontiguousarray(vector, np.float32)
    if loss == "cross-entropy" and (vector.min() < 0 or abs(float(vector.sum(dtype=np.float64)) - 1) > 1e-3):
        raise BadInput("target: a vector for cross-entropy holds probabilities: none below 0, and 1 in sum")
    return vector


def is_batch(y: object) -> bool:
    """Whether `y` is the targets of several samples, not that of one."""
    if isinstance(y, (list, tuple)):
        return not (y and all(isinstance(value, (float, np.floating)) for value in y))
    return isinstance(y, np.ndarray) and (y.ndim > 1 or (y.ndim == 1 and y.dtype.kind != "f"))
