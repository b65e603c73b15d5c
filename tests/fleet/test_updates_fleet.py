"""Updates with everything real: mosquitto, server, agents, TUF, models; a rollout that succeeds, and one that stops."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tuf")

from edge.fleet import topics
from edge.fleet.device import agent as agents
from edge.fleet.device.agent import Agent
from edge.fleet.device.enroll import enroll
from edge.fleet.device.home import Home
from edge.fleet.device.inputs import InputRing
from edge.fleet.device.updates import Updates, with_models
from edge.fleet.errors import FleetError, Refused
from edge.fleet.inventory import Inventory
from edge.fleet.server import enrollment, registry
from edge.fleet.server.database import setting
from edge.fleet.server.services import Server
from edge.fleet.server.state import State
from edge.fleet.server.updates.catalogue import publish_model
from edge.fleet.server.updates.plan import Plan, parse_steps
from edge.fleet.server.updates.publish import publish
from edge.fleet.server.updates.rollout import Rollouts
from edge.fleet.server.updates.selection import selector
from edge.fleet.server.updates.service import Updates as ServerUpdates
from edge.fleet.server.updates.service import open_source
from edge.fleet.server.updates.source import Source
from edge.fleet.variant import Variant
from edge.runtime import load
from edge.runtime.bundle import Bundle
from tests.fleet.lab import free_ports, needs_mosquitto, until
from tests.fleet.remade import remade, with_entry

pytestmark = needs_mosquitto

CORE = Inventory(arch="x86_64", cores=2, ram_kb=4_000_000, runtimes={"core": "0.1.0"})


class UpdatingFleet:
    """A server in this process whose extensions do updates, and devices in threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State.create(folder / "fleet")
        port, boot_port = free_ports(2)
        settings = dataclasses.replace(self.state.settings(), host="127.0.0.1", port=port, boot_port=boot_port)
        self.state.save(settings)
        self._agents: list[tuple[Agent, threading.Thread]] = []
        self.start()

    def start(self) -> None:
        self.server = Server(self.state, self.state.settings())
        self.server.extensions = (self._extend,)
        self.server.start()
        self.database = self.server.database
        self.rollouts = Rollouts(self.database, selector(self.database))

    def _extend(self, server: Server) -> None:
        self.updates = ServerUpdates(server)
        self.source = self.updates.reports._source

    def stop(self) -> None:
        for agent, _ in self._agents:
            agent.stop()
        for _, thread in self._agents:
            thread.join(10)
        self.server.stop()

    def publish(self, bundle: Path, **options: Any) -> None:
        source = open_source(self.state)
        variants = publish(source.repository, source.store, bundle, **options)
        publish_model(self.database, variants, {}, "ana@desk")

    def updating(self, name: str) -> Updates:
        """An enrolled device that runs and updates itself."""
        home = Home(self.folder / name)
        with self.database.transaction() as connection:
            key = setting(connection, "broker_key")
            token = enrollment.create_token(connection, key, "ana@desk", 60.0, approve=True)
        boot_port = self.server.address.boot_port

        def joined() -> bool:
            try:
                return enroll(home, token, "127.0.0.1", boot_port, CORE, name, 10) is not None
            except Refused:  # the broker has not been told of the token yet
                return False

        until(joined)
        agent = Agent(home, with_models(home, lambda: CORE), heartbeat=0.2)
        updates = Updates(agent)
        updates.start()
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        self._agents.append((agent, thread))
        until(lambda: self.device(name)["online"])
        return updates

    def device(self, name: str) -> dict[str, Any]:
        with self.database.reading() as connection:
            return registry.describe(connection, name)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[UpdatingFleet]:
    made = UpdatingFleet(tmp_path)
    yield made
    made.stop()


def _version(updates: Updates) -> str:
    with Bundle.open(updates.installer.store.link("kws")) as bundle:
        bundle.verify()
        return bundle.manifest.version


