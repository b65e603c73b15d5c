"""Checks on the exported files themselves: each runs on its own engine, on the test set, against the torch reference.

Two checks, both fatal to an export: the engine's top-1 answers agree with the reference on at least 99.5 % of the
samples, and the operators give what the integer reference gives: every `edge::` instruction in the core bit by bit,
every quantized layer of the other files within `OPERATOR_TOLERANCE`. Logits are only reported (not bounded):
an input that moves by 1e-7 can flip an int8 rounding, on every engine and in torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.export import reference
from edge.runtime import _core, load
from edge.runtime.errors import EdgeError
from edge.runtime.manifest import EngineMetric

MIN_AGREEMENT = 0.995
"""Share of test samples on which an engine must give the reference's top-1 answer."""

OPERATOR_TOLERANCE = 1e-5
"""Largest error of a quantized layer on a foreign engine, relative to the layer's largest output."""


class VerificationFailed(EdgeError):
    """An exported file does not compute what the trained model computes."""


def measure_engine(
    path: Path,
    engine: str,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    progress: Callable[[int], None] = lambda done: None,
) -> EngineMetric:
    """Runs `path` on `engine` over the samples, one at a time, and compares with the reference logits.

    Args:
        path: the exported file.
        engine: "core", "executorch", "litert" or "onnx".
        inputs: float32 [n, …], normalized.
        labels: int64 [n].
        logits: float32 [n, classes], of the frozen module in torch.
        progress: told how many samples are done.

    Raises:
        VerificationFailed: the top-1 agreement is below `MIN_AGREEMENT`.
    """
    answers = np.empty_like(logits)
    with load(path, backend=engine, threads=1) as model:
        for i, x in enumerate(inputs):
            answers[i] = np.asarray(model(x[None])).reshape(-1)
            progress(i + 1)
    top1 = answers.argmax(-1)
    metric = EngineMetric(
        file=path.name,
        value=float((top1 == labels).mean()),
        agreement=float((top1 == logits.argmax(-1)).mean()),
        max_abs_error=float(np.abs(answers - logits).max()),
        samples=len(inputs),
    )
    if not metric.agreement >= MIN_AGREEMENT:
        raise VerificationFailed(
            f"{path.name} on {engine} agrees with the torch model on {100 * metric.agreement:.2f} % of "
            f"{len(inputs)} test samples, below {100 * MIN_AGREEMENT:.1f} % "
            f"(largest logit error {metric.max_abs_error:.3g}): not exported"
        )
    return metric


def check_core_operators(path: Path, samples: Sequence[NDArray[np.float32]]) -> int:
    """Compares every `edge::` instruction of a `.pte`, as the core ran it, with the numpy oracle, bit by bit.

    Returns:
        How many instructions were compared.

    Raises:
        VerificationFailed: one differs; names the instruction and the largest difference.
    """
    program = _core.Program(path.read_bytes())
    compared = 0
    for sample in samples:
        for index, (op, inputs, outputs) in enumerate(program.trace([sample])):
            if not op.startswith("edge::"):
                continue
            expected = getattr(reference, op.removeprefix("edge::").removesuffix(".out"))(*inputs)
            if not np.array_equal(expected, outputs[0], equal_nan=True):
                error = float(np.abs(expected - outputs[0]).max())
                raise VerificationFailed(
                    f"{path.name}: instruction {index} ({op}) differs from the integer reference by up to {error:.3g}"
                )
            compared += 1
    return compared


def check_engine_layers(path: Path, layers: list[tuple[str, float, float]]) -> int:
    """Judges what a lowering's `check_layers` measured: (layer, largest error, largest output) each.

    Raises:
        VerificationFailed: a layer is further from the integer reference than `OPERATOR_TOLERANCE`.
    """
    for layer, error, scale in layers:
        if not error <= OPERATOR_TOLERANCE * max(scale, 1.0):
            raise VerificationFailed(
                f"{path.name}: layer {layer} differs from the integer reference by {error:.3g} "
                f"(outputs up to {scale:.3g})"
            )
    return len(layers)
