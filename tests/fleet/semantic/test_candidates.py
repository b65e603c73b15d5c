"""Matching straight from the registry: whatever happened to it, the quick way gives what the plain one gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tuf")

from edge.fleet.inventory import Inventory
from edge.fleet.server import registry
from edge.fleet.server.database import Database
from edge.fleet.server.semantic import candidates
from edge.fleet.server.semantic.expansion import statements_of
from edge.fleet.server.semantic.facts import DeviceFacts, ModelFacts
from edge.fleet.server.semantic.filters import matches, parse
from edge.fleet.server.semantic.match import Match, match
from edge.fleet.server.semantic.registry import Registry
from edge.fleet.server.semantic.sql import SqlRegistry
from edge.fleet.server.semantic.thing import thing_description
from tests.fleet.semantic.samples import BOARD, BODIES, INVENTORY, ListRegistry, manifest

MODEL = ModelFacts.from_published(manifest())
UPDATES = st.lists(st.tuples(st.sampled_from([f"d{number}" for number in range(6)]), BODIES), max_size=12)


def plain(devices: Registry, where: str | None = None) -> list[Match]:
    """Every device by itself, in full."""
    wanted = None if where is None else parse(where)
    facts = [
        DeviceFacts.from_body(name, body) for name, body in sorted(devices.devices()) if body.get("state") != "revoked"
    ]
    return [match(MODEL, each) for each in facts if wanted is None or matches(wanted, each)]


@settings(max_examples=60, deadline=None)
@given(UPDATES)
def test_a_match_is_what_each_device_by_itself_gives(updates: list[tuple[str, Any]]) -> None:
    devices = ListRegistry()
    for name, body in updates:
        devices.put("device.changed", name, body)
        assert candidates.match_all(devices, MODEL, None, pytest.fail) == plain(devices)
    where = "not building=7 or ram>=256KB"
    found = candidates.match_all(devices, MODEL, where, pytest.fail)
    assert sorted(found, key=lambda each: each.device) == plain(devices, where)


def test_in_sqlite(tmp_path: Path) -> None:
    _updates_in(Database(tmp_path / "registry.sqlite"))


def test_in_postgresql(postgres: str) -> None:
    import sqlalchemy as sa

    shared = Database(postgres)
    with shared.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("CREATE DATABASE candidates"))
    shared.close()
    _updates_in(Database(postgres.replace("/postgres?", "/candidates?")))


def _updates_in(database: Database) -> None:
    rows = SqlRegistry(database)
    wide = Inventory.read(INVENTORY | {"sensors": ["microphone"]}).json()
    board = Inventory.read({**BOARD, "operators": ["edge::ternary_linear.out"]}).json()
    for step in range(4):
        with database.transaction() as connection:
            registry.add(connection, "wide", {**wide, "ram_kb": 64 << step})
            registry.add(connection, "board", {**board, "labels": {"building": str(step)}})
            registry.add(connection, f"new{step}", board)
            registry.set_labels(connection, "board", {f"floor{step}": "1"}, "a test")
            registry.set_group(connection, f"new{step}", "canaries", True, "a test")
        assert candidates.match_all(rows, MODEL, None, pytest.fail) == plain(rows)
        for where in ("label.floor0=1", "group=canaries", f"building={step}", "id=wide"):
            found = candidates.match_all(rows, MODEL, where, pytest.fail)
            assert found == plain(rows, where) and found
    assert len({text for _, text in rows.capabilities()}) == 2, "five boards are one"
    assert candidates.device(rows, "wide", pytest.fail).ram == 512 << 10
    database.close()


_WORD = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9 .,:;/_+()@-]{0,99}\Z")
_NAME = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("arch", "cpu", "os", "board", "target"), _WORD),
            **{name: st.lists(_NAME, max_size=3) for name in ("features", "sensors", "boards", "dtypes")},
            "operators": st.lists(st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_:.]{0,99}\Z"), max_size=3),
            "runtimes": st.dictionaries(_NAME, _WORD, max_size=3),
            "labels": st.dictionaries(_NAME, _WORD, max_size=64),
            "models": st.lists(st.fixed_dictionaries({"name": _WORD, "version": _WORD}), max_size=2),
            "ram_kb": st.integers(0, 2**40),
            "cores": st.integers(1, 4096),
        },
    ),
    st.dictionaries(_NAME, _WORD, max_size=64),
    st.lists(_NAME, max_size=300, unique=True),
)
def test_what_the_server_takes_from_a_device_can_be_described(
    inventory: dict[str, Any], labels: dict[str, str], groups: list[str]
) -> None:
    """Whatever `Inventory.read` and the registry let in, semantics reads: no device is left out for its words."""
    taken = json.loads(json.dumps(Inventory.read(inventory).json()))
    facts = DeviceFacts.from_body("d1", {"inventory": taken, "labels": labels, "groups": groups})
    assert statements_of(thing_description(facts))
    assert facts.labels == {**taken["labels"], **labels} and facts.groups == set(groups)
