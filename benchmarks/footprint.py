"""What the base install costs a device: `python benchmarks/footprint.py BUNDLE [--python PATH] [--out FOLDER]`.

Measures, in fresh processes of the given interpreter (by default the one that runs this): the import of edge.runtime
beyond numpy's own, `edge --help`, and the peak memory of loading and running BUNDLE on the core. Times are minimum and
median of many, because other work on a machine only ever adds. Writes footprint.json and footprint.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORT = (
    "import time; a = time.perf_counter(); import numpy; b = time.perf_counter(); import edge.runtime; "
    "edge.runtime.load; c = time.perf_counter(); print(b - a, c - b)"
)
NUMPY_ONLY = "import numpy"
RUN = (
    "import sys, numpy as np; from edge.runtime import load; model = load(sys.argv[1], backend='core'); "
    "[model(np.zeros(model.inputs[0].shape, np.float32)) for _ in range(3)]"
)
MEMORY = "; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def summary(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "runs": len(values)}


def measure(python: str, bundle: Path, runs: int) -> dict[str, object]:
    """All figures of one interpreter: seconds and kilobytes."""
    beyond, numpy_alone, helps = [], [], []
    for _ in range(runs):
        first, second = map(float, run(python, "-I", "-c", IMPORT).split())
        numpy_alone.append(first)
        beyond.append(second)
        started = time.perf_counter()
        run(python, "-I", "-m", "edge.sdk.cli", "--help")
        helps.append(time.perf_counter() - started)
    return {
        "machine": f"{platform.machine()}, {platform.system()}, Python {run(python, '-V').split()[1]}",
        "import numpy": summary(numpy_alone),
        "import edge.runtime beyond numpy": summary(beyond),
        "edge --help": summary(helps),
        "peak kB of numpy alone": int(run(python, "-I", "-c", NUMPY_ONLY + MEMORY)),
        "peak kB with the bundle run": int(run(python, "-I", "-c", RUN + MEMORY, str(bundle))),
        "bundle bytes": bundle.stat().st_size,
    }


def plot(figures: dict[str, object], path: Path) -> None:
    """Two panels: milliseconds and megabytes, each beside its limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    times = {
        "import edge.runtime\nbeyond numpy": ("import edge.runtime beyond numpy", 150),
        "edge --help": ("edge --help", 300),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    for place, (key, limit) in enumerate(times.values()):
        value = figures[key]["min"] * 1e3  # type: ignore[index]
        left.barh(place, limit, color="lightgray")
        left.barh(place, value, label=key)
        left.text(value, place, f" {value:.0f} ms", va="center")
    left.set_yticks(range(len(times)), list(times))
    left.set_xlabel("milliseconds (grey: the limit)")
    for place, key in enumerate(("peak kB of numpy alone", "peak kB with the bundle run")):
        value = figures[key] / 1e3  # type: ignore[operator]
        right.barh(place, 60, color="lightgray")
        right.barh(place, value)
        right.text(value, place, f" {value:.0f} MB", va="center")
    right.set_yticks([0, 1], ["numpy alone", "model loaded\nand run"])
    right.set_xlabel("megabytes resident (grey: the limit)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment to measure")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = measure(arguments.python, arguments.bundle, arguments.runs)
    (arguments.out / "footprint.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    try:
        plot(figures, arguments.out / "footprint.png")
    except ModuleNotFoundError:
        print("no plot: matplotlib is not installed here", file=sys.stderr)


if __name__ == "__main__":
    main()
