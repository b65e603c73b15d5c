"""The commands that the documents show are run, in a folder that holds the files they speak of.

A `console` block's lines that begin with "$ " are commands. `edge` commands run; those that train on a reader's own
data do so for one epoch and one format. The main job, which a test of its own runs whole, is held against the command's
own parser. Of the others it is checked that what they name exists; a command that this file cannot place fails the
test.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edge.sdk.cli import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Its commands build on each other: tests/fleet/test_operator_guide.py runs them in their order.
_WALKED = (ROOT / "docs" / "operator.md",)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the main job's own test runs (tests/conftest.py, digits_export).
_PARSED_ONLY = ("edge export --bits 1.58 ",)
# What trains on a reader's own files, and what makes that short; a later option overrides an earlier one.
_OWN_DATA = ("edge export my_model.py:", "edge export ds_cnn ")
_SHORT = ("--epochs", "1", "--no-float-twin", "--formats", "pte")


def _blocks(language: str, document: Path) -> list[str]:
    return [body for name, body in _BLOCK.findall(document.read_text()) if name == language]


def _commands() -> list[str]:
    """Every command shown, once, in order."""
    documents = [document for document in DOCUMENTS if document not in _WALKED]
    lines = [line for document in documents for block in _blocks("console", document) for line in block.splitlines()]
    shown = [re.sub(r"\s{2,}#.*", "", line[2:]).strip() for line in lines if line.startswith("$ ")]
    return list(dict.fromkeys(shown))


COMMANDS = _commands()


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 20
    assert COMMANDS[:2] == ["scripts/demo", "scripts/test"], "the README opens with the two commands"


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("edge ")])
def test_edge_command(line: str, workspace: Path) -> None:
    words = shlex.split(line)
    if line.startswith(_PARSED_ONLY):
        _parse(words[1:])
        return
    if line.startswith(_OWN_DATA):
        _parse(words[1:])
        words += _SHORT
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "edge.sdk.cli", *words[1:]],
        capture_output=True,
        text=True,
        cwd=workspace,
        env=environment,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


def _parse(words: list[str]) -> None:
    """Has the command's own parser read the words, without running it."""
    with click.Context(cli, info_name="edge") as parent:
        command = cli.get_command(parent, words[0])
        assert command is not None
        command.make_context(words[0], words[1:], parent=parent)


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("edge ")])
def test_other_command(line: str) -> None:
    words = shlex.split(line)
    program = Path(words[0])
    if program.parts[0] == "scripts":
        assert os.access(ROOT / program, os.X_OK), f"{program} is not an executable file"
    elif "install" in words:
        extras = re.findall(r"\[([\w,-]+)\]", line)
        known = _extras()
        assert {name for group in extras for name in group.split(",")} <= known
    elif program.name == "nox":
        sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
        assert words[words.index("-s") + 1] in sessions
    elif program.name in ("python", "python3"):
        module = words[words.index("-m") + 1] if "-m" in words else None
        assert module == "venv" or (ROOT / words[1]).is_file(), line
    else:
        pytest.fail(f"{line}: teach this test what to check")


def _extras() -> set[str]:
    """Names of the extras in pyproject.toml (read as text: Python 3.10 has no TOML reader)."""
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^([\w-]+) = \[", table, re.MULTILINE))


@pytest.mark.parametrize("code", _blocks("python", ROOT / "README.md"))
def test_python_of_the_readme(code: str, workspace: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "7"


def test_documented_options_are_the_commands_own() -> None:
    """docs/cli.md lists every option of `edge export`, and none that it lacks."""
    table = (ROOT / "docs" / "cli.md").read_text().partition("## edge export")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `-")]
    documented = set(re.findall(r"--[\w-]+", " ".join(rows)))
    with click.Context(cli, info_name="edge") as parent:
        command = cli.get_command(parent, "export")
    assert command is not None
    own = {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    assert documented == own - {"--json", "--debug"}


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
