"""The C core: executes ExecuTorch .pte programs without ExecuTorch or PyTorch (runtime/binding.cpp)."""

from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

Array: TypeAlias = NDArray[Any]
OpArgument: TypeAlias = (
    Array | int | float | bool | str | list[int] | list[float] | list[bool] | list[Array | None] | None
)
TensorType: TypeAlias = tuple[str, tuple[int, ...]]

class CoreError(Exception):
    """What the core refused. `args` is (status, text).

    The status is "bad-file" (truncated, malformed), "unsupported" (an operator, delegate, dtype or shape that the core
    does not run) or "bad-argument" (the caller's fault). The text is one line for people.
    """

    args: tuple[str, str]

class Program:
    """A loaded .pte program.

    `data` is kept alive, and its constants are read in place: pass `bytes` or an `mmap`, and do not change it. Memory
    for one run at a time is allocated here, once; concurrent runs wait for each other. Runs release the GIL.

    Args:
        data: The program's bytes (ExecuTorch schema ET12).
        threads: Upper bound of threads in a run, at most 64; the results do not depend on it.
        mapped: `data` is a mapping of a file that is only read: pages that loading alone needs are given back.

    Raises:
        CoreError: The file is damaged, or needs something that the core does not have, or more memory than half the
            machine's or 4 GiB; the text names it.
    """

    def __init__(self, data: Buffer, threads: int = 1, mapped: bool = False) -> None: ...
    @property
    def inputs(self) -> list[TensorType]:
        """(dtype, shape) of every input, in order."""

    @property
    def outputs(self) -> list[TensorType]:
        """(dtype, shape) of every output, in order."""

    @property
    def state_bytes(self) -> int:
        """Bytes of the value and instruction tables."""

    @property
    def arena_bytes(self) -> int:
        """Bytes of activations, inputs and outputs included."""

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the largest operator's temporary memory."""

    @property
    def packed_bytes(self) -> int:
        """Bytes of weights repacked for this CPU (0 with the scalar kernels)."""

    @property
    def isa(self) -> str:
        """Name of the kernels it runs on, one of `isas()`."""

    @property
    def threads(self) -> int:
        """Number of threads it runs on, the caller's among them; fewer than asked where the system gives no more."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""

    @property
    def instructions(self) -> list[tuple[str, int, list[Any]]]:
        """(operator, macs, arguments) of every instruction, outputs last.

        An argument is ("tensor", dtype, shape, constant), int, float, bool, None, str, or a list of such.
        """

    def run(self, inputs: list[Array]) -> list[Array]:
        """Run once.

        Args:
            inputs: One array an input, of exactly its dtype and shape, in any memory order.

        Returns:
            The outputs, as new arrays.

        Raises:
            CoreError: A wrong number, dtype or shape of inputs ("input 0: expected …, got …"), or a value that an
                operator cannot take (an embedding index out of range).
        """

    def trace(self, inputs: list[Array]) -> list[tuple[str, list[Any], list[Array]]]:
        """Run once and return (operator, inputs, outputs) of every instruction; tensors as copies.

        Args and errors as in `run`.
        """

    def profile(self, inputs: list[Array]) -> list[tuple[str, int, int]]:
        """Run once and return (operator, nanoseconds, macs) of every instruction.

        Args and errors as in `run`.
        """

class Learner:
    """The last layers of a program, as they learn (runtime/core/learn/learn.h). Takes turns with the program's runs.

    Args:
        program: Kept alive.
        layers: With weights, counted from the output; 0: all of them.
        classes: Outputs; 0: the program's.
        rate: Of learning.
        loss: "cross-entropy" or "squared".

    Raises:
        CoreError: An operator that cannot be learned through (named), or arguments out of range.
    """

    def __init__(self, program: Program, layers: int, classes: int, rate: float, loss: str) -> None: ...
    def predict(self, inputs: list[Array]) -> Array:
        """The output, as a new array; inputs as for `Program.run`."""

    def learn_class(self, inputs: list[Array], index: int) -> tuple[int, float]:
        """Take one step; (class predicted before, probability of class `index` before)."""

    def learn_target(self, inputs: list[Array], target: Array) -> tuple[int, float]:
        """Take one step towards float32 [classes]; (class predicted before, fit before)."""

    def weights(self) -> NDArray[np.float32]:
        """All trainable weights, as a new array."""

    def set_weights(self, weights: Array) -> None: ...
    def save(self, program_hash: bytes) -> bytes:
        """Header and weights; `program_hash` is the program's SHA-256, 32 bytes."""

    def load(self, blob: bytes, program_hash: bytes) -> None:
        """Take over what `save` gave, all or none."""

    def reset(self) -> None:
        """Back to the program's own weights."""

    def set_rate(self, rate: float) -> None: ...
    def set_samples(self, samples: int) -> None:
        """For weights that come from elsewhere."""

    @property
    def samples(self) -> int:
        """Learned since the program's own weights."""

    @property
    def budget(self) -> dict[str, int]:
        """Bytes that it takes, and counts; as `learning_budget`."""

def learning_budget(program: Program, layers: int, classes: int, rate: float, loss: str) -> dict[str, int]:
    """Fields of `edge.runtime.learn.LearningBudget`; arguments and errors as of `Learner`."""

def learned_plan(blob: bytes, program_hash: bytes) -> tuple[int, int, float, str, int]:
    """(layers, classes, rate, loss, bytes used) of saved weights.

    Raises:
        CoreError: Damaged, or of another program.
    """

def covered_arguments(name: str) -> tuple[int, ...]:
    """Tensor arguments of an operator on which its output may lie, byte for byte: it reads them before it writes.

    Args:
        name: As in `operators()`.

    Raises:
        CoreError: There is no such operator.
    """

def operators() -> list[str]:
    """Names of the operators that the core runs, such as "aten::add.out"."""

def isas() -> list[str]:
    """Names of the kernels that this machine runs, such as "avx2", the best first and "scalar" last.

    The environment variable EDGE_ISA chooses one for the programs and operators that are opened after it is set.
    """

def sha256(data: Buffer) -> str:
    """SHA-256 of a buffer's bytes, in hexadecimal."""

def run_op(name: str, args: list[Any], threads: int = 1) -> None:
    """Check and run one operator.

    Args:
        name: As in `operators()`.
        args: `OpArgument`s in the schema's order; the trailing arrays are the outputs, written in place. Arrays are
            C-contiguous and aligned to their dtype.
        threads: As for `Program`.

    Raises:
        CoreError: There is no such operator, or it refuses its arguments.
    """

class Peak(TypedDict):
    """What `measure_peak` found: the best of many short spells, on one thread."""

    int8: dict[str, float]
    """Multiply-accumulates a second by instruction sequence, as "vpmaddubsw+vpaddw"."""
    float32: dict[str, float]
    """Likewise, of a multiplication and an addition that round apart, as in the operators."""
    read: float
    """Bytes a second, read one after the other."""

def measure_peak(milliseconds: float = 50.0, read_bytes: int = 64 << 20) -> Peak:
    """Measure what one core of this machine does at best.

    Args:
        milliseconds: For each figure, 0 to 10,000.
        read_bytes: Of memory that is read over and over, 4096 to 2^30: the caches that hold it tell their own rate.

    Raises:
        CoreError: Out of these ranges.
    """
