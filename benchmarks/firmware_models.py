"""Whole models on emulated microcontrollers: what they take of flash and RAM, their instructions, and whether they
answer as the core on this machine does.

    python benchmarks/firmware_models.py [--inputs 200] [--toolchain gcc] [--json FILE]

The two models of the project's promise at 1.58 bits, convolutions too: the DS-CNN keyword model (49×10 features, 12
words) on lm3s6965evb, and CCT-2/3x2 (32×32, 10 classes) on mps2-an386. Weights are random: what is compared are the
engines, not the models' merit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """A model, the board it must run on, and what it may take of it (bytes)."""

    model: str
    shape: tuple[int, int, int]
    classes: int
    board: str
    flash: int
    ram: int


CASES = (
    Case("ds_cnn", (1, 49, 10), 12, "lm3s6965evb", 256 << 10, 64 << 10),
    Case("cct_2_3x2", (3, 32, 32), 10, "mps2-an386", 384 << 10, 256 << 10),
)


def write_program(case: Case, path: Path) -> None:
    """Exports the case's model for its board, in a process of its own, because the exporters are noisy."""
    done = subprocess.run(
        [sys.executable, __file__, "--write", case.model, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])


def _write(case: Case, path: Path) -> None:
    import torch

    from edge.export.lower.freeze import freeze, in_layout
    from edge.export.lower.pte import to_pte
    from edge.export.models import ModelSpec, registry
    from edge.export.quantize import QuantConfig, ternarize
    from edge.firmware_bridge.board import find_board
    from edge.runtime.target import find_target

    keep = registry()[case.model].keep
    spec = ModelSpec(case.model, {"num_classes": case.classes, "input_shape": list(case.shape)})
    layout = find_target(find_board(case.board).target).layout
    torch.manual_seed(0)
    example = (torch.randn(1, *case.shape),)
    with torch.no_grad():
        model = ternarize(spec.build().eval(), config=QuantConfig(keep=keep, conv="ternary"))
        to_pte(in_layout(freeze(model, example), layout), example, path)


@dataclass(frozen=True)
class Outcome:
    """What a case came to: `same` top-1 answers and `equal` outputs, bit by bit, of `inputs`."""

    report: dict[str, Any]
    inputs: int
    same: int
    equal: int


def compare(case: Case, program: Path, folder: Path, inputs: int, toolchain: str = "zig") -> Outcome:
    """Builds firmware, starts it on the emulated board, and runs it beside the core of this machine."""
    from edge.firmware_bridge.board import find_board
    from edge.firmware_bridge.build import build_firmware, read_model
    from edge.firmware_bridge.device import Device
    from edge.firmware_bridge.emulate import start_board
    from edge.firmware_bridge.signature import FirmwareKey
    from edge.runtime.backends.core import open as open_core

    board, key = find_board(case.board), FirmwareKey.generate()
    made = build_firmware(
        read_model(program), board, folder / f"{case.model}.elf", key, toolchain=toolchain, learning=False
    )
    session = open_core(program.read_bytes(), 1)
    draw = np.random.default_rng(0)
    same = equal = 0
    with Device(start_board(board, made.elf), case.board, key) as device:
        for _ in range(inputs):
            x = draw.standard_normal((1, *case.shape)).astype(np.float32)
            device.write_inputs(x.tobytes())
            output = np.frombuffer(device.run()[0], np.float32)
            expected = session.run([x])[0].reshape(-1)
            same += int(output.argmax() == expected.argmax())
            equal += int(output.tobytes() == expected.tobytes())
    return Outcome(made.report.to_dict(), inputs, same, equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--toolchain", default="zig")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", nargs=2, metavar=("MODEL", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        _write(next(case for case in CASES if case.model == options.write[0]), Path(options.write[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            program = Path(scratch) / f"{case.model}.pte"
            write_program(case, program)
            outcome = compare(case, program, Path(scratch), options.inputs, options.toolchain)
            report = outcome.report
            flash, ram = report["flash"]["used"], report["ram"]["used"]
            print(
                f"{case.model} on {case.board}: flash {flash:,} of {case.flash:,}, code {report['flash']['code']:,},"
                f" RAM {ram:,} of {case.ram:,}, {report['instructions']:,} instructions a run; of "
                f"{outcome.inputs} inputs {outcome.same} the same top-1, {outcome.equal} the same bits"
            )
            rows.append({"model": case.model, "same": outcome.same, "equal": outcome.equal, **report})
    if options.json:
        options.json.write_text(json.dumps({"inputs": options.inputs, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
