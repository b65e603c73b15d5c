"""What a `Model` needs to learn: its learner, the samples that go into it, and the file that keeps what was learned."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.runtime.errors import BadInput, Unsupported
from edge.runtime.learn import (
    Layers,
    LearnedSamples,
    Learner,
    LearningBudget,
    Program,
    checked_labels,
    checked_layers,
    checked_loss,
    checked_rate,
    is_batch,
    learner_from_file,
    target_of,
    write_learner,
)
from edge.runtime.learned_file import LearnedFile, read_learned

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAVE_SECONDS = 10.0
"""What is learned is written at most so often: flash cards wear out."""


class Learning:
    """The learning side of one model.

    Attributes:
        learner: None as long as the model runs as it was exported.
        path: of the file that keeps what was learned; None: it is not kept.
        file: what the file held when it was read.
    """

    def __init__(
        self,
        session: object,
        where: str,
        own_labels: Sequence[str],
        program_hash: Callable[[], bytes],
        path: str | None,
    ) -> None:
        self._session = session
        self._where = where
        self._own_labels = tuple(own_labels)
        self._hash = program_hash
        self.path = path
        self.learner: Learner | None = None
        self.file: LearnedFile | None = None
        self._stream, self._done = "", 0
        self._unsaved = False
        self._saved_at = float("-inf")

    @property
    def program(self) -> Program:
        """The session.

        Raises:
            Unsupported: another engine than the core runs the model.
        """
        if not hasattr(self._session, "learner"):
            raise Unsupported(f"{self._where}: only the core learns: load the model with backend='core'")
        return self._session  # type: ignore[return-value]

    def read(self, path: str) -> None:
        """Takes the learned weights of a file over.

        Raises:
            BadFile: missing, damaged, or of another model.
        """
        program = self.program
        data = read_learned(path)
        self.learner, self.file = learner_from_file(program, path, data, self._hash(), self._own_labels)
        self._stream, self._done = self.file.stream, self.file.done
        self._unsaved = False

    def budget(self, layers: Layers, new_labels: Sequence[str], loss: str) -> LearningBudget:
        every = checked_labels((*self._own_labels, *new_labels))
        found = self._named(
            lambda: self.program.learning_budget(checked_layers(layers), len(every), 0.01, checked_loss(loss))
        )
        return LearningBudget(**found)

    def make(self, layers: Layers, new_labels: Sequence[str], learning_rate: float, loss: str) -> Learner:
        """A learner that starts from the model's own weights; the one before it is given up."""
        every = checked_labels((*self._own_labels, *new_labels))
        self.learner = self._named(
            lambda: Learner(self.program, every, layers=layers, learning_rate=learning_rate, loss=loss)
        )
        self._stream, self._done = "", 0
        return self.learner

    def learn(
        self,
        x: Any,
        y: Any,
        ready: Callable[[Any], list[NDArray[Any]]],
        learning_rate: float | None = None,
        *,
        new_labels: bool = False,
        progress: Callable[[int, int], None] | None = None,
        position: tuple[str, int] | None = None,
    ) -> LearnedSamples:
        """See `Model.learn`; `ready` makes the model's inputs of one sample."""
        learner = self.learner or self.make(
            1, (), 0.01 if learning_rate is None else checked_rate(learning_rate), "cross-entropy"
        )
        if learning_rate is not None:
            learner.set_learning_rate(learning_rate)
        samples = list(y) if is_batch(y) else [y]
        if is_batch(y) and len(x) != len(samples):
            raise BadInput(f"{self._where}: {len(x)} samples, {len(samples)} targets")
        # Nothing is learned of a batch in which a target is wrong.
        found = [target_of(target, learner.labels, learner.loss) for target in samples]
        unknown = list(dict.fromkeys(target for target in found if isinstance(target, str)))
        if unknown:
            if not new_labels:
                known = ", ".join(learner.labels[:6]) + (", …" if len(learner.labels) > 6 else "")
                raise BadInput(
                    f"{self._where}: no class {unknown[0]!r}; it has {known}: new_labels=True adds it as a new one"
                )
            learner.add_labels(unknown)
        targets = [learner.labels.index(target) if isinstance(target, str) else target for target in found]
        inputs = x if is_batch(y) else [x]
        correct = 0
        for done, (sample, target) in enumerate(zip(inputs, targets, strict=True)):
            wanted = int(np.argmax(target)) if isinstance(target, np.ndarray) else target
            predicted, _ = self._named(lambda: learner.learn(ready(sample), target))  # noqa: B023
            self._unsaved = True
            correct += predicted == wanted
            if progress is not None:
                progress(done + 1, len(samples))
            if time.monotonic() - self._saved_at > SAVE_SECONDS and done + 1 < len(samples):
                self.save_if_kept()
        self._stream, self._done = position or ("", 0)
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save_if_kept()
        return LearnedSamples(len(samples), correct, learner.samples)

    def position(self, stream: str) -> int:
        """How many samples of a stream were learned before."""
        return self._done if stream and stream == self._stream else 0

    def save(self, path: str) -> None:
        if self.learner is None:
            raise BadInput(f"{self._where}: nothing was learned yet")
        write_learner(path, self.learner, self._hash(), self._stream, self._done)
        self._saved_at = time.monotonic()
        if path == self.path:
            self._unsaved = False

    def save_if_kept(self) -> None:
        """Writes what was learned since it was written last, if it is to be kept."""
        if self._unsaved and self.path is not None and self.learner is not None:
            self.save(self.path)

    def forget(self) -> None:
        """Back to the model as it was exported; the file that kept what was learned goes too."""
        self.learner, self.file, self._unsaved = None, None, False
        self._stream, self._done = "", 0
        if self.path is not None and os.path.exists(self.path):
            os.unlink(self.path)

    def _named(self, call: Callable[[], Any]) -> Any:
        """The result of `call`; what is refused says which model it was."""
        try:
            return call()
        except (BadInput, Unsupported) as error:
            text = str(error)
            raise type(error)(text if text.startswith(self._where) else f"{self._where}: {text}") from None
