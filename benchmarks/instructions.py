"""How many instructions the ARM kernels take: `python benchmarks/instructions.py [--out FILE]`.

Cross-compiles the kernels for aarch64 as a release build does and runs each under qemu-aarch64 with a plugin that
counts instructions. Figures are instructions per multiply-accumulate (per value, for the quantizer), of one call after
the first: weights are packed by then; unpacking, loads and the epilogue are in, the quantization of activations is a
kernel of its own. They are the same on every machine with the same compiler; time under an emulator means nothing.

Writes benchmarks/results/instructions.json, which tests hold the kernels to, and prints it as a table. Needs
aarch64-linux-gnu-gcc, a C compiler of this machine, and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu
libc6-dev-arm64-cross qemu-user).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "runtime" / "core"
SOURCES = Path(__file__).with_name("instructions")
RESULTS = Path(__file__).with_name("results") / "instructions.json"

COMPILER = "aarch64-linux-gnu-gcc"
FLAGS = ("-std=c11", "-O3", "-DNDEBUG", "-ffp-contract=off", "-fPIC")
"""As CMakeLists.txt has them for a release."""

ISAS = ("neon", "neon_dotprod", "neon_i8mm")
GEMMS = ("qd8_f32_qc2w", "qd8_f32_qc4w", "qd8_f32_qc8w")
SHAPES = ((48, 256, 256), (48, 1024, 256), (1, 256, 256), (1, 1024, 1024))
"""Rows, values of k, outputs."""

TARGETS = {"neon": 0.20, "neon_dotprod": 0.09, "neon_i8mm": 0.055}
"""What the 2-bit GEMM of 48 rows may take at most."""


def missing() -> str:
    """What this machine lacks for the measurement, or ""."""
    lacking = [name for name in (COMPILER, "qemu-aarch64") if shutil.which(name) is None]
    if not host_compiler():
        lacking.append("cc")
    if lacking:
        return ", ".join(lacking)
    help_text = subprocess.run(["qemu-aarch64", "-help"], capture_output=True, text=True).stdout
    return "" if "-plugin" in help_text else "qemu-aarch64 with plugins"


def host_compiler() -> str | None:
    """The compiler of this machine, for the plugin."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiler_version() -> str:
    """The first line of the cross compiler's --version."""
    return subprocess.run([COMPILER, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


def build(folder: Path) -> list[str]:
    """Compiles the plugin and the driver; returns the command to which the driver's arguments are added."""
    plugin, driver = folder / "count_instructions.so", folder / "run_kernel"
    plugin_source, driver_source = SOURCES / "count_instructions.c", SOURCES / "run_kernel.c"
    kernels = sorted(map(str, (CORE / "kernels").glob("**/*.c")))
    host = host_compiler()
    assert host is not None
    subprocess.run([host, "-O2", "-shared", "-fPIC", str(plugin_source), "-o", str(plugin)], check=True)
    command = [COMPILER, *FLAGS, f"-I{CORE}", str(driver_source), *kernels, "-o", str(driver), "-lm", "-static"]
    subprocess.run(command, check=True)
    return ["qemu-aarch64", "-cpu", "max", "-plugin", str(plugin), str(driver)]


def instructions(command: list[str], isa: str, kernel: str, shape: tuple[int, int, int]) -> int:
    """Instructions of one run of a kernel: what a program that runs it twice takes beyond one that runs it once."""

    def total(times: int) -> int:
        words = [*command, isa, kernel, *map(str, shape), str(times)]
        told = subprocess.run(words, check=True, capture_output=True, text=True).stderr
        found = re.search(r"instructions (\d+)", told)
        assert found is not None, told
        return int(found[1])

    return total(2) - total(1)


def measure() -> dict[str, Any]:
    """All figures, with what they depend on."""
    figures = []
    with tempfile.TemporaryDirectory() as name:
        command = build(Path(name))
        for isa in ISAS:
            for kernel in GEMMS:
                for rows, k, n in SHAPES:
                    count = instructions(command, isa, kernel, (rows, k, n)) / (rows * k * n)
                    figures.append({"isa": isa, "kernel": kernel, "rows": rows, "k": k, "n": n, "per MAC": count})
        count = instructions(command, "neon", "f32_qd8_quantize", (16, 256, 1)) / (16 * 256)
        figures.append({"isa": "neon", "kernel": "f32_qd8_quantize", "rows": 16, "k": 256, "per value": count})
    emulator = subprocess.run(["qemu-aarch64", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "compiler": compiler_version(),
        "flags": " ".join(FLAGS),
        "emulator": emulator.splitlines()[0],
        "targets": TARGETS,
        "figures": [{key: round(v, 4) if isinstance(v, float) else v for key, v in f.items()} for f in figures],
    }


def show(results: dict[str, Any]) -> None:
    """The figures as a table."""
    print(f"{results['compiler']}, {results['flags']}")
    print(f"{'kernel':28} {'instructions':13} rows x k x n")
    for figure in results["figures"]:
        unit = "per MAC" if "per MAC" in figure else "per value"
        shape = " x ".join(str(figure[key]) for key in ("rows", "k", "n") if key in figure)
        print(f"{figure['kernel']:16} {figure['isa']:13} {figure[unit]:.4f} {unit:9} {shape}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file to write (default: %(default)s)")
    arguments = parser.parse_args()
    if lacking := missing():
        sys.exit(f"instructions.py: not on this machine: {lacking} (Debian: gcc-aarch64-linux-gnu qemu-user gcc)")
    results = measure()
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
