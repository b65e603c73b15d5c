"""A fleet's folder of which a part is gone: nothing is made anew behind the operator's back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.fleet.errors import FleetError
from edge.fleet.server.authority import Authority
from edge.fleet.server.state import State
from edge.sdk.cli import cli
from tests.fleet.fleets import publish_kws


def fleet(*words: str) -> Result:
    return CliRunner().invoke(cli, ["fleet", *words], prog_name="edge")


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def lose(folder: Path, names: str) -> None:
    for name in names.split():
        for path in folder.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("ca", "the fleet's keys ca/ are gone: restore your backup"),
        ("ca/issuing.*", "the fleet's keys ca/issuing.pem ca/issuing.key are gone"),
        ("tuf", "the fleet's signed models tuf/ are gone"),
        ("tuf/metadata/timestamp.json", "tuf/metadata/timestamp.json are gone"),
        ("registry.sqlite*", "the fleet's registry registry.sqlite is gone"),
        ("fleet.json tuf", "the fleet's signed models tuf/ are gone"),
    ],
)
def test_what_is_gone_is_told_and_not_made_anew(gone: str, told: str, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    State.create(folder).database().close()
    lose(folder, gone)
    before = contents(folder)
    names = ("up", "keys", "status", "devices", "token", "models", "audit")
    for name in names[:1] if "fleet.json" in gone else names:
        result = fleet(name, "--state", str(folder))
        assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.stderr
        assert told in result.stderr
    assert contents(folder) == before
    if "fleet.json" not in gone:
        found = fleet("doctor", "--state", str(folder), "--json")
        assert found.exit_code == 1
        wrong = [row for row in json.loads(found.stdout) if not row["ok"] and row["what"] != "mosquitto"]
        assert len(wrong) == 1 and "gone: restore your backup" in wrong[0]["detail"]


def test_what_a_crash_interrupted_at_the_first_start_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    State.create(folder)
    lose(folder, "fleet.json registry.new tuf/metadata/timestamp.json")
    root = (folder / "ca" / "root.pem").read_bytes()
    State.create(folder).check()
    assert (folder / "ca" / "root.pem").read_bytes() == root
    lose(folder, "fleet.json")  # for the defaults, as the message about a damaged one says
    State.create(folder).check()
    assert Authority(folder / "ca").root_pem.encode() == root


def test_a_registry_elsewhere_is_not_missed_here(tmp_path: Path) -> None:
    import dataclasses

    state = State.create(tmp_path / "fleet")
    state.save(dataclasses.replace(state.settings(), database="postgresql://ana@db/fleet"))
    lose(state.folder, "registry.*")
    state.check()
    with pytest.raises(FleetError, match=r"registry\.sqlite is gone"):
        state.check(dataclasses.replace(state.settings(), database=""))


def test_the_doctor_sees_parts_of_different_backups(tmp_path: Path) -> None:
    state = State.create(tmp_path / "fleet")
    database = state.database()
    publish_kws(database)  # which signs nothing
    database.close()
    rows = json.loads(fleet("doctor", "--state", str(state.folder), "--json").stdout)
    (found,) = [row for row in rows if row["what"] == "signed models"]
    assert not found["ok"] and "tuf/ lacks what the registry has: kws:1.0 bundle, 2 in all" in found["detail"]


def test_a_fleet_whose_settings_are_gone_is_no_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    State.create(folder).database().close()
    lose(folder, "fleet.json")
    result = fleet("status", "--state", str(folder))
    assert result.exit_code == 1 and "fleet.json: gone: restore it" in result.stderr
    found = fleet("doctor", "--state", str(folder), "--json")
    assert found.exit_code == 1 and "fleet.json: gone" in found.stdout


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_the_doctor_sees_models_whose_files_are_gone(damage: str, tmp_path: Path, digits_bundle: Path) -> None:
    state = State.create(tmp_path / "fleet")
    state.database().close()
    where = ("--state", str(state.folder))
    assert fleet("publish", str(digits_bundle), *where).exit_code == 0

    def finding() -> dict[str, object]:
        rows = json.loads(fleet("doctor", *where, "--json").stdout)
        (found,) = [row for row in rows if row["what"] == "signed models"]
        return dict(found)

    assert finding()["ok"]
    (file,) = [path for path in state.models.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    file.unlink() if damage == "gone" else file.write_bytes(b"x")
    assert not finding()["ok"] and "publish the same bundle again" in str(finding()["detail"])
    assert fleet("publish", str(digits_bundle), *where).exit_code == 0 and finding()["ok"]
