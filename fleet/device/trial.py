"""Trying a model before and after it becomes active: its own reference inputs, and the device's beside the old model.

Both run in a process of their own (`python -m edge.fleet.device.trial`): a model that crashes, hangs or takes all the
memory takes the trial down, and not the agent.
"""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.fleet.device.inputs import Sample, read_inputs
from edge.fleet.gates import Measures
from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.fields import reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.runtime.model import Model

TIMEOUT = 120.0
"""Seconds that a trial may take."""

MAX_REFERENCE_BYTES = 1 << 26
# Whole models differ by 1e-3 to 5e-3 on every engine: 1e-7 of noise flips the rounding of an int8 activation.
_TOLERANCE = 0.02
_WIDER = 4.0


class Unhealthy(EdgeError):
    """A model does not do what it must; the message says what it did."""


def check_health(path: Path, timeout: float = TIMEOUT) -> dict[str, float]:
    """Runs a bundle on its own reference inputs, in a process of its own.

    Returns:
        `health_samples`, `health_max_error` and `health_seconds` of one run.

    Raises:
        Unhealthy: it gave something else than its manifest promises, crashed, or took longer than `timeout` seconds.
    """
    answer = _run(["health", str(path)], path, timeout)
    return {name: float(value) for name, value in answer.items()}


def shadow(old: Path | None, new: Path, inputs: Path, samples: int, timeout: float = TIMEOUT) -> Measures:
    """Runs the new model beside the old one on the device's newest inputs, in a process of its own.

    Args:
        old: the active bundle; None for a first model.
        new: the one that is to replace it.
        inputs: folder of an `InputRing`; where it is empty, the new bundle's reference inputs stand in.
        samples: how many inputs at most.

    Raises:
        Unhealthy: as `check_health`.
    """
    words = ["shadow", str(new), str(inputs), str(samples), *([str(old)] if old is not None else [])]
    return Measures(**_run(words, new, timeout))


