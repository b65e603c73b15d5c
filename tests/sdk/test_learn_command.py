"""`edge learn`: folders and arrays, before and after, interrupted and resumed; `edge run` with what was learned."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_edge
from tests.runtime.learn.learn_programs import learn_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(learn_folder() / "mlp_ternary.pte", tmp_path / "mlp.pte"))


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Three classes that are easy to tell apart."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 1, 8, 8))
    y = rng.integers(0, 3, 150)
    x = (centres[y] + 0.3 * rng.normal(size=(150, 1, 8, 8))).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path / "data.npz"


def kept(model: Path) -> Path:
    return model.with_name(model.name + ".learned")


def test_arrays_are_learned_and_kept(model: Path, arrays: Path) -> None:
    answer = json.loads(run_edge("learn", model, arrays, "--epochs", "3", "--json").stdout)
    assert answer["samples"] == 360 and answer["held_out"] == 30
    assert answer["accuracy_after"] >= 0.95 > answer["accuracy_before"]
    assert answer["file"] == str(kept(model)) and kept(model).exists()
    np.save(model.with_name("one.npy"), np.load(arrays)["x"][0])
    found = json.loads(run_edge("run", model, model.with_name("one.npy"), "--json").stdout)
    assert found["learned"]["samples"] == 360
    assert found["results"][0]["label"] == str(np.load(arrays)["y"][0])
    shown = run_edge("run", model, model.with_name("one.npy")).stdout
    assert shown.startswith("With what it learned here: 360 samples")
    plain = run_edge("run", model, model.with_name("one.npy"), "--as-exported").stdout
    assert "With what it learned" not in plain
    assert "removed" in run_edge("learn", model, "--forget").stdout and not kept(model).exists()
    assert "nothing was learned" in run_edge("learn", model, "--forget").stdout


def test_a_folder_a_class_with_a_new_one(model: Path, arrays: Path, tmp_path: Path) -> None:
    data = np.load(arrays)
    for index in range(60):
        folder = tmp_path / "classes" / ("1", "2", "strange")[data["y"][index]]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{index}.npy", data["x"][index])
    refused = run_edge("learn", model, tmp_path / "classes", check=False)
    assert refused.returncode == 1 and "no class 'strange' in the model: --new-labels adds it" in refused.stderr
    assert not kept(model).exists()
    answer = json.loads(
        run_edge("learn", model, tmp_path / "classes", "--new-labels", "--epochs", "6", "--json").stdout
    )
    assert answer["labels"][-1] == "strange" and len(answer["labels"]) == 11
    assert answer["accuracy_after"] >= 0.9
    shown = run_edge("learn", model, tmp_path / "classes", "--new-labels").stdout
    assert "held-out samples" in shown and "edge run" in shown


def test_the_budget_is_told(model: Path) -> None:
    budget = json.loads(run_edge("learn", model, "--budget", "--json").stdout)["budget"]
    assert budget["weight_bytes"] == 4 * budget["parameters"] == 1320
    assert "1.32 kB" in run_edge("learn", model, "--budget").stdout
    assert not kept(model).exists()


def test_ctrl_c_keeps_what_was_learned_and_the_same_command_goes_on(model: Path, arrays: Path) -> None:
    command = [sys.executable, "-m", "edge.sdk.cli", "learn", str(model), str(arrays), "--epochs", "10000"]

    def interrupted() -> str:
        running = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A suite that was started in the background ignores it, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert running.stderr is not None
        told = ""
        while "learn " not in told.replace("learn in", ""):
            told += running.stderr.readline()
        running.send_signal(signal.SIGINT)
        _, rest = running.communicate(timeout=60)
        assert running.returncode == 130, told + rest
        return told + rest

    first = interrupted()
    stopped = int(first.rpartition("stopped at sample ")[2].split()[0])
    assert stopped > 0 and kept(model).exists() and "the same command goes on there" in first
    assert f"goes on at sample {stopped + 1} of 1200000, where it stopped" in interrupted()


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        ((), "Missing argument 'DATA...'", 2),
        (("missing",), "missing: no such file or folder", 1),
        (("data.npz", "--forget"), "--forget takes no DATA", 2),
        (("data.npz", "--layers", "0"), "expected a number from 1 to 24, or all", 2),
        (("data.npz", "--layers", "3"), "3 layers to learn: the program has 2", 1),
        (("bad.npz",), "bad.npz: cannot be read as arrays", 1),
        (("objects.npz",), "objects.npz: cannot be read as arrays", 1),
        (("other.npz",), "expected arrays x and y", 1),
        (("empty",), "each class is a folder", 1),
        (("mlp.pte",), "expected a folder with one folder a class, or an .npz", 1),
        (("wide.npz",), "wide.npz[", 1),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(
    arguments: tuple[str, ...], text: str, code: int, model: Path, arrays: Path
) -> None:
    folder = model.parent
    (folder / "empty").mkdir()
    (folder / "bad.npz").write_bytes(arrays.read_bytes()[:1000])
    np.savez(folder / "other.npz", a=np.zeros(3))
    np.savez(folder / "objects.npz", x=np.array([None, 1], dtype=object), y=np.zeros(2, int))
    np.savez(folder / "wide.npz", x=np.zeros((4, 9, 9), np.float32), y=np.zeros(4, int))
    result = run_edge("learn", "mlp.pte", *arguments, check=False, cwd=folder)
    assert result.returncode == code and text in result.stderr, result.stderr
    assert not kept(model).exists() and "Traceback" not in result.stderr
