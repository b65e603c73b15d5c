"""Checkpoints: written whole or not at all, read without running anything."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge.export.checkpoint import (
    Checkpoint,
    check_resumable,
    load_checkpoint,
    load_into,
    load_state,
    save_checkpoint,
)
from edge.runtime.errors import BadFile, BadInput, EdgeError


def some_checkpoint() -> Checkpoint:
    model = nn.Linear(3, 2)
    optimizer = {"weight": {"exp_avg": torch.rand(2, 3), "step": torch.tensor(7.0)}}
    return Checkpoint(
        dict(model.state_dict()), optimizer, torch.get_rng_state(), {"step": 7, "history": [{"loss": 0.5}]}
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    saved = some_checkpoint()
    save_checkpoint(tmp_path / "run.ckpt", saved)
    loaded = load_checkpoint(tmp_path / "run.ckpt")
    assert loaded.info == saved.info
    assert torch.equal(loaded.rng, saved.rng)
    assert loaded.model.keys() == saved.model.keys()
    assert all(torch.equal(loaded.model[k], saved.model[k]) for k in saved.model)
    assert torch.equal(loaded.optimizer["weight"]["exp_avg"], saved.optimizer["weight"]["exp_avg"])
    assert loaded.optimizer["weight"]["step"].item() == 7
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]


def test_tied_weights_are_written(tmp_path: Path) -> None:
    weight = torch.rand(3, 3)
    save_checkpoint(tmp_path / "c", Checkpoint({"a": weight, "b": weight}, {}, torch.get_rng_state(), {}))
    assert torch.equal(load_checkpoint(tmp_path / "c").model["b"], weight)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, some_checkpoint())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EdgeError, match=r"run\.ckpt: cannot be written \(No space left on device\)"):
        save_checkpoint(path, some_checkpoint())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "run.ckpt", some_checkpoint())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"cannot be written \(No such file"):
        save_checkpoint(tmp_path / "nowhere" / "c", some_checkpoint())


@pytest.mark.parametrize("cut", [0, 5, 40, 200, -1])
def test_truncated_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, some_checkpoint())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadFile, match=r"run\.ckpt"):
        load_checkpoint(path)


@pytest.mark.parametrize("info", ["[" * 200_000, '{"step":' + "1" * 6000 + "}", '{"step":', "[]"])
def test_damaged_descriptions_are_refused(tmp_path: Path, info: str) -> None:
    save_file({"rng": torch.get_rng_state()}, tmp_path / "c", {"format": "edge-checkpoint-1", "info": info})
    with pytest.raises(BadFile, match="the checkpoint's description is damaged"):
        load_checkpoint(tmp_path / "c")


def test_what_a_run_takes_over_is_checked() -> None:
    """torch itself would read past the end of an optimizer state that is smaller than its parameter."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    parameters = dict(model.named_parameters())
    state = {name: dict(optimizer.state[parameter]) for name, parameter in parameters.items()}
    rng = torch.get_rng_state()
    check_resumable(Checkpoint({}, state, rng, {}), parameters, "run.ckpt")
    check_resumable(Checkpoint({}, {}, rng, {}), parameters, "run.ckpt")
    good = state["weight"]
    for damaged in (
        {**good, "exp_avg": torch.zeros(())},
        {**good, "exp_avg_sq": torch.zeros(3, 2)},
        {**good, "exp_avg": good["exp_avg"].double()},
        {**good, "step": torch.zeros(2)},
        {**good, "more": torch.zeros(2)},
        {"step": good["step"]},
    ):
        with pytest.raises(BadFile, match=r"run\.ckpt: the optimizer state of 'weight' is damaged"):
            check_resumable(Checkpoint({}, {**state, "weight": damaged}, rng, {}), parameters, "run.ckpt")
    with pytest.raises(BadInput, match="unknown parameter 'other'"):
        check_resumable(Checkpoint({}, {"other": good}, rng, {}), parameters, "run.ckpt")
    for noise in (rng[:-1], rng.float(), torch.full_like(rng, 255), torch.zeros(0)):
        with pytest.raises(BadFile, match=r"run\.ckpt: the random state is damaged"):
            check_resumable(Checkpoint({}, state, noise, {}), parameters, "run.ckpt")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such checkpoint"):
        load_checkpoint(tmp_path / "c")
    save_file({"w": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(BadFile, match="not a checkpoint of a training run"):
        load_checkpoint(tmp_path / "plain.safetensors")


def test_weights_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    save_checkpoint(tmp_path / "run", Checkpoint(dict(state), {}, torch.get_rng_state(), {}))
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "nested.pth")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("run", "plain.safetensors", "plain.pth", "nested.pth", "old.pt"):
        loaded = load_state(tmp_path / name)
        assert loaded.keys() == state.keys() and all(torch.equal(loaded[k], state[k]) for k in state)


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"weight": Hostile()}, tmp_path / "new.pt")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Hostile()))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("new.pt", "bare.pkl", "module.pt"):
        with pytest.raises(BadFile, match=r"not a checkpoint that can be read without running code") as caught:
            load_state(tmp_path / name)
        told = str(caught.value)
        assert "\n" not in told and told.endswith(
            "give a .safetensors, or what torch.save(model.state_dict(), PATH) writes"
        )


def test_other_contents_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(BadFile, match="holds no state dict"):
        load_state(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(BadFile, match=r"text\.pt"):
        load_state(tmp_path / "text.pt")
    with pytest.raises(BadFile, match="no such checkpoint"):
        load_state(tmp_path / "absent.pt")


def test_keys_that_do_not_match_are_listed() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    state = dict(model.state_dict())
    del state["0.weight"], state["1.bias"]
    state["head.weight"] = torch.zeros(1)
    state["1.weight"] = torch.zeros(5, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BadInput) as caught:
        load_into(model, state, "best.pth")
    assert str(caught.value) == (
        "best.pth: the checkpoint does not fit the model: 2 missing (0.weight, 1.bias); 1 unknown (head.weight); "
        "1.weight is [5, 2], the model has [2, 2]"
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
