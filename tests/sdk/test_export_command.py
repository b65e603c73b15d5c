"""`edge export`: what its options come to, what it refuses, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.export import pipeline
from edge.export.options import ExportOptions
from edge.runtime.errors import BadInput
from edge.sdk.cli import cli


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ExportOptions]:
    """Collects what the pipeline is asked for; the pipeline itself has tests of its own."""
    seen: list[ExportOptions] = []

    def refuse(options: ExportOptions, progress: object) -> None:
        seen.append(options)
        raise BadInput("stop here")

    monkeypatch.setattr(pipeline, "export_model", refuse)
    return seen


def export(*words: str) -> None:
    result = CliRunner().invoke(cli, ["export", *words], prog_name="edge")
    assert result.stderr == "edge: error: stop here\n"
    assert result.exit_code == 1


def test_the_defaults_are_those_of_the_pipeline(asked: list[ExportOptions]) -> None:
    export("--bits", "1.58")
    given, default = asked[0], ExportOptions()
    assert given.output == Path("cct_2_3x2.edge")
    for field in fields(ExportOptions):
        if field.name != "output":
            assert getattr(given, field.name) == getattr(default, field.name), field.name


def test_every_option_arrives(asked: list[ExportOptions]) -> None:
    words = (
        "models/mine.py:build --bits 4 --data photos.zip -o out.edge --keep head.* --keep stem --measure mean "
        "--conv float --epochs 3 --batch-size 16 --lr 0.01 --seed 7 --threads 2 --tflite-bits 8 --formats onnx,pte "
        "--resume --pretrained start.pt --no-float-twin --name mine --model-version 2.1.0 --license MIT --limit 100 "
        "--input-size 24x32 --target pi5 --no-report --kind image --float-fraction 0.25"
    )
    export(*words.split())
    assert asked[0] == ExportOptions(
        model="models/mine.py:build",
        bits=4.0,
        data="photos.zip",
        output=Path("out.edge"),
        keep=("head.*", "stem"),
        measure="mean",
        conv="float",
        epochs=3,
        batch_size=16,
        lr=0.01,
        seed=7,
        threads=2,
        tflite_bits=8,
        formats=("pte", "onnx"),
        resume=True,
        pretrained=Path("start.pt"),
        float_twin=False,
        name="mine",
        version="2.1.0",
        license="MIT",
        limit=100,
        input_size=(24, 32),
        target="pi5",
        report=False,
        kind="image",
        float_fraction=0.25,
    )
    export("--bitlinear-compat")  # at 1.58 bits only
    assert asked[1].bitlinear_compat


def test_the_bundle_is_called_after_the_users_file(asked: list[ExportOptions]) -> None:
    export("models/mine.py:build", "--input-size", "20")
    assert asked[0].output == Path("mine.edge")
    assert asked[0].input_size == (20, 20)


def test_an_unknown_target_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom edge.sdk.cli import cli\n"
        "try: cli.main(['export', '--target', 'pi9'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "2 False\n"
    assert "'pi9' is not one of 'generic', 'pi-zero'" in done.stderr


def test_a_format_that_the_target_does_not_read_is_a_wrong_command_line(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom edge.sdk.cli import cli\n"
        "try: cli.main(['export', '--target', 'pi-zero', '--formats', 'pte,tflite,onnx'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "2 False\n"
    assert done.stderr == (
        "edge: error: --formats: no engine of --target pi-zero reads .tflite or .onnx: use --formats pte, "
        "or another target (see 'edge export --help')\n"
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--data", "missing.zip"], "missing.zip"),
        (["no_such_model"], "no_such_model"),
        (["missing.py:build"], "missing.py"),
        (["-o", "no/such/folder/x.edge"], "no/such/folder"),
        (["--limit", "49"], "at least 50"),
        (["--pretrained", "missing.pt"], "missing.pt"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["export", "--json", *words], prog_name="edge")
    assert result.exit_code == 1, result.stderr
    assert result.stdout == ""
    assert part in json.loads(result.stderr.splitlines()[-1])["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_exits_with_130_and_says_how_to_go_on(sent: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.sdk.cli", "export", "mlp", "--epochs", "5000", "--no-float-twin"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    (tmp_path / "mlp.edge").write_bytes(b"an older bundle")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("train"):
            process.send_signal(sent)
            break
    lines += process.stderr.readlines()
    assert process.wait() == 130, "".join(lines)
    told = "edge: error: stopped; the checkpoint is mlp.checkpoint; go on with the same command and --resume\n"
    assert lines[-1] == told
    assert (tmp_path / "mlp.edge").read_bytes() == b"an older bundle"
    assert list(tmp_path.glob("*.checkpoint"))
