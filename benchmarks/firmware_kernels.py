"""How many instructions ternary layers take on microcontrollers: `python benchmarks/firmware_kernels.py [--out FILE]`.

Each case is one operator of the core as the firmware runs it, float32 in and float32 out: quantization of the
activations, product and epilogue are in (a linear has one scale, a convolution one an output), and images have their
channels last, as they have between convolutions. The board is emulated (unicorn; the M55 by QEMU), counts are exact and
the same on every machine with the same compiler, and the result is held to the numpy oracle bit by bit. CMSIS-NN's
counts, of its int8 kernels of the same shapes at gcc -O3, are the design's.

Writes benchmarks/results/firmware_kernels.json (of what it measures; other records stay), which tests hold the kernels
to, and prints it as a table. zig's counts need pip's packages alone (edge-deploy[firmware]); gcc's are added where
arm-none-eabi-gcc and riscv64-unknown-elf-gcc are installed.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.export import reference
from edge.firmware_bridge.board import find_board
from edge.firmware_bridge.compile import build_elf
from edge.firmware_bridge.emulate import start_board
from edge.firmware_bridge.toolchain import Source, find_toolchain
from edge.runtime.errors import EdgeError, MissingDependency
from edge.runtime.layouts import pack_layout
from edge.runtime.target import find_target

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "runtime" / "core"
MEASURE = Path(__file__).with_name("firmware_kernels") / "measure.c"
RESULTS = Path(__file__).with_name("results") / "firmware_kernels.json"

FLAGS = ("-O3", "-DEDGE_BARE_METAL", "-DEDGE_NO_THREADS", "-DNDEBUG")
BOARDS = ("mps2-an386", "mps2-an500", "mps2-an505", "lm3s6965evb", "microbit", "riscv32-virt", "mps3-an547")
TOOLCHAINS = ("zig", "gcc")

ICOUNT = ("-icount", "shift=6,sleep=off")
TICK_NANOSECONDS = 31.25
"""Of SysTick on the one board that only QEMU has, mps3-an547, whose clock has 32 MHz."""

KEY = ("case", "board", "toolchain")
"""What a record is of."""

PEERS: dict[str, dict[str, float]] = {
    "cortex-m4": {"linear": 2.07, "conv": 1.93},
    "cortex-m7": {"linear": 2.07, "conv": 1.93},
    "cortex-m33": {"linear": 2.07, "conv": 1.93},
    "cortex-m3": {"linear": 3.49},
    "cortex-m0": {"linear": 6.39},
    "cortex-m55": {"linear": 0.52},
}
"""Instructions a MAC of CMSIS-NN's s8 kernels."""

MUSTS: dict[str, dict[str, float]] = {
    "cortex-m4": {"linear": 2.2, "conv": 2.3},
    "cortex-m3": {"linear": 2.5},
    "cortex-m0": {"linear": 2.8},
}
"""How many times fewer than CMSIS-NN's they must be."""


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Attributes:
        name: As "linear 256 256".
        op: The operator.
        arguments: In the schema's order, without the output; ternary weights, argument 1, as codes [N, K].
        macs: Of the call.
        kind: "linear" or "conv", what it is compared with, or "".
    """

    name: str
    op: str
    arguments: tuple[Any, ...]
    macs: int
    kind: str


def toolchain_version(name: str) -> str | None:
    """The version of a compiler for ARM, or None where it is not installed."""
    try:
        return find_toolchain(name, "cortex-m4").version
    except MissingDependency:
        return None


def cases() -> list[Case]:
    """The shapes that are measured."""
    rng = np.random.default_rng(0)
    made = []
    for k, n in ((256, 256), (1024, 128), (64, 10)):
        codes = rng.integers(-1, 2, size=(n, k)).astype(np.int8)
        x, bias = (rng.normal(size=(1, size)).astype(np.float32) for size in (k, n))
        arguments = (x, codes, np.float32([0.02]), bias[0], None, -1.0, 0, False)
        made.append(Case(f"linear {k} {n}", "ternary_linear", arguments, n * k, "linear" if n > 10 else ""))
    x = rng.normal(size=(1, 64, 5, 5)).astype(np.float32)
    codes = rng.integers(-1, 2, size=(64, 64)).astype(np.int8)
    arguments = (x, codes, *_scaled(rng, 64), None, -1.0, 1)
    made.append(Case("conv1x1 64 64 at 5x5", "ternary_conv1x1", arguments, 25 * 64 * 64, ""))
    for side, kind in ((16, "conv"), (5, "")):
        x = rng.normal(size=(1, 32, side, side)).astype(np.float32)
        codes = rng.integers(-1, 2, size=(32, 288)).astype(np.int8)
        arguments = (x, codes, *_scaled(rng, 32), None, [3, 3], [1, 1], [1, 1], [1, 1], 1)
        name = f"conv2d 3x3 32 32 at {side}x{side}"
        made.append(Case(name, "ternary_conv2d", arguments, side * side * 32 * 288, kind))
    for name, (c, o, kernel, groups), (h, w) in (
        ("conv2d_int8 depthwise 3x3 64 at 25x5", (64, 64, (3, 3), 64), (25, 5)),
        ("conv2d_int8 10x4 1 64 at 25x5", (1, 64, (10, 4), 1), (49, 10)),
    ):
        x = rng.normal(size=(1, c, h, w)).astype(np.float32)
        codes = rng.integers(-127, 128, size=(o, c // groups, *kernel)).astype(np.int8)
        stride, padding = ([1, 1], [1, 1]) if groups > 1 else ([2, 2], [5, 1])
        arguments = (x, codes, *_scaled(rng, o), None, stride, padding, [1, 1], groups, 1)
        macs = 125 * o * codes[0].size
        made.append(Case(name, "conv2d_int8", arguments, macs, ""))
    return made


def _scaled(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A scale and a bias an output, as a folded BatchNorm leaves them."""
    return rng.uniform(0.01, 0.03, size=n).astype(np.float32), rng.normal(size=n).astype(np.float32)


