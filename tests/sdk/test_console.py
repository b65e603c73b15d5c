"""Figures, tables and the plain progress."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from edge.sdk import console


def test_figures() -> None:
    assert console.format_bytes(999) == "999 B"
    assert console.format_bytes(1_396_224) == "1.40 MB"
    assert console.format_bytes(None) is None
    assert console.format_count(42_100_000) == "42.1 M"
    assert console.format_count(7) == "7"
    assert console.format_share(0.99444) == "99.44 %"
    assert console.format_ratio(1.2345) == "1.23"
    assert console.format_ratio(0.03121) == "0.031"
    assert console.format_seconds(2.5e-5) == "25.0 µs"
    assert console.format_seconds(0.00213) == "2.13 ms"
    assert console.format_seconds(83.2) == "1 min 23 s"


def test_a_table_keeps_names_as_they_are_and_does_not_fold_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    name = "classifier[0].blocks." + "x" * 1200
    console.print_table(("layer", "MACs"), [(name, "42"), ("b", None)], title="[bold]")
    printed = capsys.readouterr().out
    assert name in printed
    assert "[bold]" in printed
    assert printed.splitlines()[-1].split() == ["b", "-"]


def test_plain_progress_is_a_line_a_stage_and_one_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with console.PlainProgress() as progress:
        progress.stage("train", 100)
        for step in range(1, 101):
            progress.update(step, loss=0.5, accuracy=0.9944)
        progress.update(100)
        progress.stage("write")
        progress.note("left out .tflite")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "train"
    assert lines[1].startswith("train 100/100  loss 0.5  accuracy 99.44 %  took ")
    assert lines[2:] == ["write", "left out .tflite"]


def test_plain_progress_says_how_long_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("edge.sdk.console.time.monotonic", lambda: now)
    progress = console.PlainProgress()
    progress.stage("train", 100)
    now = 0.5
    progress.update(1)
    now = 11.0
    progress.update(25)
    assert capsys.readouterr().err.splitlines()[-1] == "train 25/100  left 33.0 s"


def test_plain_progress_times_only_what_it_saw(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("edge.sdk.console.time.monotonic", lambda: now)
    progress = console.PlainProgress()
    progress.stage("run .pte on core", 360)
    progress.update(360)
    progress.stage("train", 1000)  # a training that goes on from its half
    progress.update(500)
    now = 20.0
    progress.update(600)
    progress.update(1000)
    assert capsys.readouterr().err.splitlines() == [
        "run .pte on core",
        "run .pte on core 360/360",
        "train",
        "train 600/1000  left 1 min 20 s",
        "train 1000/1000",
    ]


def test_plain_progress_does_not_repeat_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.PlainProgress()
    progress.stage("lower to .pte")
    progress.stage("lower to .pte")
    progress.stage("lower to .pte", 5)
    progress.note("left out .onnx")
    progress.note("left out .onnx")
    progress.stage("lower to .pte")
    assert capsys.readouterr().err.splitlines() == [
        "lower to .pte",
        "left out .onnx",
        "left out .onnx",
        "lower to .pte",
    ]
    progress.stage("verify on executorch", 360)
    progress.update(360)
    progress.stage("lower to .pte")
    progress.stage("verify on executorch", 360)
    progress.update(360)
    assert capsys.readouterr().err.splitlines() == ["verify on executorch", "verify on executorch 360/360"]


def _drawn(width: int, name: str, total: int, done: int, elapsed: float, **figures: float) -> str:
    """The line of a running stage on a terminal of so many columns."""
    now = 0.0
    bars = Progress(get_time=lambda: now)
    task = bars.add_task(name, total=total, figures=console._figures(dict(figures)))
    now = elapsed
    bars.update(task, completed=done)
    now = 2 * elapsed
    bars.update(task, completed=2 * done)
    out = io.StringIO()
    screen = Console(file=out, width=width)
    screen.print(console._StageColumn().render(bars.tasks[0]))
    assert len(out.getvalue().splitlines()) == 1
    return out.getvalue().rstrip()


def test_all_that_matters_fits_80_columns_and_the_bar_goes_first() -> None:
    training = {"loss": 0.5712, "accuracy": 0.99443, "test": 0.99167}
    words = "12000/90000  3:15 left  loss 0.5712  accuracy 99.44 %  test 99.17 %"
    for name in ("train", "float twin"):
        wide = _drawn(120, name, 90_000, 6_000, 15.0, **training)
        assert wide == f"{name}  {'━' * 24}  {words}"
        assert _drawn(79, name, 90_000, 6_000, 15.0, **training).endswith(words)  # the spinner takes one
    assert _drawn(79, "train", 90_000, 6_000, 15.0, **training) == f"train  {words}"
    hours = _drawn(79, "float twin", 90_000, 300, 15.0, **training)
    assert "1:14:30 left" in hours and "accuracy 99.44 %" in hours


def test_on_a_narrow_terminal_the_last_figures_go_and_then_the_names_end() -> None:
    narrow = _drawn(48, "train", 660, 165, 10.0, loss=0.5712, accuracy=0.99443, test=0.99167)
    assert narrow == "train  330/660  0:20 left  loss 0.5712"
    cut = _drawn(40, "verify on executorch, lower to .tflite", 360, 90, 1.0)
    assert cut == "verify on executorc…  180/360  0:02 left"


def test_terminal_progress_draws_on_standard_error_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", terminal)
    with console.progress() as progress:
        assert isinstance(progress, console.TerminalProgress)
        progress.stage("train", 10)
        progress.update(10, loss=0.25, stage_name="late")
        progress.note("a [note]")
        progress.stage("write")
    drawn = terminal.getvalue()
    assert "train" in drawn
    assert "loss 0.25" in drawn
    assert "a [note]" in drawn
    assert capsys.readouterr().out == ""
