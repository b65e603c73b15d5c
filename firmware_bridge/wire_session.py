"""A device's model as a session of `edge.runtime.model.Model`: running, profiling and learning over the link."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.firmware_bridge.device import Device
from edge.firmware_bridge.errors import Refused
from edge.firmware_bridge.messages import LEARN_ALL_LAYERS, LearnBudget
from edge.runtime.backends.session import OpProfile
from edge.runtime.errors import BadFile, BadInput
from edge.runtime.file_bytes import sha256
from edge.runtime.learn import LOSSES
from edge.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# runtime/core/learn/learn.h, "learned weights as bytes".
_HEADER = struct.Struct("<4sHHIIIfII32s")
_HEADER_BYTES = 96
_DIGEST_AT = 64


@dataclass(frozen=True)
class LearnedHeader:
    """What precedes learned weights: layers, classes, count of weights, samples, learning rate, loss."""

    layers: int
    classes: int
    count: int
    samples: int
    rate: float
    loss: str

    @classmethod
    def unpack(cls, blob: bytes) -> LearnedHeader:
        """Reads the header; the device checks the hashes in it.

        Raises:
            BadFile: it is none.
        """
        if len(blob) < _HEADER_BYTES:
            raise BadFile("no learned weights: too short")
        magic, version, layers, classes, count, samples, rate, loss, _, _ = _HEADER.unpack_from(blob)
        if magic != b"EDGW" or version != 1 or loss >= len(LOSSES) or len(blob) < _HEADER_BYTES + 4 * count:
            raise BadFile("no learned weights, or of another version")
        return cls(layers, classes, count, samples, rate, LOSSES[loss])

    @property
    def used(self) -> int:
        """Bytes of header and weights."""
        return _HEADER_BYTES + 4 * self.count


class WireSession:
    """The model that runs on a device; closing it closes the link."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.inputs, self.outputs = device.ports()
        self._current: WireLearner | None = None
        # What the device was learning when we came.
        self.found = LearnedHeader.unpack(device.read_weights()) if device.info.learning else None

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        data = self.run_bytes(arrays)
        made, at = [], 0
        for spec in self.outputs:
            size = np.dtype(spec.dtype).itemsize * math.prod(spec.shape)
            made.append(np.frombuffer(data[at : at + size], spec.dtype).reshape(spec.shape).copy())
            at += size
        return made

    def run_bytes(self, arrays: Sequence[NDArray[Any]]) -> bytes:
        """All outputs, one after the other; of as many classes as a learner has."""
        self.send(arrays)
        return self.device.run()[0]

    def send(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sends the inputs of the next run or lesson, little-endian as the device is."""
        self.device.write_inputs(b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays))

    def profile(self, arrays: Sequence[NDArray[Any]]) -> list[OpProfile]:
        """Ticks of each operator, which an emulated board counts in instructions; the wall time of the run, which the
        link is a part of, is shared out in proportion."""
        self.send(arrays)
        start = perf_counter()
        ops = self.device.profile()
        seconds = perf_counter() - start
        ticks = sum(op.ticks for op in ops) or 1
        return [OpProfile(op.op, seconds * op.ticks / ticks, op.macs, op.shape, instructions=op.ticks) for op in ops]

    def close(self) -> None:
        self.device.close()

    # --- edge.runtime.learn.Program ---

    def learning_budget(self, layers: int, classes: int, rate: float, loss: str) -> dict[str, int]:
        return _budget(self.device.learn_budget(layers or LEARN_ALL_LAYERS, classes, rate, LOSSES.index(loss)))

    def learner(self, layers: int, classes: int, rate: float, loss: str) -> WireLearner:
        """The last layers of the program, ready to learn; goes on with what the device was learning when we came."""
        found, self.found = self.found, None
        if found is not None and (found.layers, found.classes, found.loss) == (layers, classes, loss):
            need = self.device.learn_budget(layers, classes, rate, LOSSES.index(loss))
        else:
            if self._current is not None:
                self._current.remember()
            need = self.device.start_learning(layers or LEARN_ALL_LAYERS, classes, rate, LOSSES.index(loss))
        samples = found.samples if found is not None else 0
        self._current = WireLearner(self, rate, _budget(need), samples)
        return self._current

    def learned_plan(self, blob: bytes, program_hash: bytes) -> tuple[int, int, float, str, int]:
        header = LearnedHeader.unpack(blob)
        return header.layers, header.classes, header.rate, header.loss, header.used


def _budget(need: LearnBudget) -> dict[str, int]:
    parts = need.weight_bytes + need.activation_bytes + need.gradient_bytes
    return {
        "total_bytes": need.total_bytes,
        "state_bytes": need.total_bytes - parts,
        "weight_bytes": need.weight_bytes,
        "activation_bytes": need.activation_bytes,
        "gradient_bytes": need.gradient_bytes,
        "layers": need.layers,
        "classes": need.classes,
        "parameters": need.parameters,
        "body": need.body,
    }


class WireLearner:
    """The trainable layers on a device: an `edge.runtime.learn.CoreLearner`."""

    def __init__(self, session: WireSession, rate: float, budget: dict[str, int], samples: int) -> None:
        self._session, self._device = session, session.device
        self._rate = rate
        self._samples = samples
        self._blob: bytes | None = None
        self.budget = budget

    def remember(self) -> None:
        """Keeps the weights here: the device is about to learn something else. It may have started again since."""
        with suppress(Refused):
            self._blob = self._device.read_weights()

    def predict(self, inputs: list[NDArray[Any]]) -> NDArray[Any]:
        spec = self._session.outputs[0]
        data = self._session.run_bytes(inputs)
        return np.frombuffer(data, "<f4").reshape(*spec.shape[:-1], self.budget["classes"]).astype(np.float32)

    def learn_class(self, inputs: list[NDArray[Any]], index: int) -> tuple[int, float]:
        self._session.send(inputs)
        lesson = self._device.learn_class(index, self._rate)
        self._samples = lesson.samples
        return lesson.predicted, lesson.fit

    def learn_target(self, inputs: list[NDArray[Any]], target: NDArray[np.float32]) -> tuple[int, float]:
        self._session.send(inputs)
        lesson = self._device.learn_target(target.astype("<f4").tobytes(), self._rate)
        self._samples = lesson.samples
        return lesson.predicted, lesson.fit

    def weights(self) -> NDArray[np.float32]:
        return np.frombuffer(self.save(b"")[_HEADER_BYTES:], "<f4").astype(np.float32)

    def set_weights(self, weights: NDArray[np.float32]) -> None:
        head = self._device.read_weights()[:_DIGEST_AT]
        values = weights.astype("<f4").tobytes()
        self._device.write_weights(head + bytes.fromhex(sha256(head + values)) + values)

    def save(self, program_hash: bytes) -> bytes:
        """Header and weights; the device ties them to its program."""
        return self._device.read_weights() if self._blob is None else self._blob

    def load(self, blob: bytes, program_hash: bytes) -> None:
        header = LearnedHeader.unpack(blob)
        self._device.write_weights(blob[: header.used])
        self._samples = header.samples

    def reset(self) -> None:
        raise BadInput("a device goes back to its program's weights by forget()")

    def set_rate(self, rate: float) -> None:
        self._rate = rate

    @property
    def samples(self) -> int:
        return self._samples


def shapes_text(specs: Sequence[TensorSpec]) -> str:
    """ "float32 [1, 10]" of each, for tables."""
    return ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in specs)