def in_layout(codes: NDArray[np.int8], layout: str) -> NDArray[Any]:
    """Ternary weights packed; int8 ones, of four dimensions, as they are."""
    return codes if codes.ndim == 4 else pack_layout(codes, layout)


def wanted(case: Case) -> NDArray[np.float32]:
    """The oracle's result."""
    arguments = [in_layout(a, "rows") if i == 1 else a for i, a in enumerate(case.arguments)]
    result: NDArray[np.float32] = getattr(reference, case.op)(*arguments)
    return result


def header(case: Case, layout: str) -> str:
    """case.h: the call as constants that lie in flash."""
    lines = [
        '#include "op.h"',
        f"extern const edge_op edge_op_edge_{case.op};",
        f"#define CASE_OP edge_op_edge_{case.op}",
    ]
    fills: list[str] = []
    tensors = 0
    result = np.empty(wanted(case).shape, np.float32)
    for i, argument in enumerate((*case.arguments, result)):
        value = f"values[{i}]"
        packed = in_layout(argument, layout) if i == 1 else argument
        match packed:
            case None:
                fills.append(f"{value}.kind = EDGE_NONE;")
            case bool():
                fills.append(f"{value}.kind = EDGE_BOOLEAN; {value}.as.boolean = {int(packed)};")
            case int():
                fills.append(f"{value}.kind = EDGE_INT; {value}.as.integer = {packed};")
            case float():
                fills.append(f"{value}.kind = EDGE_DOUBLE; {value}.as.real = {packed!r};")
            case list():
                lines.append(f"static const int64_t list{i}[] = {{{', '.join(map(str, packed))}}};")
                fills.append(
                    f"{value}.kind = EDGE_INT_LIST; {value}.count = {len(packed)}; {value}.as.integers = list{i};"
                )
            case _:
                is_output = packed is result
                image = packed.ndim == 4 and packed.dtype == np.float32
                data = "NULL"
                if not is_output:
                    lines.append(_array(f"data{i}", packed.transpose(0, 2, 3, 1) if image else packed))
                    data = f"(void *)(uintptr_t)data{i}"
                sizes = ", ".join(map(str, packed.shape))
                dtype = {"uint8": "EDGE_UINT8", "int8": "EDGE_INT8"}.get(packed.dtype.name, "EDGE_FLOAT32")
                fills.append(
                    f"{value}.kind = EDGE_TENSOR; {value}.as.tensor = (edge_tensor){{.data = {data}, "
                    f".bytes = {packed.nbytes}, .sizes = {{{sizes}}}, .rank = {packed.ndim}, .dtype = {dtype}, "
                    f".constant = {int(i == 1)}, .channels_last = {int(image)}}};"
                )
                tensors += 1
    count = len(fills)
    lines += [f"#define CASE_VALUES {count}", "static inline void case_fill(edge_value *values) {", *fills, "}"]
    lines.append(
        f"static inline edge_tensor *case_output(edge_value *values) {{ return &values[{count - 1}].as.tensor; }}"
    )
    return "\n".join(lines) + "\n"


def _array(name: str, values: NDArray[Any]) -> str:
    flat = values.ravel()
    if flat.dtype != np.float32:
        return (
            f"static const {flat.dtype.name}_t {name}[] __attribute__((aligned(16))) = {{{', '.join(map(str, flat))}}};"
        )
    words = ", ".join(map(str, flat.view(np.uint32)))
    return f"static const uint32_t {name}[] __attribute__((aligned(16))) = {{{words}}};"


def core_sources() -> list[Source]:
    """The core's files; the linker leaves out what no case needs."""
    names = ["dtype.c", "error.c", "threads.c"]
    names += [f"ops/{name}.c" for name in ("args", "edge_args", "convolution", "quantized_linear", "table", "weights")]
    return [Source(path) for path in (*(CORE / name for name in names), *sorted(CORE.glob("kernels/**/*.c")))]


