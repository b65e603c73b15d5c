"""Whole models on the core beside every peer: `python benchmarks/models.py --out FOLDER [--models ds_cnn …]`.

Batch 1, through the public API, all engines in turn in one process. Weights are random, as time does not depend on
them; the peers are what `edge bench --against` makes (see docs/cli.md), the first time in minutes, then from the cache.
"""

from __future__ import annotations

from typing import Any

from results import options, parse, seen_as, write

from edge.export.models import registry
from edge.export.peers.compare import Comparison, compare_untrained
from edge.export.peers.forms import INT8_ATTENTION, PEERS, TERNARY, Architecture, select
from edge.sdk.console import format_ratio, format_seconds, format_share, print_table, progress
from edge.sdk.plots import plot_ratios

SHAPES = {"cct_7_3x1": (3, 32, 32), "cct_2_3x2": (3, 32, 32), "ds_cnn": (1, 49, 40)}


def measure(name: str, engines: list[str], rounds: int, threads: int, int8_attention: bool) -> Comparison:
    """One model beside all forms of the engines named."""
    info = registry()[name]
    shape = SHAPES.get(name, info.input_shape)
    architecture = Architecture(name, {"num_classes": info.num_classes, "input_shape": list(shape)}, (1, *shape))
    forms = [*(TERNARY[engine] for engine in engines if engine in TERNARY), *select(engines)]
    core = INT8_ATTENTION if int8_attention else TERNARY["core"]
    return compare_untrained(architecture, forms, rounds, threads, progress(), core)


def main() -> None:
    parser = options(__doc__, rounds=30)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=sorted(registry()), metavar="MODEL")
    parser.add_argument("--against", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="ENGINE")
    parser.add_argument(
        "--attention", default="float", choices=("float", "int8"), help="of the core's own model, as in `edge export`"
    )
    arguments = parse(parser)
    records: dict[str, Any] = {}
    panels: dict[str, Any] = {}
    for name in arguments.models:
        comparison = measure(
            name, arguments.against, arguments.rounds, arguments.threads, arguments.attention == "int8"
        )
        rows = [
            {"name": row.title, **row.timing.to_dict(), "error_to_torch": row.error_to_torch} for row in comparison.rows
        ]
        best = comparison.fastest_peer
        records[name] = {
            "results": rows,
            "skipped": comparison.skipped,
            "fastest_peer": best and {"name": best.title, "ratio": best.timing.ratio},
        }
        panels[name] = [{**row, "label": row["name"]} for row in rows]
        show(name, comparison, arguments.threads)
    write(
        arguments.out,
        "models",
        {"threads": arguments.threads, "rounds": arguments.rounds, "attention": arguments.attention, "models": records},
    )
    plot_ratios(
        arguments.out / "models.png", f"Whole models, batch 1, {arguments.threads} thread(s){seen_as()}", panels
    )


def show(name: str, comparison: Comparison, threads: int) -> None:
    print_table(
        ("engine", "off torch", "min", "median", "time / core", "10th to 90th %"),
        [
            (
                row.title,
                format_share(row.error_to_torch, 1),
                format_seconds(row.timing.minimum),
                format_seconds(row.timing.median),
                format_ratio(row.timing.ratio),
                f"{format_ratio(row.timing.low)} to {format_ratio(row.timing.high)}",
            )
            for row in comparison.rows
        ],
        title=f"{name}, batch 1, {threads} thread(s)",
    )
    for what, reason in comparison.skipped.items():
        print(f"skipped {what}: {reason}")
    best = comparison.fastest_peer
    if best is not None:
        print(
            f"{name}: the fastest peer, {best.title}, takes {format_ratio(best.timing.ratio)} × the core's time\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