def _run(words: Sequence[str], path: Path, timeout: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "edge.fleet.device.trial", *words]
    try:
        result = subprocess.run(command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unhealthy(f"{path.name[:12]}…: its trial took longer than {timeout:g} s") from None
    except OSError as error:
        raise EdgeError(f"{path}: its trial cannot be started: {reason(error)}") from None
    if result.returncode < 0:
        raise Unhealthy(f"{path.name[:12]}…: its trial died of signal {-result.returncode}")
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        last = result.stderr.decode(errors="replace").strip().splitlines()
        raise Unhealthy(f"{path.name[:12]}…: its trial broke: {last[-1][:300] if last else 'without a word'}") from None
    if "unhealthy" in answer:
        raise Unhealthy(str(answer["unhealthy"])[:900])
    return dict(answer)


def health_of(path: Path) -> dict[str, float]:
    """`check_health`, in this process."""
    import numpy as np

    from edge.runtime.model import load

    with load(path) as model:
        reference = _reference(path, model)
        if reference is None:
            outputs = outputs_of(model, [np.zeros(spec.shape, spec.dtype) for spec in model.inputs])
            check_finite(outputs)
            return {"health_samples": 0.0, "health_max_error": 0.0, "health_seconds": 0.0}
        inputs, expected = reference
        worst = seconds = 0.0
        limit = _limit(model) * max(1.0, float(np.abs(expected).max(initial=0.0)))
        for index, (x, wanted) in enumerate(zip(inputs, expected, strict=True)):
            started = time.perf_counter()
            outputs = outputs_of(model, [x.reshape(model.inputs[0].shape)])
            seconds = max(seconds, time.perf_counter() - started)
            check_finite(outputs)
            found = outputs[0].astype(np.float64).reshape(-1)
            if found.shape != wanted.reshape(-1).shape:
                raise Unhealthy(f"reference input {index}: gives {found.size} values, {wanted.size} are expected")
            error = float(np.abs(found - wanted.reshape(-1)).max(initial=0.0))
            worst = max(worst, error)
            if error > limit:
                raise Unhealthy(f"reference input {index}: is off by {error:.3g}, at most {limit:.3g} is expected")
        return {"health_samples": float(len(inputs)), "health_max_error": worst, "health_seconds": seconds}


def shadow_of(old: Path | None, new: Path, inputs: Path, samples: int) -> Measures:
    """`shadow`, in this process. The models run in turn on each input, and share every disturbance that way."""
    from edge.runtime.model import load

    with load(new) as model:
        found = list(read_inputs(inputs, model.inputs[0], samples)) if len(model.inputs) == 1 else []
        source = "device"
        if not found:
            source = "reference"
            reference = _reference(new, model)
            found = (
                [] if reference is None else [Sample(x.reshape(model.inputs[0].shape)) for x in reference[0][:samples]]
            )
        if old is None:
            return _measure(None, model, found, source)
        with load(old) as before:
            same = [(spec.dtype, spec.shape) for spec in before.inputs] == [
                (spec.dtype, spec.shape) for spec in model.inputs
            ]
            return _measure(before if same else None, model, found, source)


def _measure(old: Model | None, new: Model, samples: Sequence[Sample], source: str) -> Measures:
    if not samples:
        return Measures(0, source)
    times: list[float] = []
    old_times: list[float] = []
    agreed = right = labelled = 0
    confidence = 0.0
    outputs_of(new, [samples[0].array])  # the first run of an engine sets it up
    for sample in samples:
        started = time.perf_counter()
        output = outputs_of(new, [sample.array])[0]
        times.append(time.perf_counter() - started)
        check_finite([output])
        scores = scores_of(output)
        answer = int(scores.argmax())
        confidence += float(scores[answer])
        if sample.label is not None:
            labelled += 1
            right += _is_label(new, answer, sample.label)
        if old is not None:
            started = time.perf_counter()
            before = outputs_of(old, [sample.array])[0]
            old_times.append(time.perf_counter() - started)
            agreed += label_of(old, int(before.reshape(-1).argmax())) == label_of(new, answer)
    classes = _classes(new)
    return Measures(
        samples=len(samples),
        source=source,
        accuracy=right / labelled if labelled else None,
        agreement=agreed / len(samples) if old is not None and classes else None,
        confidence=confidence / len(samples) if classes else None,
        latency_p95=p95(times),
        old_latency_p95=p95(old_times) if old_times else None,
    )


def _classes(model: Model) -> int:
    """How many classes the first output scores; 0 if it does not."""
    shape = model.outputs[0].shape
    classes = shape[-1] if shape else 0
    return classes if classes >= 2 and math.prod(shape) == classes else 0


def label_of(model: Model, index: int) -> str:
    return model.labels[index] if index < len(model.labels) else str(index)


def _is_label(model: Model, index: int, label: str) -> bool:
    return label in (label_of(model, index), str(index))


def scores_of(output: NDArray[Any]) -> NDArray[np.float64]:
    """Shares of the classes: as they are if they sum to 1, else their softmax."""
    import numpy as np

    values = output.astype(np.float64).reshape(-1)
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-3:
        return values
    weights = np.exp(values - values.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def p95(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)]


def outputs_of(model: Model, arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    outputs = model(*arrays)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check_finite(outputs: Sequence[NDArray[Any]]) -> None:
    import numpy as np

    for output in outputs:
        if not np.isfinite(output).all():
            raise Unhealthy("gives NaN or infinity")


def _limit(model: Model) -> float:
    """How far a value may be from the reference: what the export measured, with room for another engine's rounding."""
    metrics = model.manifest.metrics if model.manifest is not None else None
    listed = max((metric.max_abs_error for metric in metrics.engines.values()), default=0.0) if metrics else 0.0
    return max(_TOLERANCE, _WIDER * listed)


def _reference(path: Path, model: Model) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Reference inputs and expected first outputs, one sample a row; None if the bundle holds none that fit."""
    from edge.runtime.bundle import Bundle

    with Bundle.open(path) as bundle:
        name = bundle.manifest.reference
        if name is None or len(model.inputs) != 1:
            return None
        data = bundle.read(name)
    return read_reference(data, name, model)


def read_reference(data: bytes, name: str, model: Model) -> tuple[NDArray[Any], NDArray[Any]]:
    """Reference inputs and expected first outputs in an `.npz`, one sample a row.

    Raises:
        Unhealthy: it holds something else, or what does not fit the model.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_REFERENCE_BYTES:
                raise BadFile(f"{name}: unpacks to more than {MAX_REFERENCE_BYTES >> 20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs, outputs = arrays["inputs"], arrays["outputs"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise Unhealthy(f"{name}: not reference inputs and outputs: {reason(error)}") from None
    spec = model.inputs[0]
    if len(inputs) != len(outputs) or not len(inputs) or inputs[0].size != math.prod(spec.shape):
        raise Unhealthy(f"{name}: its inputs are {list(inputs.shape)}, the model takes {list(spec.shape)}")
    return np.ascontiguousarray(inputs, np.dtype(spec.dtype)), outputs


def _main(words: Sequence[str]) -> Iterator[str]:
    try:
        if words[0] == "health":
            yield json.dumps(health_of(Path(words[1])))
        else:
            old = Path(words[4]) if len(words) > 4 else None
            yield json.dumps(shadow_of(old, Path(words[1]), Path(words[2]), int(words[3])).to_dict())
    except EdgeError as error:
        yield json.dumps({"unhealthy": str(error)})


if __name__ == "__main__":
    sys.stdout.writelines(_main(sys.argv[1:]))
