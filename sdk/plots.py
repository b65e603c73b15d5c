"""Plots as PNG files. Imports matplotlib, which the extra [export] brings, so import this late."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt

from edge.runtime.whole_file import whole_file
from edge.sdk.console import format_ratio

if TYPE_CHECKING:
    from edge.runtime.bench.profile import OpRow, Profile

# Points of a roofline that carry their name; more would cover each other.
_NAMED = 8


def save(figure: Any, path: Path) -> None:
    """Writes a figure, whole or not at all, and closes it."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def plot_ratios(path: Path, title: str, panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A bar a row: how many times longer it takes than the measure, with the 10th to 90th percentile.

    Args:
        path: of the PNG.
        title: above all panels.
        panels: rows by the panel's heading; a row has "label", "min_seconds", "ratio", "ratio_p10" and "ratio_p90".
    """
    counts = [len(rows) for rows in panels.values()]
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(9, 1.2 + 0.32 * sum(counts) + 0.7 * len(counts)), squeeze=False,
        gridspec_kw={"height_ratios": [count + 1 for count in counts]}, layout="constrained",
    )  # fmt: skip
    for axes, (heading, rows) in zip(all_axes[:, 0], panels.items(), strict=True):
        ordered = sorted(rows, key=lambda row: float(row["ratio"]), reverse=True)
        ratios = [row["ratio"] for row in ordered]
        below = [max(0.0, row["ratio"] - row["ratio_p10"]) for row in ordered]
        above = [max(0.0, row["ratio_p90"] - row["ratio"]) for row in ordered]
        axes.barh(
            [row["label"] for row in ordered], ratios, xerr=[below, above], height=0.7, ecolor="gray",
            color=["tab:orange" if row["ratio"] == 1 else "tab:blue" for row in ordered],
        )  # fmt: skip
        for place, row in enumerate(ordered):
            axes.text(
                row["ratio_p90"],
                place,
                f"  {format_ratio(row['ratio'])}× ({row['min_seconds'] * 1e3:.3g} ms)",
                va="center",
            )
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_xlim(0, 1.35 * max(row["ratio_p90"] for row in ordered))
        axes.set_title(heading, fontsize=9, loc="left")
    all_axes[-1, 0].set_xlabel("time beside the first engine's; longer is slower")
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def plot_roofline(path: Path, title: str, profile: "Profile") -> None:
    """The operators under the machine's roofs, and how long each takes."""
    figure, (roof, bars) = plt.subplots(1, 2, figsize=(14, 5.5), layout="constrained")
    rows = [row for row in profile.rows if row.macs]
    _roofs(roof, profile, [row.intensity for row in rows])
    for number, row in enumerate(rows):
        colour = "tab:orange" if row.integer else "tab:blue"
        size = 20 + 600 * row.seconds / profile.total
        roof.scatter(row.intensity, row.ops_per_second / 1e9, s=size, color=colour, alpha=0.6)
        if number < _NAMED:
            roof.annotate(_label(row), (row.intensity, row.ops_per_second / 1e9), fontsize=7)
    roof.set_xscale("log")
    roof.set_yscale("log")
    roof.set_xlabel("operations for each byte read or written (a MAC is 2)")
    roof.set_ylabel("GOPS")
    roof.set_title("orange: int8, blue: float32; area: time", fontsize=9)
    roof.legend(fontsize=7, loc="upper left")
    slowest = profile.rows[:20][::-1]
    bars.barh(
        [_label(row) for row in slowest],
        [row.seconds * 1e3 for row in slowest],
        color=["lightgray" if not row.macs else "tab:orange" if row.integer else "tab:blue" for row in slowest],
    )
    for place, row in enumerate(slowest):
        share = profile.share(row)
        if share is not None:
            bars.text(row.seconds * 1e3, place, f" {100 * share:.1f} %", va="center", fontsize=7)
    bars.tick_params(axis="y", labelsize=7)
    bars.set_xlabel("milliseconds of a run; per cent: share of the peak")
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _roofs(axes: Any, profile: "Profile", intensities: Sequence[float]) -> None:
    """Lines of the best that is possible at each intensity, by arithmetic and by memory."""
    low, high = min(intensities, default=1.0) / 4, max(intensities, default=1.0) * 4
    peak = profile.peak
    for kind, rates, colour in (("int8", peak.int8, "tab:orange"), ("float32", peak.float32, "tab:blue")):
        name = max(rates, key=lambda each: rates[each])
        top = profile.threads * rates[name]
        corner = min(max(top / peak.read, low), high)
        axes.plot([corner, high], [top / 1e9] * 2, color=colour, label=f"{kind}, {name}: {top / 1e9:.0f} GOPS")
    steep = max(*peak.int8.values(), *peak.float32.values()) * profile.threads / peak.read
    end = min(high, max(steep, low))
    axes.plot(
        [low, end], [low * peak.read / 1e9, end * peak.read / 1e9], color="gray", linestyle="--",
        label=f"memory: {peak.read / 1e9:.0f} GB/s",
    )  # fmt: skip


def _label(row: "OpRow") -> str:
    shape = "×".join(map(str, row.shape))
    times = f" ·{row.count}" if row.count > 1 else ""
    return f"{row.op.removesuffix('.out')} {shape}{times}"
