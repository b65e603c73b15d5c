"""Ternary layers on the core beside every engine: `python benchmarks/layers.py --out FOLDER [--shapes 2048x2048 …]`.

`--ggml` and `--bitnet` take your checkouts of llama.cpp (or ggml) and microsoft/BitNet; see ggml_peers.py.

A shape is ROWS:INPUTSxOUTPUTS, rows 1 (a GEMV) where not given. Each is one program an engine: a chain of distinct
layers there and back, long enough that their ternary weights exceed a 1 MB L2. All engines quantize the activations,
none normalizes them; they run in turn in one process, so that ratios of time are ratios per multiply-accumulate.

Of an engine's settings (activations quantized dynamically or statically; INT2 by ai-edge-quantizer or our own export)
the fastest is the one in the table; all are in layers.json. Making the peers' files takes minutes, once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from chain import build
from ggml_peers import ENGINES, Library, build_library
from results import options, parse, seen_as, write

from edge.export.peers.forms import PEERS, TERNARY, Architecture
from edge.export.peers.make import make_peers, open_peers
from edge.runtime.bench.timing import Timing, run_of, time_in_turn
from edge.runtime.errors import EdgeError, Unsupported
from edge.sdk.console import format_ratio, print_table, progress
from edge.sdk.plots import plot_ratios

SHAPES = (
    "256x256", "512x512", "1024x1024", "2048x2048", "4096x4096",
    "64:256x1024", "64:576x2304", "64:1024x1024", "196:256x1024", "196:576x2304", "196:1024x1024",
)  # fmt: skip

# Ternary bytes of a whole chain: twice the L2 of most cores of this class.
STREAMED = 2 << 20
LONGEST = {True: 64, False: 32}
"""Layers of a chain at most, a GEMV's and a GEMM's."""

# What a column of the table compares with: the fastest of these.
GROUPS = {
    "XNNPACK int8": ("executorch int8 dynamic", "executorch int8 static"),
    "LiteRT int8": ("litert int8 dynamic", "litert int8 static"),
    "LiteRT int2": ("litert int2 dynamic", "litert 1.58 bits"),
    "onnxruntime int8": ("onnx int8 dynamic", "onnx int8 static"),
    "onnxruntime int4": ("onnx int4 dynamic",),
    "torch fp32": ("torch fp32",),
    **{engine.title: (engine.title,) for engine in ENGINES.values()},
}
_TITLES = [title for titles in GROUPS.values() for title in titles]
FORMS = [
    TERNARY["core"],
    *(form for forms in (*PEERS.values(), (TERNARY["litert"],)) for form in forms if form.title in _TITLES),
]


@dataclass(frozen=True)
class Shape:
    """A layer of `inputs` x `outputs` for `rows` rows of activations."""

    rows: int
    inputs: int
    outputs: int
    layers: int

    @classmethod
    def parse(cls, text: str, layers: int | None) -> Shape:
        found = re.fullmatch(r"(?:(\d+):)?(\d+)x(\d+)", text)
        if found is None or not all(int(number) for number in found.groups("1")):
            raise SystemExit(f"{text}: expected [ROWS:]INPUTSxOUTPUTS, as 64:256x1024")
        rows, inputs, outputs = (int(number) for number in found.groups("1"))
        # Four weights a byte; an even number of layers, so that the chain ends as wide as it began.
        fitting = 4 * STREAMED // (inputs * outputs) // 2 * 2
        return cls(rows, inputs, outputs, layers or min(max(fitting, 2), LONGEST[rows == 1]))

    @property
    def widths(self) -> list[int]:
        return [(self.inputs, self.outputs)[place % 2] for place in range(self.layers + 1)]

    @property
    def macs(self) -> int:
        return self.rows * self.inputs * self.outputs * self.layers

    def __str__(self) -> str:
        return f"{self.rows}:{self.inputs}x{self.outputs}"


def measure(
    shape: Shape, engines: list[str], libraries: list[Library], rounds: int, threads: int
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Timings by engine and form, the core's first, and by form why one could not be measured."""
    source = f"{Path(__file__).with_name('chain.py')}:build"
    architecture = Architecture(source, {"widths": shape.widths}, (shape.rows, shape.inputs), norm=False)
    with progress() as display:
        peers = make_peers(architecture, [form for form in FORMS if form.engine in ("core", *engines)], display)
    with ExitStack() as stack:
        opened, failed = open_peers(stack, peers, threads)
        runs: dict[str, Callable[[], object]] = {form.title: run_of(peer.model) for form, peer in opened.items()}
        for library in libraries:
            try:
                runs[library.engine.title] = stack.enter_context(library.open(shape.widths, shape.rows, threads))
            except Unsupported as error:
                failed[library.engine.title] = str(error)
        torch.manual_seed(0)
        chain, given = build(shape.widths).eval(), torch.randn(shape.rows, shape.inputs)

        def run_torch() -> object:
            with torch.inference_mode():
                return chain(given)

        return time_in_turn({**runs, "torch fp32": run_torch}, rounds), failed


