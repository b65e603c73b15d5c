"""The C core: runs `.pte` programs with numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edge.runtime.errors import BadFile, BadInput, EdgeError, MissingDependency, Unsupported
from edge.runtime.file_bytes import is_mapped
from edge.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.runtime._core import CoreError, Learner, Program
    from edge.runtime.backends.session import Buffer, OpProfile

T = TypeVar("T")

_ERRORS: dict[str, type[EdgeError]] = {"bad-file": BadFile, "unsupported": Unsupported, "bad-argument": BadInput}


class CoreSession:
    """A program that the core has validated and planned; weights are read in place from `data`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.inputs = [TensorSpec(f"input_{i}", *spec) for i, spec in enumerate(program.inputs)]
        self.outputs = [TensorSpec(f"output_{i}", *spec) for i, spec in enumerate(program.outputs)]
        self.arena_bytes = program.arena_bytes

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return _translated(lambda: self._program.run(list(arrays)))

    def learning_budget(self, layers: int, classes: int, rate: float, loss: str) -> dict[str, int]:
        """Bytes that a learner takes (`edge.runtime.learn.LearningBudget`); `layers` 0 stands for all, as below."""
        from edge.runtime._core import learning_budget

        return _translated(lambda: learning_budget(self._program, layers, classes, rate, loss))

    def learner(self, layers: int, classes: int, rate: float, loss: str) -> TranslatedLearner:
        """The last layers of the program, ready to learn."""
        from edge.runtime._core import Learner

        return TranslatedLearner(_translated(lambda: Learner(self._program, layers, classes, rate, loss)))

    def learned_plan(self, blob: bytes, program_hash: bytes) -> tuple[int, int, float, str, int]:
        """(layers, classes, rate, loss, bytes used) of saved weights."""
        from edge.runtime._core import learned_plan

        return _translated(lambda: learned_plan(blob, program_hash))

    def profile(self, arrays: Sequence[NDArray[Any]]) -> list[OpProfile]:
        from edge.runtime.backends.session import OpProfile

        self.run(arrays)
        calls = _translated(lambda: self._program.profile(list(arrays)))
        arguments = [list(_tensors(arguments)) for _, _, arguments in self._program.instructions]
        return [
            OpProfile(
                op,
                nanoseconds * 1e-9,
                macs,
                tensors[-1][1] if tensors else None,
                sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape, _ in tensors),
                any(constant and dtype in ("int8", "uint8") for dtype, _, constant in tensors),
            )
            for (op, nanoseconds, macs), tensors in zip(calls, arguments, strict=True)
        ]

    def close(self) -> None:
        del self._program


class TranslatedLearner:
    """`edge.runtime._core.Learner`, with the core's errors as ours."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def predict(self, inputs: list[NDArray[Any]]) -> NDArray[Any]:
        return _translated(lambda: self._learner.predict(inputs))

    def learn_class(self, inputs: list[NDArray[Any]], index: int) -> tuple[int, float]:
        return _translated(lambda: self._learner.learn_class(inputs, index))

    def learn_target(self, inputs: list[NDArray[Any]], target: NDArray[np.float32]) -> tuple[int, float]:
        return _translated(lambda: self._learner.learn_target(inputs, target))

    def weights(self) -> NDArray[np.float32]:
        return self._learner.weights()

    def set_weights(self, weights: NDArray[np.float32]) -> None:
        _translated(lambda: self._learner.set_weights(weights))

    def save(self, program_hash: bytes) -> bytes:
        return _translated(lambda: self._learner.save(program_hash))

    def load(self, blob: bytes, program_hash: bytes) -> None:
        _translated(lambda: self._learner.load(blob, program_hash))

    def reset(self) -> None:
        self._learner.reset()

    def set_rate(self, rate: float) -> None:
        _translated(lambda: self._learner.set_rate(rate))

    def set_samples(self, samples: int) -> None:
        self._learner.set_samples(samples)

    @property
    def samples(self) -> int:
        return self._learner.samples

    @property
    def budget(self) -> dict[str, int]:
        return self._learner.budget


def _tensors(arguments: Iterable[Any]) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(dtype, shape, constant) of the tensors among an instruction's arguments, those in lists included."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield argument[1:]
        elif isinstance(argument, list):
            yield from _tensors(argument)


def available() -> str | None:
    try:
        import edge.runtime._core  # noqa: F401
    except ImportError as error:
        return f"the C core is not built ({error}): pip install --force-reinstall edge-deploy"
    return None


def open(data: Buffer, threads: int) -> CoreSession:
    missing = available()
    if missing:
        raise MissingDependency(missing)
    from edge.runtime._core import Program

    return CoreSession(_translated(lambda: Program(data, threads, is_mapped(data))))


def _translated(call: Callable[[], T]) -> T:
    """The result of `call`, with the core's errors as ours."""
    try:
        return call()
    except Exception as error:
        raise _ours(error) from None


def _ours(error: Exception) -> Exception:
    """An error of the core as one of ours, any other as it is."""
    from edge.runtime._core import CoreError

    return _ERRORS[error.args[0]](told(error)) if isinstance(error, CoreError) else error


def told(error: CoreError) -> str:
    """The text of an error, for those who call us from Python and those who type a command."""
    text = str(error.args[1])
    return text.replace("backend='executorch'", "the executorch backend (--backend executorch)")
