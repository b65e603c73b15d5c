"""Accuracy and time of the default job over several seeds: `python benchmarks/digits.py --seeds 0 1 2 --out FOLDER`.

Each seed is one run of `edge export --bits 1.58 --seed N`, as a user would type it: another split of the digits, other
initial weights, another order. Writes digits.json and digits.png and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def export(seed: int, extra: list[str]) -> dict[str, Any]:
    """What one export answers, with its wall time."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "edge.sdk.cli", "export", "--bits", "1.58", "--seed", str(seed), "--json"]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "-o", f"{folder}/digits.edge", *extra], check=True, stdout=subprocess.PIPE, text=True
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return {
            "seed": seed,
            "ternary": answer["accuracy"],
            "float": answer["float_accuracy"],
            "engines": {name: metric["value"] for name, metric in answer["metrics"]["engines"].items()},
            "agreement": {name: metric["agreement"] for name, metric in answer["metrics"]["engines"].items()},
            "seconds": answer["seconds"],
            "wall": time.perf_counter() - started,
        }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Ternary beside float, a pair of points a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3))
    for key, marker in (("ternary", "o"), ("float", "x")):
        axes.plot([str(row["seed"]) for row in rows], [100 * row[key] for row in rows], marker, label=key)
    axes.axhline(99.0, color="gray", linewidth=0.8, linestyle="--")
    axes.set_xlabel("seed (split, initial weights, order)")
    axes.set_ylabel("accuracy on the held-out 20 %, %")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    arguments, extra = parser.parse_known_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in arguments.seeds:
        rows.append(export(seed, extra))
        row = rows[-1]
        print(
            f"seed {seed}: ternary {row['ternary']:.2%}, float {row['float']:.2%}, "
            f"least agreement {min(row['agreement'].values()):.2%}, {row['wall']:.0f} s",
            flush=True,
        )
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    (arguments.out / "digits.json").write_text(json.dumps({"machine": machine, "runs": rows}, indent=1) + "\n")
    plot(rows, arguments.out / "digits.png")


if __name__ == "__main__":
    main()
