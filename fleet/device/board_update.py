"""Updates of a board behind this device: what is signed for it is fetched here, sent over its link, and tried there.

A board has no room for two models beside each other in memory, so the order is another than on Linux: the old model
answers the reference inputs, the new image is sent to the free slot, the board verifies it (its own key, hash, memory,
sequence) and tries it at a start, then the new model answers the same inputs. If it fails its reference or its gate,
the board is sent back to the slot before. The board itself does the same where the power fails in between.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge.fleet.device.download import Source, SourceMetadata, download
from edge.fleet.device.install import CANCELLED, UpdateJob, Withdrawn, figures, judge
from edge.fleet.device.models import Outcome
from edge.fleet.device.trial import Unhealthy, check_finite, label_of, outputs_of, p95, read_reference, scores_of
from edge.fleet.device.trusted_metadata import TrustedModels, UntrustedUpdate
from edge.fleet.gates import Measures, parse_gate
from edge.fleet.slot_header import MANIFEST_BYTES, SlotHeader
from edge.fleet.variant import Variant
from edge.runtime.errors import BadFile, BadInput, EdgeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.runtime.model import Model

_TOLERANCE = 0.05


class BoardDevice(Protocol):
    """What is needed of `edge.firmware_bridge.device.Device`."""

    @property
    def info(self) -> Any: ...

    def flash(self, image: bytes, progress: Callable[[int, int], object]) -> Any: ...

    def roll_back(self) -> None: ...

    def reset(self) -> Any: ...

    def close(self) -> None: ...


class BoardUpdates:
    """Installs slot images on one board.

    Args:
        folder: of the board on this device: downloads.
        trust: folder with the trusted metadata; the gateway's.
        source: where chunks come from.
        open_device: opens the link (`edge.firmware_bridge.device.Device.open`), with the owner's key.
        model_of: the model that runs on an open device (`edge.firmware_bridge.remote_model.model_of`).
        now: the clock, in seconds since 1970.
        withdrawn: asked before each step and chunk: whether the operator has taken a job back meanwhile.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        open_device: Callable[[], BoardDevice],
        model_of: Callable[[Any], Model],
        *,
        trust: Path,
        now: Callable[[], float] = time.time,
        withdrawn: Callable[[str], bool] = lambda job: False,
    ) -> None:
        self.folder = folder
        self.last: tuple[str, str] | None = None  # digest of the image that became active, and hash of its file
        self._trust = trust
        self._source = source
        self._open = open_device
        self._model_of = model_of
        self._now = now
        self._withdrawn = withdrawn
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends a wait for the time of activation; the job goes on at the next start."""
        self._stopped.set()

    def update(
        self, job: UpdateJob, report: Callable[[str, str, dict[str, float]], None] = lambda state, detail, metrics: None
    ) -> Outcome | None:
        """Does a job, waiting for its time of activation; None if `stop` ended that wait.

        Raises:
            EdgeError: the link or the connection is gone: hand the job in again later.
        """
        try:
            variant = self._find(job)
            report("downloading", "", {"bytes": float(variant.blob.length)})
            image, reference = self._fetched(variant, job)
        except Withdrawn:
            return Outcome(job.id, "failed", CANCELLED)
        except (UntrustedUpdate, BadFile) as error:
            return Outcome(job.id, "failed", str(error)[:1000])
        report("verified", "", {})
        if job.activate_at is not None and job.activate_at > self._now():
            report("staged", "", {})
            while (left := job.activate_at - self._now()) > 0 and not self._withdrawn(job.id):
                if self._stopped.wait(min(left, 1.0)):
                    return None
        device = self._open()
        try:
            return self._flash(device, job, variant, image, reference)
        finally:
            device.close()

    def _find(self, job: UpdateJob) -> Variant:
        models = TrustedModels(self._trust, SourceMetadata(self._source), now=self._now).refresh()
        variant = models.get(job.target)
        if variant is None:
            raise UntrustedUpdate(f"{job.target}: is not among the models that are signed for")
        if variant.kind != "image":
            raise UntrustedUpdate(f"{variant.path}: is no slot image (edge firmware image): a board takes nothing else")
        return variant

    def _go_on(self, job: UpdateJob) -> None:
        if self._withdrawn(job.id):
            raise Withdrawn(CANCELLED)

    def _fetched(self, variant: Variant, job: UpdateJob) -> tuple[bytes, bytes | None]:
        """The image and its reference inputs and outputs; both as they are signed for."""
        parts = self.folder / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        found: list[bytes | None] = []
        for blob in (variant.blob, variant.reference):
            if blob is None:
                found.append(None)
                continue
            target = parts / f"{blob.sha256}.whole"
            download(self._source, blob, parts / blob.sha256, target, lambda done: self._go_on(job))
            found.append(target.read_bytes())
        kept = {f"{blob.sha256}.whole" for blob in (variant.blob, variant.reference) if blob is not None}
        for path in parts.iterdir():
            if path.name not in kept:
                path.unlink()
        image, reference = found
        assert image is not None
        return image, reference

    def _flash(
        self, device: BoardDevice, job: UpdateJob, variant: Variant, image: bytes, reference: bytes | None
    ) -> Outcome:
        try:
            sequence = SlotHeader.read(image, variant.path).sequence
        except BadFile as error:
            return Outcome(job.id, "failed", str(error))
        digest = hashlib.sha256(image[MANIFEST_BYTES:]).digest()[:8]

        def runs_it() -> bool:
            return bool(device.info.running_sequence == sequence and device.info.model_digest == digest)

        # An image that the board runs already, since an attempt whose end was not heard, cannot be withdrawn any more.
        if self._withdrawn(job.id) and not runs_it():
            return Outcome(job.id, "failed", CANCELLED)
        previous = device.info.running_sequence
        # What a job calls a rollback may not be one: the job is not signed, the gate is.
        back = job.rollback and sequence <= previous
        before = None if reference is None or back else self._answers(device, reference)
        try:
            if back and not runs_it():
                # A board takes no lower sequence than it has confirmed: what it can do is return to its other slot.
                device.roll_back()
                device.reset()
                if not runs_it():
                    return Outcome(job.id, "failed", f"the board's other slot does not hold {variant.path}")
            else:
                # Asked with each chunk, and once more between the last one and the activation.
                device.flash(image, lambda done, total: self._go_on(job))
        except Withdrawn:
            return Outcome(job.id, "failed", CANCELLED)
        except EdgeError as error:
            if getattr(error, "status", None) is None:  # the link, not the board, says no
                raise
            # The board did not want it, or tried it at a start and went back by itself.
            return Outcome(job.id, "failed", str(error)[:1000])
        metrics: dict[str, float] = {}
        try:
            if reference is not None:
                model = self._model_of(device)
                inputs, expected = read_reference(reference, "reference", model)
                measures = self._measure(model, inputs, expected, before)
                metrics = figures(measures)
                if not back:
                    judge([parse_gate(text) for text in (variant.gate, job.gate) if text], measures)
        except (EdgeError, BadInput) as error:
            if device.info.running_sequence == previous:  # it was there already: nothing to go back to
                return Outcome(job.id, "failed", str(error)[:1000], metrics)
            device.roll_back()
            device.reset()
            return Outcome(job.id, "rolled-back", str(error)[:1000], metrics)
        self.last = digest.hex(), variant.blob.sha256
        return Outcome(job.id, "active", "", metrics)

    def _answers(self, device: BoardDevice, reference: bytes) -> list[str] | None:
        """What the running model answers to the reference inputs of the new one; None if it cannot."""
        try:
            model = self._model_of(device)
            inputs, _ = read_reference(reference, "reference", model)
            shape = model.inputs[0].shape
            return [label_of(model, int(outputs_of(model, [x.reshape(shape)])[0].reshape(-1).argmax())) for x in inputs]
        except (Unhealthy, BadInput, BadFile):
            return None
        except EdgeError as error:
            if getattr(error, "status", None) is None:
                raise
            return None  # no model runs

    def _measure(
        self, model: Model, inputs: NDArray[Any], expected: NDArray[Any], before: list[str] | None
    ) -> Measures:
        """Runs the reference inputs on the board.

        Raises:
            Unhealthy: an answer is not what the reference says.
        """
        import numpy as np

        limit = _TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
        times, agreed, confidence = [], 0, 0.0
        for index, (x, wanted) in enumerate(zip(inputs, expected, strict=True)):
            started = time.perf_counter()
            output = outputs_of(model, [x.reshape(model.inputs[0].shape)])[0]
            times.append(time.perf_counter() - started)
            check_finite([output])
            error = float(np.abs(output.reshape(-1) - wanted.reshape(-1)).max(initial=0.0))
            if error > limit:
                raise Unhealthy(f"reference input {index}: is off by {error:.3g}, at most {limit:.3g} is expected")
            scores = scores_of(output)
            answer = int(scores.argmax())
            confidence += float(scores[answer])
            agreed += before is not None and before[index] == label_of(model, answer)
        return Measures(
            samples=len(inputs),
            source="reference",
            agreement=None if before is None else agreed / len(inputs),
            confidence=confidence / len(inputs),
            latency_p95=p95(times),
        )
