"""Child processes of an export: what they tell, what is shown of it, and what happens when nobody listens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.export.child import Child, ChildFailed
from edge.export.children import Children

_HEAD = """\
import sys, time
from pathlib import Path
from edge.export.child import report_progress, run_child
from edge.runtime.errors import BadInput

def work():
"""


class Seen:
    """A `Progress` that notes what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.updates: list[tuple[int, dict[str, float | str]]] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append((name, total))

    def update(self, done: int, **values: float | str) -> None:
        self.updates.append((done, values))

    def note(self, text: str) -> None: ...


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Writes a module called NAME whose child does BODY, and returns its folder."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")

    def make(name: str, body: str) -> Path:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        (tmp_path / f"{name}.py").write_text(f"{_HEAD}{lines}\nsys.exit(run_child(Path(sys.argv[1]), work))\n")
        folder = tmp_path / f"{name}-folder"
        folder.mkdir()
        return folder

    return make


def test_a_child_that_nobody_listens_to_is_not_held_up(job: Callable[[str, str], Path]) -> None:
    folder = job("chatty", "for step in range(5000): report_progress('train', step, 5000, loss=0.123456789)\nreturn {}")
    child = Child("chatty", folder)  # tells 400 kB; a pipe holds 64
    try:
        child._process.wait(timeout=60)
        assert child.result() == {}
        assert child.poll()
        assert child.latest["stage"] == "train"
    finally:
        child.stop()


def test_children_are_shown_in_one_line_and_the_first_that_ends_is_told(job: Callable[[str, str], Path]) -> None:
    wait = "while not Path(sys.argv[1], 'go').exists(): time.sleep(0.02)\nreturn {}"
    folders = {
        "counts": job("counts", f"report_progress('verify', 3, 7, accuracy=0.5)\n{wait}"),
        "works": job("works", f"report_progress('lower')\n{wait}"),
    }
    seen = Seen()
    children = Children(seen)
    update = seen.update

    def let_go(done: int, **values: float | str) -> None:
        update(done, **values)
        if seen.stages[-1][0] == "verify, lower":
            (folders["works"] / "go").touch()

    seen.update = let_go  # type: ignore[method-assign]
    try:
        started = [children.start(name, folder) for name, folder in folders.items()]
        children.wait(started, "begin", until_first=True)
        assert [child.poll() for child in started] == [False, True]
        (folders["counts"] / "go").touch()
        children.wait(started, "rest", title="again")
        assert all(child.poll() for child in started)
    finally:
        children.stop()
    assert seen.stages[0] == ("begin", None)
    assert ("verify, lower", 7) in seen.stages
    assert {name for name, _ in seen.stages[seen.stages.index(("again: rest", None)) :]} <= {
        "again: rest",
        "again: verify",
    }
    assert (3, {"accuracy": 0.5}) in seen.updates


def test_a_failure_is_the_childs_own_line_or_the_end_of_its_log(job: Callable[[str, str], Path]) -> None:
    children = Children(Seen())
    meant = children.start("meant", job("meant", "raise BadInput('x.zip: no images')"))
    crash = children.start("crash", job("crash", "raise ZeroDivisionError('by nought')"))
    children.wait([meant, crash], "work")
    with pytest.raises(ChildFailed, match=r"^x\.zip: no images$"):
        meant.result()
    with pytest.raises(ChildFailed, match="exit status 1: ZeroDivisionError: by nought"):
        crash.result()
    children.stop()


@pytest.mark.quiet
def test_stop_ends_what_runs(job: Callable[[str, str], Path]) -> None:
    children = Children(Seen())
    sleeper = children.start("sleeper", job("sleeper", "time.sleep(600)"))
    started = time.monotonic()
    children.stop()
    children.stop()
    assert sleeper._process.returncode is not None
    assert time.monotonic() - started < 10
