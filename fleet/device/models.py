"""The models on a device: which is active, which was before it, and which is on trial.

    models/active/kws.edge        a link to the active bundle: what applications open
    models/files/<sha256>.edge    bundles, verified before they get this name
    models/parts/<sha256>         what has come of a download
    models/state/kws.json         the truth about one model, replaced as a whole

A change of `state/kws.json` is the one step that counts; the link follows it, and is set right again at each start. A
power cut leaves an application the old model or the new one, both verified, and never none.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.fleet.device.download import holds, sync_folder
from edge.fleet.variant import Blob, Variant
from edge.runtime.bundle import Bundle
from edge.runtime.errors import BadFile, EdgeError
from edge.runtime.fields import Fields, reason
from edge.runtime.whole_file import whole_file

_log = logging.getLogger("edge.fleet.updates")

_SHA256 = re.compile(r"[0-9a-f]{64}")

MAX_ATTEMPTS = 3
"""Times that a device may go down while it tries a model before it gives the model up."""

# Downloads that nobody went on with for so long are dropped at a start.
_FORGET_SECONDS = 14 * 86400.0


@dataclass(frozen=True)
class Installed:
    """A bundle that lies on the device: name, version and sequence of the model, its target path, and its contents."""

    model: str
    version: str
    sequence: int
    path: str
    sha256: str
    length: int

    @classmethod
    def of(cls, variant: Variant) -> Installed:
        return cls(
            variant.model, variant.version, variant.sequence, variant.path, variant.blob.sha256, variant.blob.length
        )

    @property
    def blob(self) -> Blob:
        return Blob(self.sha256, self.length)

    @classmethod
    def read(cls, value: object, where: str) -> Installed:
        record = Fields(value, where)
        return cls(
            model=record.text("model", 100),
            version=record.text("version", 100),
            sequence=record.integer("sequence", 0, 1 << 53),
            path=record.text("path", 300),
            sha256=record.text("sha256", 64, _SHA256),
            length=record.integer("length", 0, 1 << 40),
        )


@dataclass(frozen=True)
class Candidate:
    """A bundle that is to become active.

    Attributes:
        installed: which.
        job: that asked for it.
        trial: False while it is staged beside the active one; True once it is active and not yet confirmed.
        checked: whether it passed its health check and its gates.
        attempts: times that it was tried; counted before each, so that one that takes the device down is given up.
        activate_at: when, in seconds since 1970; None: at once.
    """

    installed: Installed
    job: str
    trial: bool = False
    checked: bool = False
    attempts: int = 0
    activate_at: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, value: object, where: str) -> Candidate:
        record = Fields(value, where)
        return cls(
            installed=Installed.read(record.raw("installed"), f"{where}.installed"),
            job=record.text("job", 200),
            trial=record.boolean("trial"),
            checked=record.boolean("checked"),
            attempts=record.integer("attempts", 0, 1000),
            activate_at=record.optional_number("activate_at", 0, 1e12),
            metrics=record.table("metrics", 64, _figure),
        )


@dataclass(frozen=True)
class Outcome:
    """How a job ended: "active", "failed" or "rolled-back", why, and what was measured."""

    job: str
    state: str
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, value: object, where: str) -> Outcome:
        record = Fields(value, where)
        return cls(
            job=record.text("job", 200),
            state=record.choice("state", ("active", "failed", "rolled-back")),
            detail=record.text("detail", 1000),
            metrics=record.table("metrics", 64, _figure),
        )


@dataclass(frozen=True)
class ModelState:
    """Everything about one model; `last` is how its last job ended."""

    active: Installed | None = None
    previous: Installed | None = None
    candidate: Candidate | None = None
    last: Outcome | None = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, allow_nan=False).encode() + b"\n"

    @classmethod
    def read(cls, data: bytes, where: str) -> ModelState:
        try:
            value = json.loads(data)
        except ValueError as error:
            raise BadFile(f"{where}: not JSON: {error}") from None
        record = Fields(value, where)

        def maybe(name: str, read: Any) -> Any:
            inner = record.raw(name, None)
            return None if inner is None else read(inner, f"{where}.{name}")

        return cls(
            active=maybe("active", Installed.read),
            previous=maybe("previous", Installed.read),
            candidate=maybe("candidate", Candidate.read),
            last=maybe("last", Outcome.read),
        )


class ModelStore:
    """The folder of a device's models. For one process at a time; applications only open what is in `active/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.active, self.files = folder / "active", folder / "files"
        self.parts, self._states = folder / "parts", folder / "state"
        try:
            for part in (folder, self.active, self.files, self.parts, self._states):
                part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeError(f"{folder}: cannot be made: {reason(error)}") from None

    def file(self, sha256: str) -> Path:
        return self.files / f"{sha256}.edge"

    def link(self, model: str) -> Path:
        """What applications open; there once a first model is active."""
        return self.active / f"{model}.edge"

    def names(self) -> list[str]:
        """Models that the device knows of."""
        return sorted(path.stem for path in self._states.glob("*.json"))

    def state(self, model: str) -> ModelState:
        """What is known of `model`. Where the file is damaged, what the link says is active."""
        path = self._states / f"{model}.json"
        try:
            return ModelState.read(path.read_bytes(), str(path))
        except FileNotFoundError:
            return ModelState()
        except (BadFile, OSError):
            return ModelState(active=self._linked(model))

    def save(self, model: str, state: ModelState) -> None:
        """Replaces what is known of `model`, for good once this returns."""
        with whole_file(self._states / f"{model}.json") as file:
            file.write(state.to_json())
        sync_folder(self._states)

    def follow(self, model: str) -> None:
        """Points the link at what the state says is active; a reader finds the old file or the new one."""
        active = self.state(model).active
        link = self.link(model)
        if active is None:
            link.unlink(missing_ok=True)
            return
        wanted = f"../files/{active.sha256}.edge"
        try:
            if os.readlink(link) == wanted:
                return
        except OSError:
            pass
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        os.symlink(wanted, new)
        os.replace(new, link)
        sync_folder(self.active)

    def activate(self, model: str) -> None:
        """Makes the candidate active, on trial; what was active becomes the previous one."""
        state = self.state(model)
        assert state.candidate is not None
        self.save(
            model,
            replace(
                state,
                active=state.candidate.installed,
                previous=state.active,
                candidate=replace(state.candidate, trial=True, attempts=0),
            ),
        )
        self.follow(model)

    def confirm(self, model: str, metrics: dict[str, float]) -> Outcome:
        """Ends the trial well."""
        state = self.state(model)
        assert state.candidate is not None
        outcome = Outcome(state.candidate.job, "active", "", metrics)
        self.save(model, replace(state, candidate=None, last=outcome))
        self.collect()
        return outcome

    def give_up(self, model: str, detail: str, metrics: dict[str, float] | None = None) -> Outcome:
        """Drops the candidate; if it was on trial, the previous model is active again."""
        state = self.state(model)
        candidate = state.candidate
        assert candidate is not None
        tried = candidate.trial
        outcome = Outcome(
            candidate.job, "rolled-back" if tried else "failed", detail[:1000], metrics or candidate.metrics
        )
        if tried:
            state = replace(state, active=state.previous, previous=None)
        self.save(model, replace(state, candidate=None, last=outcome))
        self.follow(model)
        self.collect()
        return outcome

    def repair(self) -> None:
        """Sets right what a power cut or a failing disk left: damaged active models give way to the previous ones."""
        for model in self.names():
            state = self.state(model)
            if state.active is not None and not holds(self.file(state.active.sha256), state.active.blob):
                back = state.previous
                whole = back is not None and holds(self.file(back.sha256), back.blob)
                goes_on = f"{back.version} is active again" if back is not None and whole else "there is no other"
                _log.warning("%s %s: its bundle is damaged or gone: %s", model, state.active.version, goes_on)
                candidate = None if state.candidate is not None and state.candidate.trial else state.candidate
                self.save(model, replace(state, active=back if whole else None, previous=None, candidate=candidate))
            self.follow(model)
        for leftover in (*self.active.glob(".*.new"), *self._states.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
        for part in self.parts.iterdir():
            if time.time() - part.stat().st_mtime > _FORGET_SECONDS:
                part.unlink(missing_ok=True)
        self.collect()

    def collect(self) -> None:
        """Removes bundles that no model needs any more."""
        needed = {installed.sha256 for installed in self._installed()}
        for path in self.files.iterdir():
            if path.stem not in needed:
                path.unlink(missing_ok=True)

    def inventory(self) -> list[dict[str, Any]]:
        """The models for the device's `hello`: name, version, sha256, active."""
        rows = []
        for model in self.names():
            state = self.state(model)
            for installed in (state.active, state.previous):
                if installed is not None:
                    rows.append(
                        {
                            "name": model,
                            "version": installed.version,
                            "sha256": installed.sha256,
                            "active": installed is state.active,
                        }
                    )
        return rows

    def _installed(self) -> Iterator[Installed]:
        for model in self.names():
            state = self.state(model)
            yield from (each for each in (state.active, state.previous) if each is not None)
            if state.candidate is not None:
                yield state.candidate.installed

    def _linked(self, model: str) -> Installed | None:
        link = self.link(model)
        try:
            target = Path(os.readlink(link))
            with Bundle.open(link) as bundle:
                manifest = bundle.manifest
            return Installed(manifest.name, manifest.version, 0, "", target.stem, link.stat().st_size)
        except (OSError, BadFile):
            return None


def _figure(value: object, where: str) -> float:
    from edge.runtime.fields import number

    return number(value, where, -1e308, 1e308)
