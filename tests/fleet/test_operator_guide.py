"""docs/operator.md, walked from its first command to its last, as an operator with one device would."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from edge.sdk.cli import cli
from tests.fleet.lab import free_ports, needs_mosquitto, until

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "operator.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# They run until they are ended, or until another command lets them end.
_STAY = (
    "edge fleet up",
    "edge device run",
    "edge device enroll",
    "edge fleet devices --watch",
    "edge fleet simulate 1",
)
_SIMULATED = 10  # instead of the guide's hundred


def commands() -> list[str]:
    lines = [line for block in _BLOCK.findall(GUIDE.read_text()) for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


class Walk:
    """One walk through the guide: what it has started, and the last token that it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.boot_port = free_ports(2)
        self.token = ""
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.environment = {**os.environ, "EDGE_FLEET": str(folder / "fleet"), "EDGE_DEVICE": str(folder / "device")}
        (folder / "devices.txt").write_text("garden  # the pond\ncellar\n" + "ab" * 32 + "\n")

    def words(self, line: str) -> list[str]:
        words = shlex.split(line)[1:]
        words = [self.token if word == "edge-t…" else word for word in words]
        if "ROLLOUT" in words:
            newest = self.json("edge fleet rollout list --json")[0]["id"]
            words = [str(newest) if word == "ROLLOUT" else word for word in words]
        words = [word.replace("fleet.example.org:8884", f"127.0.0.1:{self.boot_port}") for word in words]
        if words == ["fleet", "simulate", "100"]:
            words[-1] = str(_SIMULATED)
        if words == ["fleet", "up"]:
            words += ["--host", "127.0.0.1", "--metrics-port", "0"]
            words += ["--port", str(self.port), "--boot-port", str(self.boot_port)]
        return [sys.executable, "-m", "edge.sdk.cli", *words]

    def step(self, line: str) -> None:
        if line.startswith(_STAY):
            self.stay(line)
            return
        if "simulate --remove" in line:
            ended = self.running.pop("edge fleet simulate")
            ended.send_signal(signal.SIGINT)
            assert ended.wait(60) == 0
        done = subprocess.run(
            self.words(line), capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=60
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if found := re.search(r"edge-t[a-z2-7]{12}-[a-z2-7]+-[a-z2-7]+", done.stdout):
            self.token = found[0]
        if line.startswith("edge fleet approve attic"):
            enrolling = self.running.pop("edge device enroll")
            out, err = enrolling.communicate(timeout=30)
            assert enrolling.returncode == 0, err
            assert "This device is attic" in out

    def stay(self, line: str) -> None:
        name = " ".join(line.split()[:3])
        log = (self.folder / f"{name}.log").open("w+")
        kept = line.startswith("edge device enroll")
        stream = subprocess.PIPE if kept else log
        self.running[name] = process = subprocess.Popen(
            self.words(line), stdout=stream, stderr=stream, text=True, cwd=self.folder, env=self.environment
        )
        if line == "edge fleet up":
            until(lambda: "The fleet is up" in Path(log.name).read_text(), 30)
        elif line == "edge device run":
            until(lambda: self.devices()[0]["online"], 30)
        elif line.startswith("edge fleet simulate"):
            there = lambda: sum(bool(device["online"]) for device in self.devices())  # noqa: E731
            until(lambda: there() == 1 + _SIMULATED, 60)
        elif line.endswith("--watch"):
            time.sleep(3)
            assert process.poll() is None, Path(log.name).read_text()
            process.kill()
            assert "attic" in Path(log.name).read_text()
        else:
            if "edge device run" in self.running:  # the device was wiped: its agent is gone
                self.running.pop("edge device run").kill()
            until(lambda: process.poll() is not None or self.json("edge fleet pending --json"), 30)
            assert process.poll() is None, process.communicate()[1]
        log.close()

    def json(self, line: str) -> list[dict[str, object]]:
        return json.loads(  # type: ignore[no-any-return]
            subprocess.run(self.words(line), capture_output=True, text=True, env=self.environment, check=True).stdout
        )

    def devices(self) -> list[dict[str, object]]:
        return self.json("edge fleet devices --json")

    def end(self) -> None:
        for process in reversed(list(self.running.values())):
            process.terminate()
            process.wait(30)


@needs_mosquitto
def test_the_guide_works_from_its_first_command_to_its_last(tmp_path: Path, digits_bundle: Path) -> None:
    walk = Walk(tmp_path)
    shutil.copy(digits_bundle, tmp_path / "digits.edge")
    try:
        for line in commands():
            if line.startswith("edge "):
                walk.step(line)
        assert walk.devices() == []
        up = walk.running["edge fleet up"]
        up.terminate()
        assert up.wait(30) == 0
        assert "The fleet is down" in (tmp_path / "edge fleet up.log").read_text()
    finally:
        walk.end()
    assert (tmp_path / "audit.jsonl").read_text().count("\n") > 10


@pytest.mark.parametrize("group", ["fleet", "device"])
def test_every_command_is_in_the_reference(group: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text().partition(f"\n## edge {group}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([\w-]+)`", " ".join(line.split("|")[1] for line in text.splitlines() if "|" in line)))

    with click.Context(cli) as ctx:
        command = cli.get_command(ctx, group)
        assert isinstance(command, click.Group)
        names = command.list_commands(ctx)
        assert set(names) <= listed
        for name in names:
            found = command.get_command(ctx, name)
            assert found is not None and found.help
