"""Bringing a model to a device: trust, download, verify, try, activate, and go back where it does not work."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.fleet.device import trial
from edge.fleet.device.download import Source, SourceMetadata, download
from edge.fleet.device.mirror import Mirror, check_mirror
from edge.fleet.device.models import MAX_ATTEMPTS, Candidate, Installed, ModelStore, Outcome
from edge.fleet.device.trusted_metadata import TrustedModels, UntrustedUpdate
from edge.fleet.gates import Gate, Measures, parse_gate
from edge.fleet.variant import Variant
from edge.runtime.bundle import Bundle
from edge.runtime.errors import BadFile, BadInput, EdgeError
from edge.runtime.fields import Fields

_log = logging.getLogger("edge.fleet.updates")

DEFAULT_SAMPLES = 64
MAX_SAMPLES = 1024

_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Report = Callable[[str, str, Mapping[str, float]], None]
"""Told of each step: a state of `edge.fleet.messages.JOB_STATES`, a detail, figures."""


CANCELLED = "cancelled by the operator"


class Withdrawn(EdgeError):
    """The operator has taken the job back."""


class GateFailed(EdgeError):
    """The new model does not reach what was asked on this device's own inputs."""


@dataclass(frozen=True)
class UpdateJob:
    """What the server asks for; only the target path is taken from here, all else about it is in signed metadata.

    Attributes:
        id: of the job.
        target: path of the variant in the TUF repository.
        gate: what must hold, beside the gate that was published with the model.
        samples: inputs that shadow inference runs.
        activate_at: seconds since 1970; None: as soon as it is ready.
        rollback: an older version may replace a newer one, and no gate is asked: the operator takes the new one back.
        mirror: HTTPS URL where files may be had too; "": none.
    """

    id: str
    target: str
    gate: str = ""
    samples: int = DEFAULT_SAMPLES
    activate_at: float | None = None
    rollback: bool = False
    mirror: str = ""

    @classmethod
    def read(cls, id: str, arguments: object) -> UpdateJob:
        """Reads a job's arguments.

        Raises:
            BadFile: a field is wrong; the message names it.
        """
        if not _JOB.fullmatch(id):
            raise BadFile(f"job {id[:60]!r}: not a job's id")
        where = f"job {id}"
        defaults = {"gate": "", "samples": DEFAULT_SAMPLES, "activate_at": None, "rollback": False, "mirror": ""}
        record = Fields({**defaults, **arguments} if isinstance(arguments, dict) else arguments, where)
        made = cls(
            id=id,
            target=record.text("target", 300),
            gate=record.text("gate", 300),
            samples=record.integer("samples", 1, MAX_SAMPLES),
            activate_at=record.optional_number("activate_at", 0, 1e12),
            rollback=record.boolean("rollback"),
            mirror=record.text("mirror", 500),
        )
        try:
            parse_gate(made.gate)
            if made.mirror:
                check_mirror(made.mirror)
        except BadInput as error:
            raise BadFile(f"{where}: {error}") from None
        return made

    def to_dict(self) -> dict[str, Any]:
        """The arguments that `read` reads."""
        return {
            "target": self.target,
            "gate": self.gate,
            "samples": self.samples,
            "activate_at": self.activate_at,
            "rollback": self.rollback,
            "mirror": self.mirror,
        }


