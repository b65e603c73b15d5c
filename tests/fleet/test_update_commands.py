"""The commands of updates: those that docs/updates.md shows, in its order; and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("tuf")

from edge.fleet.server.state import State
from edge.fleet.server.updates.rollout import Rollouts
from edge.sdk.cli import cli
from tests.conftest import ROOT, run_edge
from tests.fleet.fleets import add_devices, queued, take
from tests.fleet.remade import remade

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def fleet(tmp_path: Path, digits_bundle: Path) -> Path:
    """The folder of a fleet of ten devices in building 7, and a bundle beside it."""
    state = State.create(tmp_path / "fleet")
    database = state.database()
    add_devices(database, [f"d{index}" for index in range(10)], labels={"building": "7"}, models=())
    database.close()
    remade(digits_bundle, tmp_path / "kws.edge", name="kws")
    return tmp_path / "fleet"


def _edge(fleet: Path, *words: str, check: bool = True) -> Any:
    return run_edge(*words, check=check, cwd=fleet.parent, env={**os.environ, "EDGE_FLEET": str(fleet)})


def _answer(fleet: Path, state: str = "active") -> None:
    """Lets the devices do what they are asked."""
    database = State.existing(fleet).database()
    rollouts = Rollouts(database, lambda where: ())
    for device, job in queued(database).items():
        take(database, job, state)
        with database.transaction() as connection:
            rollouts.report(connection, device, job, state, "", {})
    database.close()


def test_the_commands_of_the_document(fleet: Path) -> None:
    lines = [
        line for block in _BLOCK.findall((ROOT / "docs" / "updates.md").read_text()) for line in block.splitlines()
    ]
    assert len(lines) > 12
    said = []
    for line in lines:
        words = shlex.split(line)[1:]
        if "ROLLOUT" in words:
            newest = json.loads(_edge(fleet, "fleet", "rollout", "list", "--json").stdout)[0]["id"]
            words = [newest if word == "ROLLOUT" else word for word in words]
        if "abort" in words:
            _answer(fleet)  # the canaries have it by now
        said.append(_edge(fleet, *words).stdout)
        if words[1] == "deploy" and "kws:1.0" in words:
            _answer(fleet)
            database = State.existing(fleet).database()
            Rollouts(database).tick()
            database.close()
    everything = "\n".join(said)
    assert "published kws/1.0/bundle.edge" in everything and "kws/2.0/pte.edge" in everything
    assert "phases, devices in all: 2, 5, 10" in everything
    assert "2 of 10 devices have been asked to begin" in everything
    assert "is paused" in everything and "is aborted" in everything
    assert "timestamp" in everything


def test_a_rollout_as_people_and_programs_see_it(fleet: Path) -> None:
    _edge(fleet, "fleet", "publish", "kws.edge")
    made = json.loads(_edge(fleet, "fleet", "deploy", "kws", "--canary", "4", "--json").stdout)
    assert made["state"] == "running" and made["devices"] == {"started": 4, "waiting": 6}
    again = _edge(fleet, "fleet", "deploy", "kws", check=False)
    assert again.returncode == 1 and "is open: finish or abort it first" in again.stderr
    _answer(fleet, "failed")
    shown = _edge(fleet, "fleet", "rollout", "show", made["id"]).stdout
    assert "aborted (1 of 4 devices failed, more than 5 %)" in shown
    assert re.search(r"failed +1 +█+", shown) and re.search(r"cancelled +3 +█+", shown) and "waiting" in shown
    # It has ended, so watching ends too.
    assert "aborted" in _edge(fleet, "fleet", "rollout", "show", made["id"], "--watch").stdout
    document = json.loads(_edge(fleet, "fleet", "rollout", "show", made["id"], "--json").stdout)
    assert document["devices"] == {"failed": 1, "cancelled": 3, "waiting": 6}


_REFUSED = [
    (["publish", "none.edge"], "no such file"),
    (["publish", "BUNDLE", "--variant", "gguf"], "expected bundle, pte, tflite, onnx"),
    (["publish", "BUNDLE", "--gate", "speed>1"], "gate 'speed>1'"),
    (["deploy", "nothing"], "is not published"),
    (["deploy", "kws", "--phases", "50%,10%"], "each counts all devices so far"),
    (["deploy", "kws", "--abort-over", "200%"], "a share, like 2% or 0.02"),
    (["deploy", "kws", "--activate-at", "yesterday"], "a time, like"),
    (["deploy", "kws", "--activate-at", "2001-01-01T00:00"], "lies in the past"),
    (["deploy", "kws", "--where", "building ~ 7"], "building"),
    (["deploy", "kws", "--device", "nobody"], "nobody: no active device"),
    (["rollout", "show", "nothing"], "there is none"),
    (["withdraw", "kws"], "name the version too"),
]


def test_what_is_refused_is_told_in_a_line(fleet: Path) -> None:
    bundle = str(fleet.parent / "kws.edge")
    runner = CliRunner(env={"EDGE_FLEET": str(fleet)})
    assert runner.invoke(cli, ["fleet", "publish", bundle]).exit_code == 0
    for words, told in _REFUSED:
        result = runner.invoke(cli, ["fleet", *(bundle if word == "BUNDLE" else word for word in words)])
        assert result.exit_code in (1, 2) and told in result.stderr, (words, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_what_cannot_be_undone_is_asked_first(fleet: Path) -> None:
    _edge(fleet, "fleet", "publish", "kws.edge")
    made = json.loads(_edge(fleet, "fleet", "deploy", "kws", "--canary", "1", "--json").stdout)
    for words in (["rollout", "abort", made["id"]], ["rollout", "rollback", made["id"]], ["withdraw", "kws:1.0.0"]):
        result = run_edge("fleet", *words, check=False, input="n\n", env={**os.environ, "EDGE_FLEET": str(fleet)})
        assert result.returncode == 130 and "[y/N]" in result.stderr
    refused = _edge(fleet, "fleet", "withdraw", "kws:1.0.0", "--yes", check=False)
    assert refused.returncode == 1 and "is open: abort it first" in refused.stderr
    _edge(fleet, "fleet", "rollout", "abort", made["id"], "--yes")
    _edge(fleet, "fleet", "withdraw", "kws:1.0.0", "--yes")
    assert json.loads(_edge(fleet, "fleet", "models", "--json").stdout) == []
    assert not [path for path in (fleet / "models").rglob("*") if path.is_file()]
