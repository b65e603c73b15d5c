"""What models need of a microcontroller's memory: `python benchmarks/ram.py [--out FILE]`.

Exports untrained models of the registry as `edge export --conv ternary` would for a microcontroller, cross-compiles the
core for 32-bit ARM without threads, and asks it under qemu-arm what each program needs with the scalar kernels: RAM is
the arena, the largest operator's temporary memory, and the core's tables; flash is the .pte, which is read in place.
Stack, the protocol's buffers and the code are the firmware's own. Kernels of a microcontroller may take some more
temporary memory, and `edge firmware build` prints what it is on a board.

Needs arm-linux-gnueabihf-gcc and qemu-arm (Debian: gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CORE = Path(__file__).resolve().parents[1] / "runtime" / "core"
SOURCE = Path(__file__).with_name("ram") / "measure.c"
COMPILER = "arm-linux-gnueabihf-gcc"
FLAGS = ("-std=c11", "-O2", "-static", "-DEDGE_NO_THREADS", "-ffp-contract=off")
FIELDS = ("total", "state", "arena", "scratch", "packed")

# Name → (model of the registry, shape of its input, bytes of RAM and of flash that it may take).
MODELS: dict[str, tuple[str, tuple[int, int, int], int, int]] = {
    "ds_cnn 49x10": ("ds_cnn", (1, 49, 10), 48 << 10, 64 << 10),
    "cct_2_3x2 32x32": ("cct_2_3x2", (3, 32, 32), 200 << 10, 300 << 10),
}


def missing() -> str:
    """What this machine lacks, or ""."""
    return next((tool for tool in (COMPILER, "qemu-arm") if shutil.which(tool) is None), "")


def export(name: str, shape: tuple[int, int, int], path: Path) -> None:
    """Writes an untrained ternary model as a program."""
    import torch

    from edge.export.lower.freeze import freeze
    from edge.export.lower.pte import to_pte
    from edge.export.models import registry
    from edge.export.quantize import QuantConfig, ternarize

    torch.manual_seed(0)
    info = registry()[name]
    model = info.factory(**{**info.kwargs, "input_shape": shape}).eval()
    example = (torch.randn(1, *shape),)
    frozen = freeze(ternarize(model, info.keep, config=QuantConfig(conv="ternary")), example)
    to_pte(frozen, example, path)


def measure(folder: Path) -> list[dict[str, Any]]:
    """The figures of all models, in bytes; programs and the measuring program are left in `folder`."""
    sources = [*CORE.glob("*.c"), *CORE.glob("ops/*.c"), *CORE.glob("kernels/*.c"), *CORE.glob("kernels/*/*.c")]
    command = [COMPILER, *FLAGS, f"-I{CORE}", str(SOURCE), *map(str, sorted(sources)), "-lm", "-o", "measure"]
    subprocess.run(command, cwd=folder, check=True)
    figures = []
    for name, (model, shape, most_ram, most_flash) in MODELS.items():
        path = folder / f"{model}.pte"
        export(model, shape, path)
        line = subprocess.run(["qemu-arm", folder / "measure", path], check=True, capture_output=True, text=True).stdout
        parts = dict(zip(FIELDS, map(int, line.split()), strict=True))
        limits = {"most RAM": most_ram, "most flash": most_flash}
        figures.append({"model": name, "pte": path.stat().st_size, **parts, **limits})
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"{lacking}: not found (Debian: gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user)")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    print(f"{'bytes':18}" + "".join(f"{field:>10}" for field in ("RAM", *FIELDS[1:], ".pte")))
    for one in figures:
        print(f"{one['model']:18}" + "".join(f"{one[field]:10,}" for field in (*FIELDS, "pte")))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