class Installer:
    """Installs models on this device. For one thread of one process; every step survives the death of the process.

    `install` takes a job as far as it goes now, `due` activates what waited for its time, and `recover`, called once at
    each start, ends what a crash or a power cut interrupted. All say how jobs ended; the caller reports that until the
    server has acknowledged it, and may hand a job in again at any time: one that has ended is not done twice.

    Args:
        folder: of this device: `models/`, `trust/` (with the root that enrollment gave) and `inputs/MODEL/`.
        source: where chunks come from.
        now: the clock, in seconds since 1970.
        check: the health check, `edge.fleet.device.trial.check_health`.
        compare: shadow inference, `edge.fleet.device.trial.shadow`.
        withdrawn: asked before each step and chunk: whether the operator has taken the job back meanwhile.
        stored: told of each bundle that was downloaded and found whole. It may put another file of the same contents in
            its place in one step.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        now: Callable[[], float] = time.time,
        check: Callable[[Path], dict[str, float]] = trial.check_health,
        compare: Callable[[Path | None, Path, Path, int], Measures] = trial.shadow,
        withdrawn: Callable[[str], bool] = lambda job: False,
        stored: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.folder = folder
        self.store = ModelStore(folder / "models")
        self._source = source
        self._now = now
        self._check = check
        self._compare = compare
        self._withdrawn = withdrawn
        self._stored = stored

    def recover(self) -> list[Outcome]:
        """Sets the store right after a start; trials that were interrupted are ended, well or not."""
        self.store.repair()
        outcomes = []
        for model in self.store.names():
            candidate = self.store.state(model).candidate
            if candidate is not None and candidate.trial:
                outcomes.append(self._end_trial(model))
        return outcomes

    def install(self, job: UpdateJob, report: Report = lambda state, detail, metrics: None) -> Outcome | None:
        """Takes `job` through download, verification, trial and gates, and activates it if it is time.

        Returns:
            How it ended; None if it is ready and waits for its time.

        Raises:
            EdgeError: nothing is wrong with the model, but the device cannot go on now (no connection, a full disk):
                hand the job in again later.
        """
        ended = self._ended(job.id)
        if ended is not None:
            return ended
        report("accepted", "", {})
        try:
            variant = self._find(job)
        except UntrustedUpdate as error:
            return Outcome(job.id, "failed", str(error)[:1000])
        model = variant.model
        state = self.store.state(model)
        if state.candidate is not None and state.candidate.trial:
            self._end_trial(model)
            state = self.store.state(model)
        if state.active is not None and state.active.sha256 == variant.blob.sha256:
            outcome = Outcome(job.id, "active", "was active already")
            self.store.save(model, replace(state, candidate=None, last=outcome))
            return outcome
        if self._withdrawn(job.id):
            return self.cancel(job.id) or Outcome(job.id, "failed", CANCELLED)
        wanted = Installed.of(variant)
        if state.candidate is None or state.candidate.installed != wanted or state.candidate.job != job.id:
            try:
                refusal = self._refusal(job, variant, state.active)
                if refusal is not None:
                    raise UntrustedUpdate(refusal)
                report("downloading", "", {"bytes": float(variant.blob.length)})
                self._bring(variant, job)
            except Withdrawn:
                return self._failed(model, job.id, CANCELLED)
            except (UntrustedUpdate, BadFile) as error:
                return self._failed(model, job.id, str(error))
            report("verified", "", {})
            self.store.save(model, replace(state, candidate=Candidate(wanted, job.id, activate_at=job.activate_at)))
        refused = self._try(model, job, variant, report)
        if refused is not None:
            return refused
        if job.activate_at is not None and job.activate_at > self._now():
            return None
        return self._activate(model)

    def due(self) -> list[Outcome]:
        """Activates what is ready and whose time has come."""
        outcomes = []
        for model in self.store.names():
            candidate = self.store.state(model).candidate
            if candidate is None or candidate.trial or not candidate.checked:
                continue
            if candidate.activate_at is None or candidate.activate_at <= self._now():
                outcomes.append(self._activate(model))
        return outcomes

    def cancel(self, job: str) -> Outcome | None:
        """Drops a candidate that is not active yet; None if `job` has none."""
        for model in self.store.names():
            candidate = self.store.state(model).candidate
            if candidate is not None and candidate.job == job and not candidate.trial:
                return self.store.give_up(model, CANCELLED)
        return None

    def next_time(self) -> float | None:
        """When `due` has something to do next, in seconds since 1970."""
        times = []
        for model in self.store.names():
            candidate = self.store.state(model).candidate
            if (
                candidate is not None
                and candidate.checked
                and not candidate.trial
                and candidate.activate_at is not None
            ):
                times.append(candidate.activate_at)
        return min(times, default=None)

    def _ended(self, job: str) -> Outcome | None:
        for model in self.store.names():
            last = self.store.state(model).last
            if last is not None and last.job == job:
                return last
        return None

    def _find(self, job: UpdateJob) -> Variant:
        models = TrustedModels(self.folder / "trust", SourceMetadata(self._source), now=self._now).refresh()
        variant = models.get(job.target)
        if variant is None:
            raise UntrustedUpdate(f"{job.target}: is not among the models that are signed for")
        return variant

    def _refusal(self, job: UpdateJob, variant: Variant, active: Installed | None) -> str | None:
        if variant.kind != "bundle":
            return f"{variant.path}: is for a board's firmware, not for this device"
        if active is not None and variant.sequence < active.sequence and not job.rollback:
            return f"{variant.path}: is older than version {active.version}, which is active"
        return None

    def _bring(self, variant: Variant, job: UpdateJob) -> None:
        """Downloads the bundle and checks everything in it."""
        target, part = self.store.file(variant.blob.sha256), self.store.parts / variant.blob.sha256

        def go_on(done: int) -> None:
            if self._withdrawn(job.id):
                raise Withdrawn(CANCELLED)

        if job.mirror:
            source = Mirror(job.mirror, self._source, self.folder / "root.pem")
            try:
                download(source, variant.blob, part, target, go_on)
            except UntrustedUpdate as error:  # the mirror's file is not the right one: the server's own may be
                _log.warning("mirror %s: %s", job.mirror, error)
            finally:
                source.close()
        download(self._source, variant.blob, part, target, go_on)
        try:
            with Bundle.open(target) as bundle:
                bundle.verify()
                manifest = bundle.manifest
            if (manifest.name, manifest.version) != (variant.model, variant.version):
                raise BadFile(f"{variant.path}: holds {manifest.name} {manifest.version}")
        except BadFile:
            target.unlink(missing_ok=True)
            raise
        self._stored(target)

    def _try(self, model: str, job: UpdateJob, variant: Variant, report: Report) -> Outcome | None:
        """Health check and gates of the candidate; an outcome if it did not pass."""
        state = self.store.state(model)
        candidate = state.candidate
        assert candidate is not None
        if candidate.checked:
            return None
        if candidate.attempts >= MAX_ATTEMPTS:
            return self.store.give_up(model, f"the device went down {MAX_ATTEMPTS} times while it tried this model")
        # Counted before it is tried: who comes back from a crash in between knows of it.
        candidate = replace(candidate, attempts=candidate.attempts + 1)
        self.store.save(model, replace(state, candidate=candidate))
        _log.info("%s: its trial begins", variant.path)
        path = self.store.file(candidate.installed.sha256)
        metrics: dict[str, float] = {}
        try:
            metrics.update(self._check(path))
            # What a job calls a rollback may not be one: the job is not signed, the gate is.
            back = job.rollback and state.active is not None and variant.sequence <= state.active.sequence
            gates = [] if back else [parse_gate(text) for text in (variant.gate, job.gate) if text]
            if gates or (state.active is not None and not back):
                old = self.store.file(state.active.sha256) if state.active is not None else None
                measures = self._compare(old, path, self.folder / "inputs" / model, job.samples)
                metrics.update(figures(measures))
                judge(gates, measures)
        except (trial.Unhealthy, GateFailed, BadFile, BadInput) as error:
            return self.store.give_up(model, str(error), metrics)
        self.store.save(model, replace(state, candidate=replace(candidate, checked=True, attempts=0, metrics=metrics)))
        report("staged", "", metrics)
        return None

    def _activate(self, model: str) -> Outcome:
        candidate = self.store.state(model).candidate
        if candidate is not None and self._withdrawn(candidate.job):
            return self.store.give_up(model, CANCELLED)
        self.store.activate(model)
        _log.info("%s: activated, to be confirmed", model)
        return self._end_trial(model)

    def _end_trial(self, model: str) -> Outcome:
        """Checks the active model where applications open it, and confirms it or goes back."""
        state = self.store.state(model)
        candidate = state.candidate
        assert candidate is not None and candidate.trial
        if candidate.attempts >= MAX_ATTEMPTS:
            return self.store.give_up(model, f"the device went down {MAX_ATTEMPTS} times with this model")
        self.store.save(model, replace(state, candidate=replace(candidate, attempts=candidate.attempts + 1)))
        self.store.follow(model)
        try:
            metrics = self._check(self.store.link(model))
        except EdgeError as error:
            return self.store.give_up(model, str(error))
        return self.store.confirm(model, {**candidate.metrics, **metrics})

    def _failed(self, model: str, job: str, detail: str) -> Outcome:
        outcome = Outcome(job, "failed", detail[:1000])
        self.store.save(model, replace(self.store.state(model), candidate=None, last=outcome))
        self.store.collect()
        return outcome


def judge(gates: list[Gate], measures: Measures) -> None:
    failures = [failure for gate in gates for failure in gate.failures(measures)]
    if failures:
        inputs = f"{measures.samples} of its own inputs" if measures.source == "device" else "the reference inputs"
        raise GateFailed(f"gate, on {inputs}: {'; '.join(dict.fromkeys(failures))}")


def figures(measures: Measures) -> dict[str, float]:
    return {name: float(value) for name, value in measures.to_dict().items() if isinstance(value, int | float)}
