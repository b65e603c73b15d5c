"""Updates with everything real: mosquitto, server, agents, TUF, models; a rollout that succeeds, and one that stops."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tuf")

from edge.fleet.device.agent import Agent
from edge.fleet.device.enroll import enroll
from edge.fleet.device.home import Home
from edge.fleet.device.inputs import InputRing
from edge.fleet.device.updates import Updates, with_models
from edge.fleet.errors import Refused
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
from edge.runtime import load
from edge.runtime.bundle import Bundle
from tests.fleet.lab import free_ports, needs_mosquitto, until
from tests.fleet.remade import remade

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
        self.server.extensions = (ServerUpdates,)
        self.server.start()
        self.database = self.server.database
        self.rollouts = Rollouts(self.database, selector(self.database))

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
    fleet: UpdatingFleet, digits_bundle: Path, tmp_path: Path
) -> None:
    old = remade(digits_bundle, tmp_path / "old.edge", name="kws", version="1.0")
    new = remade(digits_bundle, tmp_path / "new.edge", name="kws", version="2.0", license="MIT")
    fleet.publish(old)
    devices = {name: fleet.updating(name) for name in ("attic", "barn", "cellar")}
    first = fleet.rollouts.create(Plan("kws", "1.0", steps=parse_steps("1,100%")), "ana@desk")
    until(lambda: fleet.rollouts.show(first)["state"] == "done", 60)
    assert fleet.rollouts.show(first)["devices"] == {"active": 3}
    assert {_version(updates) for updates in devices.values()} == {"1.0"}
    for name in devices:  # and the registry knows
        until(lambda name=name: [m["version"] for m in fleet.device(name)["inventory"]["models"]] == ["1.0"])

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
