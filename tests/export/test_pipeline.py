"""`edge export` as a whole: the default job, the user's own module, and every way it can go wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge.runtime.bundle import Bundle
from tests.conftest import run_edge

if TYPE_CHECKING:
    from tests.conftest import DigitsExport

pytest.importorskip("executorch", reason="executorch is not installed")

FACTORIES = '''
import torch
from torch import nn


class Scan(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, -1)


def small(num_classes, input_shape):
    """A CNN of convolutions with BatchNorm, a 1x1 convolution, and two linears."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(256, 64), nn.GELU(), nn.Linear(64, num_classes),
    )


def scanning(num_classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU())
    model.add_module("scan", Scan())
    model.add_module("head", nn.Linear(16, num_classes))
    return model


def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 5))


def coloured(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, num_classes))


class Failing(nn.Module):
    def forward(self, x):
        return x[:, 9]


def failing():
    return Failing()


def branching(num_classes):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(256, num_classes)

        def forward(self, x):
            return self.head(x.flatten(1)) if float(x.sum()) > 0 else self.head(-x.flatten(1))

    return Branching()
'''


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "my_models.py"
    path.write_text(FACTORIES)
    return path


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The error a person sees: exactly one line, after whatever the progress display left."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("edge: error:")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def test_default_job_reaches_its_goal(digits_export: DigitsExport) -> None:
    metrics = digits_export.answer["metrics"]
    assert metrics["samples"] >= 359
    assert metrics["torch"] >= 0.99
    assert metrics["torch"] >= metrics["float"] - 0.005
    assert set(metrics["engines"]) == {"core", "executorch", "litert", "onnx"}
    for engine, metric in metrics["engines"].items():
        assert metric["value"] >= 0.99, engine
        assert metric["agreement"] >= 0.995, engine
    assert (digits_export.folder / "digits.edge").stat().st_size < 600_000


def test_default_job_checked_every_operator(digits_export: DigitsExport) -> None:
    manifest = Bundle.open(digits_export.bundle).manifest
    checked = manifest.training["checked_operators"]
    assert checked["model.pte"] >= 4 * 9  # four samples, nine ternary layers and more
    assert checked["model.tflite"] >= 9
    assert checked["model.onnx"] >= 9
    ops = manifest.files["model.pte"].ops
    assert ops["edge::ternary_linear.out"] == 9
    assert ops["edge::attention_qkv.out"] == 2
    assert sum(ops.values()) <= 7 * 2 + 12


def test_integer_attention(tmp_path: Path) -> None:
    """The .pte has it, agrees with eager PyTorch that has it, and the .onnx goes on in float."""
    bundle = tmp_path / "int8.edge"
    run_edge(
        *("export", "--attention", "int8", "--epochs", "1", "--limit", "400", "--formats", "pte,onnx"),
        *("--no-float-twin", "--no-report", "-o", bundle, "--json"),
    )
    manifest = Bundle.open(bundle).manifest
    ops = manifest.files["model.pte"].ops
    assert ops["edge::attention_qkv_int8.out"] == 2
    assert "edge::attention_qkv.out" not in ops
    engines = manifest.metrics.engines
    assert engines["core"].agreement >= 0.995
    assert engines["onnx"].agreement >= 0.995


def test_users_own_module(factories: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "own.edge"
    result = run_edge(
        "export",
        f"{factories}:small",
        "--bits",
        "1.58",
        "--epochs",
        "6",
        "-o",
        bundle,
        "--json",
        "--no-float-twin",
        "--no-report",
    )
    answer = json.loads(result.stdout)
    assert answer["accuracy"] > 0.8
    assert answer["metrics"]["engines"]["core"]["agreement"] >= 0.995
    assert set(answer["files"]) == {"model.pte", "model.tflite", "model.onnx", "reference.npz"}


@pytest.mark.parametrize("bits", ["2", "4", "8", "32"])
def test_other_widths(bits: str, tmp_path: Path) -> None:
    bundle = tmp_path / "mlp.edge"
    result = run_edge(
        "export",
        "mlp",
        "--bits",
        bits,
        "--epochs",
        "6",
        "-o",
        bundle,
        "--json",
        "--no-float-twin",
        "--no-report",
        "--formats",
        "pte,onnx",
    )
    answer = json.loads(result.stdout)
    assert answer["accuracy"] > 0.9
    assert set(answer["metrics"]["engines"]) == {"core", "executorch", "onnx"}


def test_unsupported_operator_is_told_before_training(factories: Path, tmp_path: Path) -> None:
    result = run_edge("export", f"{factories}:scanning", "-o", tmp_path / "x.edge", check=False)
    assert result.returncode == 1
    line = one_line(result)
    assert "cumsum" in line
    assert "scan" in line
    assert not list(tmp_path.iterdir())


def test_operator_that_only_the_core_lacks_may_go_to_onnx(factories: Path, tmp_path: Path) -> None:
    result = run_edge(
        "export", f"{factories}:scanning", "-o", tmp_path / "x.edge", "--formats", "onnx", "--epochs", "2", "--json",
        "--no-float-twin", "--no-report", "--keep", "head.*",
    )  # fmt: skip
    answer = json.loads(result.stdout)
    assert set(answer["metrics"]["engines"]) == {"onnx"}
    quantization = Bundle.open(tmp_path / "x.edge").manifest.quantization
    assert quantization is not None
    assert {layer.name: layer.bits for layer in quantization.layers} == {"1": 1.58, "head": 32}
    digits = "no --data given: training on scikit-learn's handwritten digits"
    assert digits in answer["notes"]
    assert result.stderr.splitlines()[0] == digits


@pytest.mark.parametrize(
    ("factory", "words"),
    [("five", ("[1, 5]", "[1, 10]", "10 classes")), ("coloured", ("[1, 1, 16, 16]", "3 channels"))],
)
def test_module_that_does_not_fit_the_data(
    factories: Path, tmp_path: Path, factory: str, words: tuple[str, ...]
) -> None:
    result = run_edge("export", f"{factories}:{factory}", "-o", tmp_path / "x.edge", check=False)
    assert result.returncode == 1
    line = one_line(result)
    assert all(word in line for word in words), line


def test_a_failure_in_the_users_forward_says_where(factories: Path, tmp_path: Path) -> None:
    result = run_edge("export", "my_models.py:failing", "-o", tmp_path / "x.edge", check=False, cwd=factories.parent)
    assert result.returncode == 1
    number = FACTORIES[: FACTORIES.index("x[:, 9]")].count("\n") + 1
    line = one_line(result)
    assert f" at my_models.py:{number}: IndexError: " in line
    assert line.endswith("(--debug shows the traceback)")


def test_untraceable_module(factories: Path, tmp_path: Path) -> None:
    result = run_edge("export", f"{factories}:branching", "-o", tmp_path / "x.edge", check=False)
    assert result.returncode == 1
    line = FACTORIES[: FACTORIES.index("if float(x.sum())")].count("\n") + 1
    assert f"torch.export cannot trace the model at {factories}:{line}: " in one_line(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cct_9_9x9",), ("cct_9_9x9", "no such model")),
        (("nowhere.py:build",), ("nowhere.py", "no such file")),
        (("--data", "nowhere"), ("nowhere",)),
        (("--keep", "nothing.like.*"), ("nothing.like.*", "matches no module")),
        (("--pretrained", "nowhere.pt"), ("nowhere.pt", "no such checkpoint")),
        (("-o", "nowhere/x.edge"), ("nowhere", "no such folder")),
    ],
)
def test_bad_words_are_told_in_one_line(arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    result = run_edge("export", *arguments, check=False, cwd=tmp_path)
    assert result.returncode == 1
    line = one_line(result)
    assert all(word in line for word in words), line


def test_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"encoder.weight": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    result = run_edge("export", "mlp", "--pretrained", "other.safetensors", check=False, cwd=tmp_path)
    assert result.returncode == 1
    line = one_line(result)
    assert "encoder.weight" in line
    assert "does not fit" in line


def test_one_class(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "data" / "cat").mkdir(parents=True)
    for i in range(4):
        Image.new("L", (8, 8), i * 10).save(tmp_path / "data" / "cat" / f"{i}.png")
    result = run_edge("export", "mlp", "--data", "data", check=False, cwd=tmp_path)
    assert result.returncode == 1
    line = one_line(result)
    assert "class" in line
    assert "cat" in line


def test_not_a_number_stops_training(tmp_path: Path) -> None:
    result = run_edge("export", "mlp", "--lr", "1e38", "--epochs", "3", "--no-float-twin", check=False, cwd=tmp_path)
    assert result.returncode == 1
    line = one_line(result)
    assert "step" in line
    assert not (tmp_path / "mlp.edge").exists()


def test_interrupt_and_resume(factories: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "edge.sdk.cli", "export", f"{factories}:small", "-o", "own.edge", "--epochs", "40",
        "--no-float-twin", "--formats", "pte", "--no-report",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "own.checkpoint"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not checkpoint.exists() and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "\nrehearse: lower to .pte\n" in errors
    assert checkpoint.exists()
    assert not (tmp_path / "own.edge").exists()

    other = run_edge(*command[3:], "--resume", "--bits", "4", check=False, cwd=tmp_path)
    assert other.returncode == 1
    assert "bits 1.58, now it is 4" in one_line(other)
    words = [word for word in command[3:] if word != "--no-float-twin"]
    resumed = run_edge(*words, "--resume", "--json", cwd=tmp_path)
    answer = json.loads(resumed.stdout)
    assert answer["accuracy"] > 0.9
    assert "rehearse" not in resumed.stderr
    assert "rehearse" not in answer["seconds"]
    assert answer["seconds"]["float twin"] > 1, "40 epochs, not the wait for their end"
    missing = "--resume: there is no checkpoint own.float.checkpoint: the float twin starts from the beginning"
    assert [note for note in answer["notes"] if "--resume" in note] == [missing]
    assert not checkpoint.exists()


def test_resume_without_a_checkpoint_and_a_report_that_is_left_are_told(tmp_path: Path) -> None:
    (tmp_path / "mlp-report").mkdir()
    result = run_edge(
        "export", "mlp", "--data", "digits", "--limit", "100", "--epochs", "1", "--formats", "pte", "--no-report",
        "--resume", "--json", cwd=tmp_path,
    )  # fmt: skip
    told = "--resume: there is no checkpoint mlp.checkpoint: training starts from the beginning"
    stale = "mlp-report: the report of an earlier bundle of this name; --no-report leaves it as it is"
    assert json.loads(result.stdout)["notes"] == [told, stale]
    assert stale in result.stderr.splitlines()
    assert result.stderr.splitlines()[0] == told
