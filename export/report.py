"""The report of an export: a markdown page and two plots, readable at a glance."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.runtime.errors import MissingDependency
from edge.runtime.manifest import EngineMetric, Manifest, Metrics
from edge.runtime.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edge.export.options import ExportResult

# Okabe and Ito's palette: told apart with any colour vision, and in print.
_QUANTIZED, _FLOAT, _GREY = "#0072B2", "#D55E00", "#999999"
_DPI = 130
_LARGEST_LAYERS = 12


def report_folder(bundle: Path) -> Path:
    """Where the report of a bundle lies: beside it, `digits-report/` for `digits.edge`."""
    return bundle.with_name(f"{bundle.stem}-report")


def write_report(result: ExportResult) -> Path:
    """Writes `report_folder(result.bundle)`: report.md, training.png and sizes.png.

    Args:
        result: What `export_model` made.

    Returns:
        The path of the markdown page.

    Raises:
        MissingDependency: matplotlib is not installed.
        EdgeError: The disk is full or the folder is not writable.
    """
    place = report_folder(result.bundle)
    place.mkdir(exist_ok=True)
    _write(place / "training.png", _png(_training_figure(result)))
    _write(place / "sizes.png", _png(_sizes_figure(result)))
    page = place / "report.md"
    _write(page, _page(result).encode())
    return page


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _figure(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Figure, Any]:
    """A figure that no global state of matplotlib knows of: it needs no display and leaks nothing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"the report needs {error.name}: pip install 'edge-deploy[export]', or export with --no-report"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", alpha=0.25)
    axes.set_axisbelow(True)


def _metrics(manifest: Manifest) -> Metrics:
    assert manifest.metrics is not None, "an export always measures"
    return manifest.metrics


def _bits_name(manifest: Manifest) -> str:
    """ "ternary (1.58-bit)", "4-bit" or "float"."""
    bits = manifest.quantization.bits if manifest.quantization else 32.0
    return {1.58: "ternary (1.58-bit)", 32.0: "float"}.get(bits, f"{bits:g}-bit")


def _series(history: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of those records of `history` that have a finite `key`."""
    points = [(row["epoch"], row[key]) for row in history if key in row and math.isfinite(row[key])]
    return [float(epoch) for epoch, _ in points], [float(value) for _, value in points]


def _training_figure(result: ExportResult) -> Figure:
    """Held-out accuracy above, training loss below, the quantized model and its float twin in each."""
    figure, (top, bottom) = _figure(7.5, 6.0, 2, 1, sharex=True)
    metrics = _metrics(result.manifest)
    runs: list[tuple[list[dict[str, Any]], str, str, float | None]] = [
        (result.history, _bits_name(result.manifest), _QUANTIZED, metrics.torch)
    ]
    if result.float_history:
        runs.append((result.float_history, "the same in float", _FLOAT, metrics.float))
    lowest = 1.0
    for history, name, colour, final in runs:
        epochs, accuracy = _series(history, "test_accuracy")
        shown = f"{name}: {100 * final:.2f} %" if final is not None else name
        top.plot(epochs, [100 * value for value in accuracy], "o-", markersize=3, color=colour, label=shown)
        lowest = min([lowest, *accuracy[len(accuracy) // 4 :]])
        epochs, loss = _series(history, "loss")
        bottom.plot(epochs, loss, color=colour, label=name)
    # The first quarter of the curve may start at chance: it would press the part that matters against the top.
    top.set_ylim(max(0.0, 100 * lowest - 3), 100.6)
    top.set_ylabel(f"held-out {metrics.metric}, %")
    top.set_title(f"{result.manifest.name}: training")
    top.legend(loc="lower right", frameon=False)
    bottom.set_ylabel("training loss")
    bottom.set_xlabel("epoch")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    _shade_phase_in(result.history, (top, bottom))
    for axes in (top, bottom):
        _clean(axes)
    return figure


def _shade_phase_in(history: list[dict[str, Any]], panels: tuple[Axes, ...]) -> None:
    """Shades the epochs in which quantization is being phased in (0 < λ < 1)."""
    epochs = [float(row["epoch"]) for row in history if 0 < row.get("lambda", 1) < 1]
    if not epochs:
        return
    for axes in panels:
        axes.axvspan(epochs[0], epochs[-1] + 1, color=_GREY, alpha=0.15, linewidth=0)
    panels[0].text(
        (epochs[0] + epochs[-1] + 1) / 2,
        0.95,
        "quantization\nphased in",
        transform=panels[0].get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=8,
        color="#555555",
    )


def _interval(share: float, samples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share observed on `samples` (Wilson 1927): what chance alone could give."""
    z = 1.96
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples)) / (1 + z * z / samples)
    return centre - half, centre + half


