"""A device's updates: what arrives, what is refused, what is given up, and what is left when the device is killed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tuf")

from edge.fleet.device import trial
from edge.fleet.device.download import CHUNK
from edge.fleet.device.inputs import InputRing
from edge.fleet.device.install import Installer, UpdateJob
from edge.fleet.device.models import MAX_ATTEMPTS
from edge.fleet.device.trusted_metadata import TrustedModels
from edge.fleet.gates import Measures
from edge.fleet.server.updates.publish import publish
from edge.fleet.server.updates.repository import ModelRepository
from edge.fleet.server.updates.source import Source
from edge.fleet.server.updates.store import BlobStore
from edge.fleet.variant import Blob, Variant
from edge.runtime import load
from edge.runtime.bundle import Bundle
from edge.runtime.errors import BadFile, EdgeError
from tests.fleet.remade import remade, with_entry


@dataclass
class Server:
    """The real repository and store, with a way to spoil what they give."""

    source: Source
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    spoil: Callable[[str, int, bytes | None], bytes | None] = lambda name, offset, data: data

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        self.asked.append((name, offset, length))
        return self.spoil(name, offset, self.source.fetch(name, offset, length))

    def publish(self, bundle: Path, **options: Any) -> Variant:
        return publish(self.source.repository, self.source.store, bundle, **options)[0]


@pytest.fixture(scope="module")
def bundles(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "old": remade(digits_bundle, folder / "old.edge", name="kws", version="1.0"),
        "new": remade(digits_bundle, folder / "new.edge", name="kws", version="2.0", license="MIT"),
        "broken": remade(digits_bundle, folder / "broken.edge", name="kws", version="2.1", spoil=True),
        "worse": remade(digits_bundle, folder / "worse.edge", name="kws", version="2.2", spoil=True, lie=True),
    }


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(Source(ModelRepository.create(tmp_path / "tuf"), BlobStore(tmp_path / "store")))


def _installer(folder: Path, server: Server, **options: Any) -> Installer:
    TrustedModels.provision(folder / "trust", server.source.repository.trusted_root())
    options.setdefault("check", trial.health_of)
    options.setdefault("compare", trial.shadow_of)
    return Installer(folder, server, **options)


@pytest.fixture
def device(tmp_path: Path, server: Server) -> Installer:
    return _installer(tmp_path / "device", server)


def _version(device: Installer, model: str = "kws") -> str:
    """The version that an application finds; what it opens is whole and runs."""
    link = device.store.link(model)
    with Bundle.open(link) as bundle:
        bundle.verify()
        version = bundle.manifest.version
    with load(link, backend="core") as opened:
        opened(*(np.zeros(spec.shape, spec.dtype) for spec in opened.inputs))
    return version


def test_a_model_comes_and_the_next_one_takes_its_place(
    server: Server, device: Installer, bundles: dict[str, Path]
) -> None:
    steps: list[str] = []

    def report(state: str, detail: str, metrics: Any) -> None:
        steps.append(state)

    first = server.publish(bundles["old"])
    outcome = device.install(UpdateJob("j1", first.path), report)
    assert outcome is not None and (outcome.state, outcome.job) == ("active", "j1")
    assert steps == ["accepted", "downloading", "verified", "staged"] and _version(device) == "1.0"
    second = server.publish(bundles["new"])
    outcome = device.install(UpdateJob("j2", second.path))
    assert outcome is not None and outcome.state == "active" and outcome.metrics["agreement"] == 1.0
    assert outcome.metrics["health_samples"] == 8 and 0 < outcome.metrics["latency_p95"] < 1
    assert _version(device) == "2.0"
    assert [(row["version"], row["active"]) for row in device.store.inventory()] == [("2.0", True), ("1.0", False)]
    # The same job again, as after a lost report: nothing is fetched.
    server.asked.clear()
    assert device.install(UpdateJob("j2", second.path)) == outcome and server.asked == []


def test_a_download_goes_on_where_it_ended(server: Server, device: Installer, bundles: dict[str, Path]) -> None:
    variant = server.publish(bundles["old"])
    chunks = -(-variant.blob.length // CHUNK)
    assert chunks >= 3
    for attempt in range(chunks):
        came = 0

        def one_more(name: str, offset: int, data: bytes | None) -> bytes | None:
            nonlocal came
            if name == variant.blob.sha256:
                came += 1
                if came > 1:
                    raise EdgeError("the broker does not answer")
            return data

        server.spoil = one_more
        server.asked.clear()
        job = UpdateJob("j1", variant.path)
        if attempt < chunks - 1:
            with pytest.raises(EdgeError, match="the broker does not answer"):
                device.install(job)
        else:
            outcome = device.install(job)
            assert outcome is not None and outcome.state == "active"
        first = next(offset for name, offset, _ in server.asked if name == variant.blob.sha256)
        # What was written is on disk once the file is closed: the device of the next attempt is another process.
        assert first == attempt * CHUNK
        device = _installer(device.folder, server)
    assert _version(device) == "1.0"


def _tampered(name: str, offset: int, data: bytes | None) -> bytes | None:
    return bytes([data[0] ^ 1]) + data[1:] if data and len(name) == 64 and offset else data


def _too_long(name: str, offset: int, data: bytes | None) -> bytes | None:
    return data + b"x" * CHUNK if data and len(name) == 64 else data


def _too_short(name: str, offset: int, data: bytes | None) -> bytes | None:
    return b"" if len(name) == 64 and offset else data


def _gone(name: str, offset: int, data: bytes | None) -> bytes | None:
    return None if len(name) == 64 else data


def _metadata_changed(name: str, offset: int, data: bytes | None) -> bytes | None:
    return data.replace(b'"kws"', b'"KWS"') if data and name.endswith("targets.json") else data


def _endless_metadata(name: str, offset: int, data: bytes | None) -> bytes | None:
    return b" " * CHUNK if name == "timestamp.json" else data


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (_tampered, "does not have the hash that is signed for"),
        (_too_long, "bytes where"),
        (_too_short, "the server's file ends at"),
        (_gone, "the server's file ends at 0"),
        (_metadata_changed, "is not the file that is signed for"),
        (_endless_metadata, "at most 16,384 are read"),
    ],
)
def test_what_was_changed_on_the_way_is_refused(
    server: Server, device: Installer, bundles: dict[str, Path], attack: Any, told: str
) -> None:
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    new = server.publish(bundles["new"])
    server.spoil = attack
    outcome = device.install(UpdateJob("j2", new.path))
    assert outcome is not None and outcome.state == "failed" and told in outcome.detail
    assert _version(device) == "1.0" and len(list(device.store.files.iterdir())) == 1
    server.spoil = lambda name, offset, data: data
    retried = device.install(UpdateJob("j3", new.path))
    assert retried is not None and retried.state == "active" and _version(device) == "2.0"


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "a/b", "..", "c:x"])
def test_a_signed_bundle_with_a_path_in_it_is_refused(
    tmp_path: Path, server: Server, device: Installer, bundles: dict[str, Path], name: str
) -> None:
    """Whoever holds the targets key could sign it; it is refused all the same, and nothing of it is written."""
    hostile = with_entry(bundles["new"], tmp_path / "hostile.edge", name)
    with pytest.raises(BadFile):
        server.publish(hostile)
    blob = server.source.store.add(hostile)
    variant = Variant("kws", "2.0", "bundle", 1, "bundle", blob)
    server.source.repository.publish([variant])
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    outcome = device.install(UpdateJob("j1", variant.path))
    assert outcome is not None and outcome.state == "failed"
    assert list(device.store.files.iterdir()) == [] and not device.store.link("kws").exists()
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file() and path not in before} <= {
        "trust",
        "state",
    }


def test_a_bundle_must_be_the_model_that_is_signed_for(
    server: Server, device: Installer, bundles: dict[str, Path]
) -> None:
    blob = server.source.store.add(bundles["new"])
    server.source.repository.publish([Variant("other", "2.0", "bundle", 1, "bundle", blob)])
    outcome = device.install(UpdateJob("j1", "other/2.0/bundle.edge"))
    assert outcome is not None and outcome.detail == "other/2.0/bundle.edge: holds kws 2.0"


def test_a_broken_model_never_becomes_active(server: Server, device: Installer, bundles: dict[str, Path]) -> None:
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    outcome = device.install(UpdateJob("j2", server.publish(bundles["broken"]).path))
    assert outcome is not None and outcome.state == "failed" and "reference input 0: is off by" in outcome.detail
    assert _version(device) == "1.0" and len(list(device.store.files.iterdir())) == 1


def test_a_model_that_does_worse_fails_its_gate(server: Server, device: Installer, bundles: dict[str, Path]) -> None:
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    ring = InputRing(device.folder / "inputs" / "kws", keep=20)
    with load(device.store.link("kws")) as model:
        rng = np.random.default_rng(0)
        for _ in range(30):
            x = rng.standard_normal(model.inputs[0].shape).astype(np.float32)
            ring.put(x, label=model.labels[int(np.argmax(model(x)))])
    ring.put(np.zeros(3, np.float32))  # of another model: passed over
    worse = server.publish(bundles["worse"], gate="agreement>=0.9")
    outcome = device.install(UpdateJob("j2", worse.path, gate="accuracy>=0.9|latency_p95<10s"))
    assert outcome is not None and outcome.state == "failed"
    assert outcome.detail.startswith("gate, on 19 of its own inputs: agreement is 0.")
    assert "accuracy is 0." in outcome.detail and "latency" not in outcome.detail
    assert outcome.metrics["accuracy"] < 0.9 and outcome.metrics["agreement"] < 0.9
    assert _version(device) == "1.0"
    better = server.publish(bundles["new"], gate="agreement>=0.9")
    outcome = device.install(UpdateJob("j3", better.path, gate="accuracy>=0.9"))
    assert outcome is not None and outcome.state == "active" and outcome.metrics["accuracy"] == 1.0


def test_a_model_that_fails_once_active_gives_way_to_the_one_before(
    server: Server, device: Installer, bundles: dict[str, Path]
) -> None:
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    new = server.publish(bundles["new"])

    def check(path: Path) -> dict[str, float]:
        if path.parent.name == "active":
            assert _version(device) == "2.0"
            raise trial.Unhealthy("its trial died of signal 11")
        return trial.health_of(path)

    failing = _installer(device.folder, server, check=check)
    outcome = failing.install(UpdateJob("j2", new.path))
    assert outcome is not None and (outcome.state, outcome.detail) == ("rolled-back", "its trial died of signal 11")
    assert _version(device) == "1.0"
    assert device.install(UpdateJob("j2", new.path)) == outcome  # and is not tried again
    again = device.install(UpdateJob("j3", new.path))
    assert again is not None and again.state == "active"


def test_an_older_version_comes_back_only_when_the_operator_says_so(
    server: Server, device: Installer, bundles: dict[str, Path]
) -> None:
    old, new = server.publish(bundles["old"]), server.publish(bundles["new"])
    device.install(UpdateJob("j1", old.path))
    device.install(UpdateJob("j2", new.path))
    refused = device.install(UpdateJob("j3", old.path))
    assert refused is not None and refused.state == "failed" and "is older than version 2.0" in refused.detail
    server.asked.clear()
    back = device.install(UpdateJob("j4", old.path, rollback=True))
    assert back is not None and back.state == "active" and _version(device) == "1.0"
    assert all(len(name) < 64 for name, _, _ in server.asked)  # it was kept: nothing is downloaded


def test_activation_waits_for_its_time(server: Server, tmp_path: Path, bundles: dict[str, Path]) -> None:
    import time

    clock = [time.time()]
    device = _installer(tmp_path / "device", server, now=lambda: clock[0])
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    later = clock[0] + 3600
    job = UpdateJob("j2", server.publish(bundles["new"]).path, activate_at=later)
    assert device.install(job) is None and device.due() == [] and device.next_time() == later
    assert _version(device) == "1.0"
    clock[0] += 3601
    device = _installer(tmp_path / "device", server, now=lambda: clock[0])
    assert device.recover() == []
    (outcome,) = device.due()
    assert (outcome.job, outcome.state) == ("j2", "active") and _version(device) == "2.0"
    assert device.next_time() is None


def test_what_waits_can_be_cancelled(server: Server, device: Installer, bundles: dict[str, Path]) -> None:
    job = UpdateJob("j1", server.publish(bundles["old"]).path, activate_at=9e9)
    assert device.install(job) is None
    assert device.cancel("j0") is None
    outcome = device.cancel("j1")
    assert outcome is not None and outcome.state == "failed" and list(device.store.files.iterdir()) == []


def test_a_job_that_is_withdrawn_on_its_way_changes_nothing(
    tmp_path: Path, server: Server, bundles: dict[str, Path]
) -> None:
    device = _installer(tmp_path / "device", server, withdrawn=lambda job: job == "j1")
    variant = server.publish(bundles["old"])
    outcome = device.install(UpdateJob("j1", variant.path))
    assert outcome is not None and (outcome.state, outcome.detail) == ("failed", "cancelled by the operator")
    assert not device.store.link("kws").exists()
    outcome = device.install(UpdateJob("j2", variant.path))
    assert outcome is not None and outcome.state == "active"


def test_a_download_that_is_withdrawn_ends_with_its_chunk(
    tmp_path: Path, server: Server, bundles: dict[str, Path]
) -> None:
    withdrawn: set[str] = set()
    device = _installer(tmp_path / "device", server, withdrawn=withdrawn.__contains__)
    variant = server.publish(bundles["old"])

    def chunks(name: str, offset: int, data: bytes | None) -> bytes | None:
        if name == variant.blob.sha256 and offset >= CHUNK:
            withdrawn.add("j1")
        return data

    server.spoil = chunks
    outcome = device.install(UpdateJob("j1", variant.path))
    assert outcome is not None and (outcome.state, outcome.detail) == ("failed", "cancelled by the operator")
    assert [offset for name, offset, _ in server.asked if name == variant.blob.sha256] == [0, CHUNK]
    server.asked.clear()
    outcome = device.install(UpdateJob("j2", variant.path))  # what came is not fetched again
    assert outcome is not None and outcome.state == "active"
    assert min(offset for name, offset, _ in server.asked if name == variant.blob.sha256) == 2 * CHUNK


@pytest.mark.parametrize("when", ["staged", "active"])
def test_a_model_that_takes_the_device_down_is_given_up(
    server: Server, device: Installer, bundles: dict[str, Path], when: str
) -> None:
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    job = UpdateJob("j2", server.publish(bundles["new"]).path)

    class PowerCut(BaseException):
        pass

    def check(path: Path) -> dict[str, float]:
        if when == "active" and path.parent.name != "active":
            return trial.health_of(path)
        raise PowerCut

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(PowerCut):
            failing = _installer(device.folder, server, check=check)
            failing.recover()
            failing.install(job)
    last = _installer(device.folder, server, check=check)
    (outcome,) = last.recover() or [last.install(job)]
    assert outcome is not None and outcome.state == ("failed" if when == "staged" else "rolled-back")
    assert outcome.detail.startswith(f"the device went down {MAX_ATTEMPTS} times")
    assert _version(device) == "1.0"


def test_a_damaged_active_model_gives_way_to_the_one_before(
    server: Server, device: Installer, bundles: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    device.install(UpdateJob("j1", server.publish(bundles["old"]).path))
    new = server.publish(bundles["new"])
    device.install(UpdateJob("j2", new.path))
    file = device.store.file(new.blob.sha256)
    file.write_bytes(file.read_bytes()[:-1])
    (device.store.folder / "state" / "other.json").write_bytes(b"{")
    device.recover()
    assert _version(device) == "1.0"
    assert f"kws {new.version}: its bundle is damaged or gone: 1.0 is active again" in caplog.text


def test_trials_run_in_a_process_of_their_own(
    tmp_path: Path, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial.check_health(bundles["old"])["health_samples"] == 8
    measures = trial.shadow(bundles["old"], bundles["worse"], tmp_path / "none", 4)
    assert measures.samples == 4 and measures.source == "reference" and isinstance(measures, Measures)
    with pytest.raises(trial.Unhealthy, match="reference input 0: is off by"):
        trial.check_health(bundles["broken"])
    with pytest.raises(trial.Unhealthy, match="took longer than 0.001 s"):
        trial.check_health(bundles["old"], timeout=0.001)
    for script, told in (("kill -SEGV $$", "died of signal 11"), ("echo no >&2; exit 1", "its trial broke: no")):
        fake = tmp_path / "python"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o700)
        monkeypatch.setattr("sys.executable", str(fake))
        with pytest.raises(trial.Unhealthy, match=told):
            trial.check_health(bundles["old"])


def test_a_jobs_arguments_are_read_strictly() -> None:
    job = UpdateJob("7f3a", "kws/2.0/bundle.edge", "accuracy>=0.9", 10, 1e9, True)
    assert UpdateJob.read("7f3a", job.to_dict()) == job
    assert UpdateJob.read("7f3a", {"target": "a", "later": 1}) == UpdateJob("7f3a", "a")
    for wrong in (None, {}, {"target": 1}, {"target": "a", "gate": "x"}, {"target": "a", "samples": 10**9}):
        with pytest.raises(BadFile):
            UpdateJob.read("7f3a", wrong)
    with pytest.raises(BadFile):
        UpdateJob.read("../x", {"target": "a"})


# Death at any moment.

_STEPS = ("replace", "fsync", "symlink", "unlink", "ftruncate")


@contextmanager
def _dying_at(step: int, count: list[int]) -> Iterator[None]:
    """Lets the process kill itself before (even) or after (odd) a chunk that comes or a step that changes the disk."""
    kept = {(os, name): getattr(os, name) for name in _STEPS}
    kept[(Server, "fetch")] = Server.fetch

    def wrapped(name: tuple[Any, str]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            result = kept[name](*arguments, **options)
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return result

        return call

    for place in kept:
        setattr(*place, wrapped(place))
    try:
        yield
    finally:
        for place, function in kept.items():
            setattr(*place, function)


def _run_and_die(work: Callable[[], object], step: int) -> bool:
    """Runs `work` in a child that is killed at `step`; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            with _dying_at(step, [0]):
                work()
            os._exit(0)
        except BaseException:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _bad_once_active(path: Path) -> dict[str, float]:
    if path.parent.name == "active" and path.resolve().stat().st_size:
        with Bundle.open(path) as bundle:
            if bundle.manifest.version == "2.0":
                raise trial.Unhealthy("gives NaN or infinity")
    return {"health_samples": 8.0}


