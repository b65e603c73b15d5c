"""What people see: tables on standard output, progress on standard error. Imports rich, so import it late."""

import re
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import (
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
)
from rich.table import Table
from rich.text import Text

# "12", "-", "1.40 MB", "99.4 %", "64×1×3×3"; not "0 edge::conv2d".
_FIGURE = re.compile(r"-|[−-]?\d[\d.,×e+-]*( [%\wµ]{1,3})?")

# A pipe has no width: wide enough that no cell is folded, however long its path. A table takes only what it needs.
_PIPE_WIDTH = 10_000


def console(*, stderr: bool = False) -> Console:
    """A console on the present standard output or error, with markup off: names and paths are shown as they are."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, soft_wrap=not stream.isatty())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Prints a table; a column whose cells are all figures is set flush right.

    Args:
        columns: Headings.
        rows: One cell a column; None is shown as "-".
        title: A line above the table.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, heading in enumerate(columns):
        column = [row[index] for row in cells]
        numeric = any(column) and all(_FIGURE.fullmatch(cell) for cell in column)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    out = console()
    if title:
        out.print(Text(title, style="bold"))
    out.print(table)


def format_bytes(count: int | None) -> str | None:
    """1,396,224 -> "1.40 MB" (decimal units, as the limits of the project are given)."""
    if count is None:
        return None
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def format_count(count: int | None) -> str | None:
    """42,100,000 -> "42.1 M"."""
    if count is None:
        return None
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def format_share(share: float | None, digits: int = 2) -> str | None:
    """0.9943 -> "99.43 %"."""
    return None if share is None else f"{100 * share:.{digits}f} %"


def format_ratio(ratio: float) -> str:
    """1.2345 -> "1.23"; 0.0312 -> "0.031"."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def format_seconds(seconds: float) -> str:
    """0.00213 -> "2.13 ms"; 83 -> "1 min 23 s"."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _figures(values: dict[str, float | str]) -> list[str]:
    """{"loss": 0.31, "accuracy": 0.9943} -> ["loss 0.31", "accuracy 99.43 %"]."""
    parts = []
    for name, value in values.items():
        if isinstance(value, str):
            shown = value
        elif name in ("accuracy", "test", "agreement"):
            shown = f"{100 * value:.2f} %"
        else:
            shown = f"{value:.4g}"
        parts.append(f"{name} {shown}")
    return parts


def _clock(seconds: float | None) -> str:
    """72 -> "1:12"; 3,672 -> "1:01:12"; None -> "-:--"."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class _StageColumn(ProgressColumn):
    """A stage in one line: name, bar, "12/40", time, figures."""

    def render(self, task: Task) -> "_StageLine":
        return _StageLine(task)


class _StageLine:
    """Fits the terminal's width whatever the other stages' lines need.

    Where it is narrow the bar shrinks and goes first, then the figures from the last on, then the name's end.
    """

    _WIDEST_BAR, _NARROWEST_BAR = 24, 6

    def __init__(self, task: Task) -> None:
        self._task = task

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        task, width = self._task, options.max_width
        # A stage of unknown length that ended counts as one unit.
        counted = task.total is not None and task.total > 1
        units = [(f"{int(task.completed)}/{int(task.total)}", "progress.download")] if counted and task.total else []
        if counted and not task.finished:
            time_ = f"{_clock(task.time_remaining)} left", "progress.remaining"
        else:
            time_ = _clock(task.finished_time if task.finished else task.elapsed), "progress.elapsed"
        figures = [(figure, "") for figure in task.fields["figures"]]
        name = task.description

        def spare() -> int:
            return width - cell_len(name) - sum(2 + cell_len(text) for text, _ in (*units, time_, *figures))

        while figures and spare() < 0:
            figures.pop()
        if spare() < 0:
            name = name[: max(1, cell_len(name) + spare() - 1)] + "…"
        line = Text(name, no_wrap=True)
        bar = min(self._WIDEST_BAR, spare() - 2)
        if counted and bar >= self._NARROWEST_BAR and len(figures) == len(task.fields["figures"]):
            done = round(bar * task.percentage / 100)
            style = "bar.finished" if task.finished else "bar.complete"
            line.append("  ").append("━" * done, style).append("━" * (bar - done), "bar.back")
        for text, style in (*units, time_, *figures):
            line.append("  ").append(text, style)
        yield line


class TerminalProgress:
    """A bar a stage, with its figures and the time that is left (an `edge.export.progress.Progress`).

    A context manager: the bars are drawn while it is open.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            _StageColumn(),
            console=console(stderr=True),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        if self._task is not None:
            done = self._bars.tasks[-1].total or 1
            self._bars.update(self._task, total=done, completed=done)

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self._task = self._bars.add_task(name, total=total, figures=[])

    def update(self, done: int, **values: float | str) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, figures=_figures(values))

    def note(self, text: str) -> None:
        self._bars.console.print(text)


class PlainProgress:
    """The same in plain lines, for logs and pipes: one when a stage starts, then one every few seconds.

    A stage may be told of when it has long been running (a child process's, a training that is resumed): times are
    told only of what was seen.
    """

    _EVERY_SECONDS = 10.0
    # The share of a stage that may be done at its first update if it is to count as seen from its beginning.
    _BEGINNING = 0.1

    def __init__(self) -> None:
        self._name = ""
        self._total: int | None = None
        self._started = self._shown = 0.0
        self._first: int | None = None  # what was done when the clock started; None before the first update
        self._ended = False
        self._told: set[str] = set()

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stage(self, name: str, total: int | None = None) -> None:
        self._name, self._total = name, total
        self._started = self._shown = time.monotonic()
        self._first = None
        self._ended = False
        self._print_once(name)

    def update(self, done: int, **values: float | str) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = 0 if self._at_beginning(done) else done
            if self._first:
                self._started = now
        last = self._total is not None and done >= self._total
        if self._ended or (not last and now - self._shown < self._EVERY_SECONDS):
            return
        self._shown, self._ended = now, last
        elapsed = now - self._started
        parts = [f"{self._name} {done}" + (f"/{self._total}" if self._total else "")]
        if values:
            parts.extend(_figures(values))
        if last and not self._first:
            parts.append(f"took {format_seconds(elapsed)}")
        elif not last and self._total and done > self._first:
            parts.append(f"left {format_seconds(elapsed * (self._total - done) / (done - self._first))}")
        self._print_once("  ".join(parts))

    def _at_beginning(self, done: int) -> bool:
        """Whether a first update with `done` units comes early enough to time the stage from its announcement."""
        return self._total is None or (done < self._total and done <= max(1, self._BEGINNING * self._total))

    def note(self, text: str) -> None:
        self._told.clear()
        self._print(text)

    def _print_once(self, text: str) -> None:
        """Prints a line, unless it was printed before (work that is done side by side comes and goes)."""
        if text not in self._told:
            self._told.add(text)
            self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 (a log line, which rich would fold)


def progress() -> TerminalProgress | PlainProgress:
    """The progress display that suits standard error."""
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()
