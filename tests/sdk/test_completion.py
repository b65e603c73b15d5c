"""What a shell is offered at the press of Tab, through click's interface and through bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from edge.runtime.manifest import ENGINES
from edge.runtime.target import TARGETS
from edge.sdk import complete
from edge.sdk.cli import cli
from edge.sdk.options import BACKENDS

FORMATS = ["pte", "tflite", "onnx"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with files of every kind, which is the current one."""
    for name in (
        "digits.edge", "dense.PTE", "my_model.py", "data.npz", "photos.tar.gz", "notes.txt", ".hidden.edge",
        "sounds/one.wav", "sounds/two.npy", "sounds/inner/deep.edge",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def offered(line: str) -> list[str]:
    """What is offered for the last word of `line`; "(files)" where the shell completes files by itself."""
    *words, incomplete = line.split(" ")
    items = ShellComplete(cli, {}, "edge", "_EDGE_COMPLETE").get_completions(words, incomplete)
    return ["(files)" if item.type == "file" else item.value for item in items]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ex", ["export"]),
        ("run ", ["dense.PTE", "digits.edge", "sounds/"]),
        ("run di", ["digits.edge"]),
        ("run ./di", ["./digits.edge"]),
        ("run .h", [".hidden.edge"]),
        ("run sounds/inner/", ["sounds/inner/deep.edge"]),
        ("run so", ["(files)"]),
        ("run no", ["(files)"]),
        ("run nowhere/", ["(files)"]),
        ("run digits.edge sounds/", ["sounds/inner/", "sounds/one.wav", "sounds/two.npy"]),
        ("run digits.edge a.png sounds/o", ["sounds/one.wav"]),
        ("inspect di", ["digits.edge"]),
        ("bench di", ["digits.edge"]),
        ("run digits.edge --backend ", ["auto", *ENGINES]),
        ("run digits.edge --backend l", ["litert"]),
        ("bench digits.edge --backends ", list(ENGINES)),
        ("bench digits.edge --backends core,", ["core,executorch", "core,litert", "core,onnx"]),
        ("bench digits.edge --backends core,o", ["core,onnx"]),
        ("export cct_7", ["cct_7_3x1", "cct_7_3x2", "cct_7_7x2"]),
        ("export m", ["mlp", "my_model.py"]),
        ("export --data ", ["digits", "data.npz", "photos.tar.gz", "sounds/"]),
        ("export --data d", ["digits", "data.npz"]),
        ("export --target pi", [target.name for target in TARGETS if target.name.startswith("pi")]),
        ("export --formats ", FORMATS),
        ("export --formats=pte,t", ["pte,tflite"]),
        ("export --bits 1", ["1.58"]),
    ],
)  # fmt: skip
def test_what_is_offered(line: str, wanted: list[str]) -> None:
    assert offered(line) == wanted


def test_names_that_need_quotes_are_left_to_the_shell(folder: Path) -> None:
    (folder / "digits of mine.edge").touch()
    assert offered("run di") == ["(files)"]
    assert offered("run de") == ["dense.PTE"]


def test_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir("/")
    assert offered("run ~/di") == ["~/digits.edge"]


def test_the_names_are_those_of_the_packages_that_own_them() -> None:
    pytest.importorskip("torch", reason="torch is not installed: edge.export needs it")
    from edge.export.data.files import ARCHIVES
    from edge.export.models import registry

    assert list(complete.MODELS) == list(registry())
    assert set(complete.DATA_SUFFIXES) == {".npz", *ARCHIVES}
    assert BACKENDS == ENGINES


def test_nothing_heavy_is_imported(folder: Path) -> None:
    script = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom edge.sdk.cli import cli\n"
        "for words in (['run'], ['export'], ['export', '--data'], ['export', '--target'], ['bench', '--backends']):\n"
        "    assert ShellComplete(cli, {}, 'edge', 'X').get_completions(words, '')\n"
        "print(sorted({'numpy', 'rich', 'torch', 'edge.export'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell], prog_name="edge")
    assert result.exit_code == 0
    assert "_EDGE_COMPLETE" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ex"], ["export"]),
        (["export", "m"], ["mlp", "my_model.py"]),
        (["export", "--target", "pi-"], ["pi-zero"]),
        (["export", "--formats", "pte,o"], ["pte,onnx"]),
        (["export", "--data", "ph"], ["photos.tar.gz"]),
        (["run", ""], ["dense.PTE", "digits.edge", "sounds/"]),
        (["run", "digits.edge", "--backend", "c"], ["core"]),
        (["run", "so"], ["compopt -o default"]),
    ],
)
def test_in_bash(words: list[str], wanted: list[str], folder: Path) -> None:
    """The script that `edge completion bash` prints, run as bash runs it at the press of Tab."""
    programs = folder / ".bin"
    programs.mkdir()
    (programs / "edge").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edge.sdk.cli "$@"\n')
    (programs / "edge").chmod(0o755)
    # bash has compopt only while it completes; what it would be told is shown instead.
    script = (
        'eval "$(edge completion bash)"\n'
        'compopt() { told+=("compopt $1 $2"); }\n'
        f'COMP_WORDS=(edge "$@") COMP_CWORD={len(words)}\n'
        "function=$(complete -p edge | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        "$function edge\n"
        'printf "%s\\n" "${told[@]}" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
    )
    assert [line for line in done.stdout.splitlines() if line] == wanted, done.stderr
