"""The 2-bit kernels beside what this CPU can multiply: `python benchmarks/kernel_peak.py --out FOLDER [--shapes …]`.

The share of the machine's own rate that the GEMM of ternary weights reaches, on one thread, for every instruction set
that this CPU has kernels for: of `vpdpbusd` or of `vpmaddubsw` and `vpaddw`, measured by the same program in turn with
the kernels. Kernels only: activations are quantized and weights packed before, the epilogue is in.

A shape is ROWSxINPUTSxOUTPUTS. The driver and the core's kernels are compiled with `--compiler` as a release build has
them. `--evex` adds the `avxvnni` kernels, in AVX-512's encoding, on a CPU that has only that one. Leave the machine
alone meanwhile.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from results import write

from edge.sdk.console import print_table
from edge.sdk.plots import save

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "runtime" / "core"
DRIVER = Path(__file__).with_name("kernel_peak") / "time_kernels.c"

FLAGS = ("-std=c11", "-O3", "-DNDEBUG", "-ffp-contract=off", "-fPIC")
"""As CMakeLists.txt has them for a release."""

SHAPES = ("196x576x2304", "196x2304x576", "1x2048x2048", "1x1024x1024")

RATES = {
    "avx512vnni": "vpdpbusd zmm",
    "avxvnni": "vpdpbusd ymm",
    "avx2": "vpmaddubsw+vpaddw",
    "neon_dotprod": "sdot",
    "neon": "smlal",
}
"""What each instruction set's kernels multiply by, as runtime/peak.c names it; SMMLA is not measured there."""

TARGETS = {"GEMM": 0.75, "GEMV": 0.62}
"""The share that is wanted at least."""


def build(folder: Path, compiler: str, evex: bool) -> Path:
    """The driver with the kernels and the machine's rates."""
    kernels = sorted(map(str, (CORE / "kernels").glob("**/*.c")))
    definitions = ["-DEDGE_AVXVNNI_EVEX"] if evex else []
    includes = [f"-I{CORE}", f"-I{CORE.parent}"]
    sources = [str(DRIVER), str(CORE.parent / "peak.c"), *kernels]
    program = folder / "time_kernels"
    subprocess.run([compiler, *FLAGS, *definitions, *includes, *sources, "-o", str(program), "-lm"], check=True)
    return program


def measure(program: Path, shapes: list[str], rounds: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Multiply-accumulates a second: of the instructions by name, and of the kernels with their share."""
    told = subprocess.run([program, str(rounds), *shapes], check=True, capture_output=True, text=True).stdout
    rates: dict[str, float] = {}
    results = []
    for line in told.splitlines():
        what, rest = line.split(" ", 1)
        if what == "rate":
            name, rate = rest.split(";")
            rates[name] = float(rate)
            continue
        isa, shape, rate = rest.split(";")
        if (roof := rates.get(RATES.get(isa, ""))) is not None:
            kind = "GEMV" if shape.startswith("1x") else "GEMM"
            result = {"isa": isa, "shape": shape, "kind": kind, "macs_per_second": float(rate)}
            results.append({**result, "instruction": RATES[isa], "share": float(rate) / roof, "wanted": TARGETS[kind]})
    return rates, results


def plot(path: Path, results: list[dict[str, Any]]) -> None:
    """A bar a kernel and shape, and a line where the wanted share ends."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.32 * len(results)), layout="constrained")
    labels = [f"{result['isa']} {result['shape']}" for result in results]
    axes.barh(labels, [100 * result["share"] for result in results], height=0.7)
    axes.plot([100 * result["wanted"] for result in results], labels, "k|", markersize=14)
    axes.set_xlim(0, 105)
    axes.invert_yaxis()
    axes.set_xlabel("% of the rate of the instruction it multiplies by, measured in the same run; line: wanted")
    figure.suptitle("GEMM and GEMV of ternary weights, one thread, kernel only", fontsize=10)
    save(figure, path)


def shape_of(text: str) -> str:
    if re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,4}x[1-9]\d{0,4}", text) is None:
        raise argparse.ArgumentTypeError(f"{text}: expected ROWSxINPUTSxOUTPUTS, as 196x576x2304")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="timed spells of each, of a millisecond (default 200)")
    parser.add_argument("--shapes", nargs="+", type=shape_of, default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--compiler", default=shutil.which("cc") or "gcc", help="default: cc")
    parser.add_argument("--evex", action="store_true", help="the avxvnni kernels in AVX-512's encoding")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON and the plot")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        program = build(Path(name), arguments.compiler, arguments.evex)
        rates, results = measure(program, arguments.shapes, arguments.rounds)
    version = subprocess.run([arguments.compiler, "--version"], check=True, capture_output=True, text=True).stdout
    print_table(
        ("instruction", "GMAC/s"), [(name, f"{rate / 1e9:.1f}") for name, rate in rates.items()], title="The machine"
    )
    print_table(
        ("kernels", "rows×inputs×outputs", "GMAC/s", "share", "wanted", "of"),
        [
            (
                result["isa"],
                result["shape"],
                f"{result['macs_per_second'] / 1e9:.1f}",
                f"{100 * result['share']:.1f} %",
                f"{100 * result['wanted']:.0f} %",
                result["instruction"],
            )
            for result in results
        ],
        title=f"Ternary weights, one thread, kernel only, best of {arguments.rounds} spells",
    )
    document = {"compiler": version.splitlines()[0], "flags": " ".join(FLAGS), "rounds": arguments.rounds}
    write(arguments.out, "kernel_peak", {**document, "evex": arguments.evex, "rates": rates, "results": results})
    plot(arguments.out / "kernel_peak.png", results)


if __name__ == "__main__":
    main()
