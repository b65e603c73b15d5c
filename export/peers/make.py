"""Makes the files of peers in child processes, or takes them from the cache, and opens them on their engines."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge.export.child import Child, ChildFailed
from edge.export.peers.forms import Architecture, Form
from edge.export.peers.worker import PeerJob
from edge.export.progress import Progress, Silent
from edge.runtime import Model, load
from edge.runtime.cache import cache_dir
from edge.runtime.errors import EdgeError

_AT_ONCE = 2
"""Children that run side by side; each holds an exporter of up to a gigabyte."""


@dataclass(frozen=True)
class Peers:
    """What could be made.

    Attributes:
        files: by form, in the order asked for.
        failed: by a form's title, why it could not be made; one line.
    """

    files: dict[Form, Path]
    failed: dict[str, str] = field(default_factory=dict)


def make_peers(architecture: Architecture, forms: Sequence[Form], progress: Progress | None = None) -> Peers:
    """The files of `forms`, each made once for an architecture and the versions of its toolchain.

    A form that fails is tried again the next time.
    """
    progress = progress or Silent()
    architecture.spec.build()  # a wrong name or a missing file is told here, once
    folders = {
        name: cache_dir() / "peers" / architecture.key(name) for name in dict.fromkeys(form.toolchain for form in forms)
    }
    missing: dict[str, list[Form]] = {}
    for form in forms:
        if not (folders[form.toolchain] / form.file).is_file():
            missing.setdefault(form.toolchain, []).append(form)
    failed = _make(architecture, missing, folders, progress) if missing else {}
    files = {form: folders[form.toolchain] / form.file for form in forms if form.title not in failed}
    return Peers(files, failed)


def _make(
    architecture: Architecture, missing: dict[str, list[Form]], folders: dict[str, Path], progress: Progress
) -> dict[str, str]:
    """Makes what is missing, toolchain by toolchain; returns what failed, by title."""
    total = sum(map(len, missing.values()))
    progress.stage("make the peers' models (once; they are kept)", total)
    failed: dict[str, str] = {}
    waiting, running, ended = list(missing), dict[str, Child](), 0
    with tempfile.TemporaryDirectory(prefix="edge-peers-") as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < _AT_ONCE:
                    name = waiting.pop(0)
                    running[name] = _start(architecture, missing[name], folders[name], Path(scratch, name))
                time.sleep(0.1)
                for name in [name for name, child in running.items() if child.poll()]:
                    child = running.pop(name)
                    ended += len(missing[name])
                    try:
                        failed |= child.result()["failed"]
                    except ChildFailed as error:
                        failed |= dict.fromkeys((form.title for form in missing[name]), str(error))
                    finally:
                        child.stop()
                progress.update(ended + sum(child.latest.get("done", 0) for child in running.values()))
        finally:
            for child in running.values():
                child.stop()
    return failed


def _start(architecture: Architecture, forms: list[Form], folder: Path, scratch: Path) -> Child:
    scratch.mkdir()
    folder.mkdir(parents=True, exist_ok=True)
    PeerJob(architecture.to_dict(), [vars(form) for form in forms], str(folder)).write(scratch)
    return Child("edge.export.peers.worker", scratch)


@dataclass(frozen=True)
class OpenedPeer:
    """A peer that is ready to run.

    Attributes:
        model: to be called.
        error_to_torch: how far its answer lies from the float module's, |difference| / |answer| (Euclidean norms); None
            for our own export, whose weights are ternary on purpose, and where it takes or gives integers.
    """

    model: Model
    error_to_torch: float | None


def open_peers(stack: ExitStack, peers: Peers, threads: int) -> tuple[dict[Form, OpenedPeer], dict[str, str]]:
    """Opens every file on its engine, to be closed with `stack`.

    Returns:
        What runs, by form, and by a form's title why it does not. A file that answers with NaN is none that anybody
        would deploy: it is not timed.
    """
    opened: dict[Form, OpenedPeer] = {}
    failed = dict(peers.failed)
    for form, path in peers.files.items():
        try:
            model = stack.enter_context(load(path, backend=form.engine, threads=threads))
            error = None if form.toolchain == "ternary" else _error_to_torch(path, model)
        except EdgeError as failure:
            failed[form.title] = str(failure)
            continue
        if error is not None and not math.isfinite(error):
            failed[form.title] = "answers with NaN or infinity"
            continue
        opened[form] = OpenedPeer(model, error)
    return opened, failed


def _error_to_torch(file: Path, model: Model) -> float | None:
    if model.inputs[0].dtype != "float32" or model.outputs[0].dtype != "float32":
        return None
    with np.load(file.with_name("reference.npz"), allow_pickle=False) as archive:
        given, expected = archive["input"], archive["output"]
    answer = model(given)
    assert isinstance(answer, np.ndarray)
    return float(np.linalg.norm(answer - expected) / np.linalg.norm(expected))