def measure(case: Case, board_name: str, toolchain_name: str, folder: Path) -> int:
    """Instructions that the case takes; its result is the oracle's to the last bit.

    Raises:
        MissingDependency: A compiler or emulator is not installed.
        EdgeError: It does not build or run, or gives another result.
    """
    board = find_board(board_name)
    if board.flash.holds(board.storage.origin):  # a case's weights are in the code's part of the flash
        storage = replace(board.storage, origin=board.flash.end - 4 * board.storage.erase_bytes)
        board = replace(board, storage=replace(storage, bytes=4 * board.storage.erase_bytes))
    counted = board.unicorn is not None
    if not counted and board.qemu is not None:  # QEMU's clock advances by 64 ns an instruction
        board = replace(board, qemu=replace(board.qemu, options=(*board.qemu.options, *ICOUNT)))
    toolchain = find_toolchain(toolchain_name, board.cpu)
    # A folder each: compiled files are kept by the path of what they include.
    folder = Path(tempfile.mkdtemp(dir=folder))
    (folder / "case.h").write_text(header(case, find_target(board.target).layout))
    elf = folder / "measure.elf"
    build_elf(
        board, toolchain, [Source(MEASURE, ("-I", str(folder))), *core_sources()], elf, include=[CORE], flags=FLAGS
    )
    with start_board(board, elf) as running:
        told = _read(running, 6)
        if told != b"case \n":
            while not told.endswith(b"\n") and (more := running.read(200, 5.0)):
                told += more
            raise EdgeError(f"{case.name} on {board_name}: {told.decode(errors='replace').strip()}")
        empty, taken, size = struct.unpack("<III", _read(running, 12))
        result = np.frombuffer(_read(running, size), np.float32)
    shape = wanted(case).shape
    if len(shape) == 4:
        result = np.ascontiguousarray(result.reshape(shape[0], *shape[2:], shape[1]).transpose(0, 3, 1, 2))
    if result.tobytes() != wanted(case).tobytes():
        differing = int((result.ravel().view(np.uint32) != wanted(case).ravel().view(np.uint32)).sum())
        raise EdgeError(f"{case.name} on {board_name}: {differing} of {result.size} values are not the oracle's")
    return int(taken - empty) if counted else round((taken - empty) * TICK_NANOSECONDS / 64)


def _read(port: Any, size: int) -> bytes:
    data, end = b"", time.monotonic() + 120
    while len(data) < size and time.monotonic() < end:
        data += port.read(size - len(data), 1.0)
        if data.startswith(b"fail"):
            break
    return data


def figures(boards: tuple[str, ...], toolchains: tuple[str, ...], chosen: str = "") -> list[dict[str, Any]]:
    """One record a case, board and toolchain."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for board_name in boards:
            target = find_board(board_name).target
            for toolchain_name in toolchains:
                for case in cases():
                    if chosen not in case.name:
                        continue
                    try:
                        taken = measure(case, board_name, toolchain_name, Path(folder))
                    except MissingDependency as error:
                        print(f"left out: {error}", file=sys.stderr)
                        break
                    except EdgeError as error:
                        if "too little memory" not in str(error):
                            raise
                        print(f"left out: {error}", file=sys.stderr)
                        continue
                    record: dict[str, Any] = {"case": case.name, "board": board_name, "target": target}
                    record |= {"toolchain": toolchain_name, "instructions": taken, "macs": case.macs}
                    record["weight bytes"] = in_layout(case.arguments[1], find_target(target).layout).size
                    record["per MAC"] = round(taken / case.macs, 4)
                    peer = PEERS.get(target, {}).get(case.kind)
                    if peer is not None:
                        record["CMSIS-NN s8 per MAC"] = peer
                        record["times fewer"] = round(peer * case.macs / taken, 2)
                    must = MUSTS.get(target, {}).get(case.kind)
                    if must is not None:
                        record["must"] = must
                    records.append(record)
                    print(*(f"{value}" for value in record.values()), sep="\t", flush=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON")
    parser.add_argument("--board", action="append", choices=BOARDS, help="only these")
    parser.add_argument("--toolchain", action="append", choices=TOOLCHAINS, help="only these")
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    arguments = parser.parse_args()
    versions = {name: version for name in TOOLCHAINS if (version := toolchain_version(name)) is not None}
    for board in arguments.board or BOARDS:
        records = figures((board,), tuple(arguments.toolchain or TOOLCHAINS), arguments.case)
        kept = json.loads(arguments.out.read_text())["figures"] if arguments.out.exists() else []
        known = {tuple(record[key] for key in KEY): record for record in (*kept, *records)}
        document = {"flags": list(FLAGS), "toolchains": versions, "figures": list(known.values())}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