def _healthy(path: Path) -> dict[str, float]:
    with Bundle.open(path) as bundle:
        bundle.verify()
    return {"health_samples": 8.0}


def _same(old: Path | None, new: Path, inputs: Path, samples: int) -> Measures:
    return Measures(1, agreement=1.0, accuracy=0.5)


@pytest.mark.parametrize(
    ("check", "gate", "ends", "version"),
    [
        (_healthy, "", "active", "2.0"),
        (_healthy, "accuracy>=0.9", "failed", "1.0"),
        (_bad_once_active, "", "rolled-back", "1.0"),
    ],
    ids=["update", "gate", "rollback"],
)
def test_killed_at_every_step_a_device_always_has_a_working_model(
    tmp_path: Path, server: Server, bundles: dict[str, Path], check: Any, gate: str, ends: str, version: str
) -> None:
    """Before and after each change of the disk; then once more, at random, while it recovers."""
    old, new = server.publish(bundles["old"]), server.publish(bundles["new"])
    job = UpdateJob("j2", new.path, gate=gate)
    chance = random.Random(1)
    steps = 0
    while True:
        folder = tmp_path / f"device{steps}"

        def device(folder: Path = folder) -> Installer:
            return _installer(folder, server, check=check, compare=_same)

        first = device().install(UpdateJob("j1", old.path))
        assert first is not None and first.state == "active"

        def work(device: Callable[[], Installer] = device) -> None:
            installer = device()
            installer.recover()
            outcome = installer.install(job)
            assert outcome is not None and outcome.state == ends, outcome

        killed = _run_and_die(work, steps)
        assert _version(device()) in ("1.0", "2.0")
        if killed and chance.random() < 0.5:
            _run_and_die(work, chance.randrange(30))
            assert _version(device()) in ("1.0", "2.0")
        installer = device()
        installer.recover()
        assert _version(installer) in ("1.0", "2.0")
        outcome = installer.install(job)
        assert outcome is not None and outcome.state == ends, (steps, outcome)
        assert _version(installer) == version
        needed = {old.blob.sha256, new.blob.sha256} if ends == "active" else {old.blob.sha256}
        assert {path.stem for path in installer.store.files.iterdir()} == needed
        assert list(installer.store.parts.iterdir()) == []
        if not killed:
            break
        steps += 1
    assert steps > 30


def test_a_first_model_killed_at_every_step(tmp_path: Path, server: Server, bundles: dict[str, Path]) -> None:
    job = UpdateJob("j1", server.publish(bundles["old"]).path)
    steps = 0
    while True:
        device = _installer(tmp_path / f"device{steps}", server, check=_healthy, compare=_same)
        killed = _run_and_die(lambda device=device: device.install(job), steps)
        if device.store.link("kws").is_symlink():
            assert _version(device) == "1.0"
        device.recover()
        outcome = device.install(job)
        assert outcome is not None and outcome.state == "active" and _version(device) == "1.0"
        if not killed:
            break
        steps += 1


def test_blobs_are_compared_by_length_and_hash(tmp_path: Path) -> None:
    from edge.fleet.device.download import holds

    path = tmp_path / "a"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert holds(path, Blob(digest, 3)) and not holds(path, Blob(digest, 4)) and not holds(tmp_path, Blob(digest, 3))