def test_publish_deploy_one_fails_its_gate_and_the_rollout_aborts(
    fleet: UpdatingFleet, digits_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge.fleet.updates")
    old = remade(digits_bundle, tmp_path / "old.edge", name="kws", version="1.0")
    new = remade(digits_bundle, tmp_path / "new.edge", name="kws", version="2.0", license="MIT")
    fleet.publish(old)
    devices = {name: fleet.updating(name) for name in ("attic", "barn", "cellar")}
    first = fleet.rollouts.create(Plan("kws", "1.0", steps=parse_steps("1,100%")), "ana@desk")
    until(lambda: fleet.rollouts.show(first)["state"] == "done", 60)
    assert fleet.rollouts.show(first)["devices"] == {"active": 3}
    assert {_version(updates) for updates in devices.values()} == {"1.0"}
    for name in devices:  # and the registry knows as soon as the rollout does: the next one notes what they had
        assert [m["version"] for m in fleet.device(name)["inventory"]["models"]] == ["1.0"]

    # The cellar's inputs are labelled, and the model is wrong on them.
    ring = InputRing(devices["cellar"].installer.folder / "inputs" / "kws")
    with load(old) as model:
        for index in range(8):
            x = np.random.default_rng(index).standard_normal(model.inputs[0].shape).astype(np.float32)
            ring.put(x, label=model.labels[int(np.argmin(model(x)))])
    fleet.publish(new)
    plan = Plan("kws", "2.0", where="model=kws:1.0 or model=kws:2.0", gate="agreement>=0.9", abort_over=0.5)
    second = fleet.rollouts.create(plan, "ana@desk")
    until(lambda: fleet.rollouts.show(second)["state"] == "done", 60)
    assert {_version(updates) for updates in devices.values()} == {"2.0"}

    worse = remade(digits_bundle, tmp_path / "worse.edge", name="kws", version="3.0", spoil=True, lie=True)
    fleet.publish(worse)
    started = time.monotonic()
    third = fleet.rollouts.create(
        Plan("kws", "3.0", steps=parse_steps("100%", canary=1), gate="accuracy>=0.9|agreement>=0.9"), "ana@desk"
    )
    until(lambda: fleet.rollouts.show(third)["state"] == "aborted", 60)
    shown = fleet.rollouts.show(third)
    assert shown["devices"] == {"failed": 1, "waiting": 2}
    assert shown["problems"][0]["detail"].startswith("gate, on ") and time.monotonic() - started < 60
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    for level, part in (
        ("INFO", "kws/1.0/bundle.edge: downloading, "),
        ("INFO", "kws/1.0/bundle.edge: verified"),
        ("INFO", "kws/1.0/bundle.edge: its trial begins"),
        ("INFO", "kws/1.0/bundle.edge: passed its trial"),
        ("INFO", "kws: activated"),
        ("INFO", "kws/1.0/bundle.edge: active"),
        ("WARNING", "kws/3.0/bundle.edge: failed: gate, on "),
    ):
        assert any(level == one and text.startswith(part) for one, text in told), (part, told)
    assert {_version(updates) for updates in devices.values()} == {"2.0"}

    assert fleet.rollouts.rollback(second, "ana@desk") == 3
    until(lambda: fleet.rollouts.show(second)["state"] == "rolled-back", 60)
    assert fleet.rollouts.show(second)["devices"] == {"reverted": 3}
    assert {_version(updates) for updates in devices.values()} == {"1.0"}


def test_chunks_are_for_whoever_asks_and_only_what_is_published(
    fleet: UpdatingFleet, digits_bundle: Path, tmp_path: Path
) -> None:
    fleet.publish(remade(digits_bundle, tmp_path / "old.edge", name="kws", version="1.0"))
    updates = fleet.updating("attic")
    source = updates._source
    root = source.fetch("1.root.json", 0, 60_000)
    assert root == open_source(fleet.state).repository.read("1.root.json")
    assert source.fetch("9.root.json", 0, 1000) is None
    assert source.fetch("0" * 64, 0, 1000) is None


def test_the_root_of_the_models_comes_with_the_certificate(fleet: UpdatingFleet) -> None:
    """Over the connection that the claim token vouches for, and not when the first model is asked for."""
    repository = open_source(fleet.state).repository
    repository.rotate("root")
    updates = fleet.updating("attic")
    root = updates.installer.folder / "trust" / "root.json"
    assert root.read_bytes() == repository.read("2.root.json") == repository.trusted_root()
    asked: list[str] = []
    fetch = updates._source.fetch
    updates._source.fetch = lambda name, *rest: asked.append(name) or fetch(name, *rest)
    updates._trust()
    assert asked == []
    # From a server that is too old to send it, it is asked for.
    root.unlink()
    updates._trust()
    assert asked == ["1.root.json"] and root.read_bytes() == repository.read("1.root.json")


def test_a_certificate_with_a_root_that_nobody_signed_is_refused(fleet: UpdatingFleet, tmp_path: Path) -> None:
    honest = open_source(fleet.state).repository.trusted_root()
    for number, root in enumerate((b"{}", honest.replace(b'"version":1', b'"version":2'), b"[" * 100)):
        fleet.server.models_root = lambda root=root: root
        with pytest.raises(FleetError, match="a root for models that is not one"):
            fleet.updating(f"d{number}")
        home = Home(tmp_path / f"d{number}")
        assert home.place() is None and not home.identity.exists() and not (home.folder / "trust/root.json").exists()
    fleet.server.models_root = lambda: b"x" * 40_000  # longer than a message holds: asked for later
    assert not (fleet.updating("attic").installer.folder / "trust/root.json").exists()


def test_what_a_killed_server_lost_comes_again_at_its_roll_call(
    fleet: UpdatingFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "ROLL_CALL_SECONDS", 0.5)
    agent = fleet.updating("attic")._agent
    take = fleet.server.ingest.offer
    fleet.server.ingest.offer = lambda topic, payload: None  # type: ignore[method-assign]
    agent.telemetry({"number": 7})

    def waits() -> bool:
        return any("number" in envelope.body.get("values", {}) for _, _, envelope in agent.outbox.waiting())

    time.sleep(0.5)
    fleet.server.ingest.offer = take  # type: ignore[method-assign]
    time.sleep(0.5)
    assert waits()  # it was sent, and is not sent again so soon
    fleet.server.send(topics.to_all("roll"), {}, 0)
    until(lambda: not waits(), 5)


def test_a_hello_that_comes_again_tells_no_older_story(fleet: UpdatingFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two was lost with the server that should have taken it in, and comes again behind the second."""
    monkeypatch.setattr(agents, "ROLL_CALL_SECONDS", 0.5)
    agent = fleet.updating("attic")._agent
    until(lambda: not any(kind == "hello" for _, kind, _ in agent.outbox.waiting()))
    take = fleet.server.ingest.offer
    fleet.server.ingest.offer = lambda topic, payload: None  # type: ignore[method-assign]
    for sensor in ("first", "second"):
        agent._describe = lambda sensor=sensor: dataclasses.replace(CORE, sensors=(sensor,))
        agent.inventory_changed()
        time.sleep(0.5)
        fleet.server.ingest.offer = take  # type: ignore[method-assign]
    until(lambda: fleet.device("attic")["inventory"]["sensors"] == ["second"], 5)
    fleet.server.send(topics.to_all("roll"), {}, 0)
    until(lambda: not any(kind == "hello" for _, kind, _ in agent.outbox.waiting()), 5)
    assert fleet.device("attic")["inventory"]["sensors"] == ["second"]


class Hostile:
    """Stands where the server's source stands: what a thief of the server, or of the broker, could give."""

    def __init__(self, source: Source, attack: Callable[[str, int, bytes | None], bytes | None]) -> None:
        self.source, self.attack, self.repository, self.store = source, attack, source.repository, source.store

    def fetch(self, name: str, offset: int, length: int) -> bytes | None:
        return self.attack(name, offset, self.source.fetch(name, offset, length))


def test_attacks_over_the_broker(fleet: UpdatingFleet, digits_bundle: Path, tmp_path: Path) -> None:
    """A tampered chunk, metadata that are replayed, mixed or of other keys, a signed bundle with a path in it."""
    fleet.publish(remade(digits_bundle, tmp_path / "old.edge", name="kws", version="1.0"))
    attic = fleet.updating("attic")
    honest = fleet.source
    names = [path.name for path in honest.repository.metadata.iterdir()]
    old = {name: honest.repository.read(name) for name in names}

    def deploy(version: str) -> dict[str, Any]:
        id = fleet.rollouts.create(Plan("kws", version), "ana@desk")
        until(lambda: fleet.rollouts.show(id)["state"] in ("done", "aborted"), 60)
        return fleet.rollouts.show(id)

    assert deploy("1.0")["state"] == "done"
    fleet.publish(remade(digits_bundle, tmp_path / "new.edge", name="kws", version="2.0", license="MIT"))
    forger = open_source(State.create(tmp_path / "forger"))
    newest = max(names, key=lambda name: (name.endswith("targets.json"), name))
    listed = {path.name for path in honest.repository.metadata.iterdir()} - set(names)
    targets = max(name for name in listed if name.endswith("targets.json"))

    def tampered(name: str, offset: int, data: bytes | None) -> bytes | None:
        return data[:-1] + bytes([data[-1] ^ 1]) if data and len(name) == 64 else data

    def frozen(name: str, offset: int, data: bytes | None) -> bytes | None:
        return old.get(name, data) if len(name) < 64 else data

    def mixed(name: str, offset: int, data: bytes | None) -> bytes | None:
        return old[newest] if name == targets else data

    def forged(name: str, offset: int, data: bytes | None) -> bytes | None:
        return forger.fetch(name, offset, 60_000) if name == "timestamp.json" else data

    def oversized(name: str, offset: int, data: bytes | None) -> bytes | None:
        return b"[" * 60_000 if name == "timestamp.json" else data

    for attack, told in (
        (frozen, "is not among the models that are signed for"),
        (mixed, "is not the file that is signed for"),
        (forged, "is signed with 0 of the timestamp keys"),
        (oversized, "60,000 bytes where 49,152 were asked"),
        (tampered, "does not have the hash that is signed for"),
    ):
        fleet.updates.reports._source = Hostile(honest, attack)  # type: ignore[assignment]
        shown = deploy("2.0")
        assert shown["state"] == "aborted" and told in shown["problems"][0]["detail"], (attack, shown["problems"])
        assert _version(attic) == "1.0"
    fleet.updates.reports._source = honest
    assert deploy("2.0")["state"] == "done" and _version(attic) == "2.0"

    # What a device has seen, it does not forget.
    fleet.updates.reports._source = Hostile(honest, frozen)  # type: ignore[assignment]
    shown = deploy("1.0")  # an honest server does not even ask
    assert shown["devices"] == {"unfit": 1}
    with fleet.database.transaction() as connection:
        forged = registry.create_job(connection, "attic", "model.update", {"target": "kws/1.0/bundle.edge"}, "ana@desk")

    def end() -> str:
        with fleet.database.reading() as connection:
            (job,) = registry.jobs(connection, [forged])
        return str(job["detail"]) if job["state"] == "failed" else ""

    assert "this device has seen" in until(end, 30) and _version(attic) == "2.0"
    fleet.updates.reports._source = honest

    path = with_entry(tmp_path / "new.edge", tmp_path / "path.edge", "../../../x")
    variant = Variant("kws", "3.0", "bundle", 9, "bundle", honest.store.add(path), engines=("core",))
    honest.repository.publish([variant])
    publish_model(fleet.database, [variant], {}, "ana@desk")
    shown = deploy("3.0")
    assert "../../../x" in shown["problems"][0]["detail"] and _version(attic) == "2.0"
