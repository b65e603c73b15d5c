"""The face of the command: what it says, where it says it, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edge.runtime.errors import BadFile, Interrupted
from edge.sdk import cli as face
from edge.sdk.commands import targets


def invoke(*words: str) -> Result:
    return CliRunner().invoke(face.cli, list(words), prog_name="edge")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `edge targets` raise."""

    def arrange(error: BaseException) -> None:
        def fail(as_json: bool) -> None:
            raise error

        monkeypatch.setattr(targets.command, "callback", fail)

    return arrange


def test_help_names_every_command() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name in face.COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("name", face.COMMANDS)
def test_every_command_has_help_and_debug(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: edge {name} ")
    assert "--debug" in result.stdout


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom edge.sdk.cli import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'rich', 'torch', 'edge.export'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("edge ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["exprot"], "exprot"),
        (["export", "--bitz", "2"], "--bitz"),
        (["export", "--bits", "3"], "--bits"),
        (["export", "--formats", "pte,gguf"], "gguf"),
        (["export", "--input-size", "huge"], "huge"),
        (["export", "--limit", "3"], "--limit"),
        (["export", "--kind", "video"], "--kind"),
        (["export", "--float-fraction", "1"], "--float-fraction"),
        (["export", "--target", "pi9"], "'generic', 'pi-zero'"),
        (["export", "--formats", "gguf"], "pte,tflite,onnx"),
        (["export", "-o", "b.zip"], "-o b.zip: a bundle's name ends in .edge: -o b.edge"),
        (["export", "--bits", "4", "--bitlinear-compat"], "--bitlinear-compat"),
        (["export", "--license", "x" * 201], "--license: 201 characters; at most 200"),
        (["export", "--license", "MIT\x1b[31m"], "--license: holds a control character"),
        (["export", "--name", "a/b"], "--name: 'a/b'"),
        (["export", "--name", ""], "--name: ''"),
        (["export", "--model-version", "1 0"], "--model-version: '1 0'"),
        (["run"], "BUNDLE"),
        (["run", "x.edge", "--backend", "tpu"], "'auto', 'core', 'executorch', 'litert', 'onnx'"),
        (["run", "x.edge", "y.png", "--demo"], "--demo"),
        (["bench", "x.edge", "--backends", ","], "--backends"),
        (["bench", "x.edge", "--backends", "core,tpu"], "tpu: choose among core,executorch,litert,onnx"),
        (["bench", "x.edge", "--against", "onnx,tensorrt"], "tensorrt"),
        (["bench", "x.edge", "--against", ","], "--against"),
        (["bench", "x.edge", "--against", "onnx", "--profile"], "--profile"),
        (["bench", "x.edge", "--backends", "core", "--profile"], "--backends"),
        (["bench", "x.edge", "--model", "my_model.py:build"], "--model"),
        (["bench", "x.edge", "--plot", "x.svg"], "x.png"),
        (["bench", "x.edge", "--plot", "no-such-folder/x.png"], "no-such-folder"),
        (["completion", "powershell"], "powershell"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(words: list[str], part: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("edge: error: ")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr
    assert "--help'" in result.stderr


def test_no_arguments_show_the_help() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: edge ")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadFile("x.pte: truncated:\n  expected 9 bytes"), 1, "edge: error: x.pte: truncated: expected 9 bytes"),
        (OSError(28, "No space left on device", "x.edge"), 1, "edge: error: No space left on device: x.edge"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "edge-deploy[export]"),
        (MemoryError(), 1, "edge: error: not enough memory"),
        (KeyError("x"), 70, "edge: error: a bug in edge: KeyError: 'x' (--debug shows where)"),
        (ModuleNotFoundError("No module named 'antigravity2'", name="antigravity2"), 70, "a bug in edge"),
        (Interrupted("stopped; go on with --resume"), 130, "edge: error: stopped; go on with --resume"),
        (KeyboardInterrupt(), 130, "edge: error: interrupted"),
        (click.ClickException("odd"), 1, "edge: error: odd"),
    ],
)
def test_errors_are_one_line(
    failing: Callable[[BaseException], None], error: BaseException, code: int, line: str
) -> None:
    failing(error)
    result = invoke("targets")
    assert result.exit_code == code
    assert result.stdout == ""
    shown = result.stderr.strip()
    assert line in shown
    assert "\n" not in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("words", [["--debug", "targets"], ["targets", "--debug"]])
def test_debug_shows_the_traceback(failing: Callable[[BaseException], None], words: list[str]) -> None:
    failing(BadFile("x.pte: truncated"))
    result = invoke(*words)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.strip().endswith("edge: error: x.pte: truncated")


def test_debug_shows_the_log_of_a_child(failing: Callable[[BaseException], None]) -> None:
    from edge.export.child import ChildFailed

    failing(ChildFailed("tflite: the exporter ended", "line 1 of its log"))
    assert "its log" in invoke("targets", "--debug").stderr
    assert "its log" not in invoke("targets").stderr


def test_json_errors_are_json_on_standard_error(failing: Callable[[BaseException], None]) -> None:
    failing(BadFile("x.pte: truncated"))
    result = invoke("targets", "--json")
    assert result.stdout == ""
    assert json.loads(result.stderr) == {"error": "x.pte: truncated", "kind": "BadFile", "exit_code": 1}
    usage = invoke("targets", "--json", "--nonsense")
    assert json.loads(usage.stderr)["exit_code"] == 2


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.sdk.cli", "inspect", "missing.edge"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "edge: error: missing.edge: no such file\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"'{sys.executable}' -m edge.sdk.cli targets --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "["
    assert "Traceback" not in done.stderr