def _float_bytes(manifest: Manifest) -> int:
    """What the weights of the listed layers take in float32."""
    layers = manifest.quantization.layers if manifest.quantization else ()
    return 4 * sum(math.prod(layer.shape) for layer in layers)


def _rows(manifest: Manifest) -> list[tuple[str, EngineMetric, int]]:
    """Engine, its figures, and the size of the file it ran, as listed in the manifest."""
    return [
        (engine, metric, manifest.files[metric.file].bytes) for engine, metric in _metrics(manifest).engines.items()
    ]


def _sizes_figure(result: ExportResult) -> Figure:
    """One row an engine: the size of its file on the left, its accuracy with the 95 % interval on the right."""
    manifest = result.manifest
    metrics = _metrics(manifest)
    rows: list[tuple[str, int, float | None, int, str]] = [
        (f"{metric.file}\non {engine}", size, metric.value, metric.samples, _QUANTIZED)
        for engine, metric, size in _rows(manifest)
    ]
    rows.append(("float32 weights\nin torch", _float_bytes(manifest), metrics.float, metrics.samples, _FLOAT))
    figure, (left, right) = _figure(8.5, 1.4 + 0.55 * len(rows), 1, 2, sharey=True)
    largest = max(size for _, size, *_ in rows)
    for place, (_, size, accuracy, samples, colour) in enumerate(rows):
        left.barh(place, size / 1e3, color=colour, height=0.6)
        left.text((size + largest * 0.02) / 1e3, place, f"{size / 1e3:,.0f} kB", va="center", fontsize=9)
        if accuracy is None:
            continue
        low, high = _interval(accuracy, samples)
        right.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2, alpha=0.5)
        right.plot([100 * accuracy], [place], "o", color=colour)
        right.annotate(
            f"{100 * accuracy:.2f} %",
            (100 * accuracy, place),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    left.set_yticks(range(len(rows)), [name for name, *_ in rows])
    left.set_ylim(len(rows) - 0.5, -0.7)
    left.set_xlim(0, largest * 1.25 / 1e3)
    left.set_xlabel("size, kB")
    counts = " or ".join(str(count) for count in sorted({samples for *_, samples, _ in rows}))
    right.set_xlabel(f"{metrics.metric}, % (bar: 95 % interval, {counts} samples)")
    figure.suptitle(f"{manifest.name}: size and {metrics.metric}")
    for axes in (left, right):
        _clean(axes)
    return figure


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heading) + " |", "|" + "|".join(" --- " for _ in heading) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "not trained" if share is None else f"{100 * share:.2f} %"


def _page(result: ExportResult) -> str:
    manifest = result.manifest
    metrics = _metrics(manifest)
    float_bytes = _float_bytes(manifest)
    engines = _table(
        ("engine", "file", "size", "samples", metrics.metric, "agrees with torch", "largest difference"),
        [
            (
                engine,
                metric.file,
                f"{size:,} B",
                f"{metric.samples:,}",
                _percent(metric.value),
                _percent(metric.agreement),
                f"{metric.max_abs_error:.2g}",
            )
            for engine, metric, size in _rows(manifest)
        ],
    )
    spent = _table(("stage", "seconds"), [(stage, f"{seconds:.1f}") for stage, seconds in result.stages])
    notes = "".join(f"- {note}\n" for note in result.notes)
    sections = [
        f"# {manifest.name} {manifest.version}",
        f"{_bits_name(manifest).capitalize()} weights: **{_percent(metrics.torch)}** {metrics.metric} on "
        f"{metrics.samples} held-out samples; the same model in float: **{_percent(metrics.float)}**. "
        f"Its float32 weights would take {float_bytes:,} B.",
        f"Bundle: `{result.bundle.name}`, {result.bundle.stat().st_size:,} B, made {manifest.created}. "
        f"Task: {manifest.task}. Licence: {manifest.license}.",
        "![size and accuracy](sizes.png)",
        engines,
        "Each row was measured by running the exported file on that engine, on so many of the held-out samples.",
        "## Training",
        "![training curve](training.png)",
        spent,
        "## Largest layers",
        _layers_table(manifest),
    ]
    if notes:
        sections += ["## Notes", notes.rstrip()]
    sections.append(f"`edge inspect {result.bundle.name}` lists every layer.")
    return "\n\n".join(sections) + "\n"


def _layers_table(manifest: Manifest) -> str:
    layers = sorted(manifest.quantization.layers if manifest.quantization else (), key=lambda layer: -layer.bytes)
    return _table(
        ("layer", "kind", "bits", "shape", "bytes", "zeros", "MACs"),
        [
            (
                f"`{layer.name}`",
                layer.kind,
                f"{layer.bits:g}",
                "×".join(str(size) for size in layer.shape),
                f"{layer.bytes:,}",
                f"{100 * layer.zero_fraction:.1f} %",
                f"{layer.macs:,}",
            )
            for layer in layers[:_LARGEST_LAYERS]
        ],
    )