def built(arguments: argparse.Namespace) -> list[Library]:
    """The engines whose checkouts were named; a wrong one ends the script with a line."""
    try:
        return [
            build_library(engine, getattr(arguments, option))
            for option, engine in ENGINES.items()
            if getattr(arguments, option) is not None
        ]
    except EdgeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def absent(libraries: list[Library]) -> set[str]:
    return {engine.title for engine in ENGINES.values()} - {library.engine.title for library in libraries}


def fastest(times: dict[str, Timing], titles: tuple[str, ...]) -> Timing | None:
    return min((times[title] for title in titles if title in times), key=lambda timing: timing.minimum, default=None)


def main() -> None:
    parser = options(__doc__, rounds=30)
    parser.add_argument(
        "--shapes", nargs="+", default=list(SHAPES), metavar="SHAPE", help="by default all of the claim"
    )
    parser.add_argument("--layers", type=int, help="length of every chain; by default as many as it takes to stream")
    parser.add_argument("--against", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="ENGINE")
    for engine in ENGINES.values():
        parser.add_argument(
            f"--{engine.option}",
            type=Path,
            metavar="FOLDER",
            help=f"checkout of {engine.expected}: adds {engine.title}",
        )
    arguments = parse(parser)
    torch.set_num_threads(arguments.threads)
    shapes = [Shape.parse(text, arguments.layers) for text in arguments.shapes]
    libraries = built(arguments)
    groups = {title: forms for title, forms in GROUPS.items() if title not in absent(libraries)}
    rows, records, panels = [], [], {}
    for shape in shapes:
        times, failed = measure(shape, arguments.against, libraries, arguments.rounds, arguments.threads)
        if "core 1.58 bits" not in times:
            raise SystemExit(f"{shape}: {failed['core 1.58 bits']}")
        core = times["core 1.58 bits"]
        best = {name: fastest(times, titles) for name, titles in groups.items()}
        rows.append(
            (
                shape,
                shape.layers,
                f"{2e-9 * shape.macs / core.minimum:.1f}",
                *(
                    t and f"{format_ratio(t.ratio)} ({format_ratio(t.low)} to {format_ratio(t.high)})"
                    for t in best.values()
                ),
            )
        )
        results = [
            {"name": name, **timing.to_dict(), "gops": 2e-9 * shape.macs / timing.minimum}
            for name, timing in times.items()
        ]
        records.append(_record(shape, results, best, failed))
        panels[f"{shape}, {shape.layers} layers"] = [{**row, "label": row["name"]} for row in results]
        print(f"{shape}: core {core.minimum * 1e3:.3f} ms, {rows[-1][2]} GOPS", flush=True)
        for name, reason in failed.items():
            print(f"{shape}: without {name}: {reason}", flush=True)
    print_table(
        ("rows:inputs×outputs", "layers", "core GOPS", *groups),
        rows,
        title=f"Time of each engine's fastest setting / core (10th to 90th %), {arguments.threads} thread(s), "
        f"{arguments.rounds} rounds",
    )
    for engine in ENGINES.values():
        if engine.title in absent(libraries):
            print(f"without {engine.title}: --{engine.option} names no checkout")
    write(arguments.out, "layers", {"threads": arguments.threads, "rounds": arguments.rounds, "shapes": records})
    plot_ratios(arguments.out / "layers.png", f"Chains of ternary layers, time beside the core's{seen_as()}", panels)


def _record(
    shape: Shape, results: list[dict[str, Any]], best: dict[str, Timing | None], failed: dict[str, str]
) -> dict[str, Any]:
    return {
        "shape": str(shape),
        "layers": shape.layers,
        "macs": shape.macs,
        "ops_per_mac": 2,
        "results": results,
        "ratios": {name: timing and timing.ratio for name, timing in best.items()},
        "failed": failed,
    }


if __name__ == "__main__":
    main()
