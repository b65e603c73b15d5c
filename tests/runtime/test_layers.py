"""What `program_layers` says of programs whose layers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.runtime._core import Program
from edge.runtime.layers import program_layers
from tests.runtime.programs import program_folder

pytest.importorskip("executorch", reason="executorch is not installed: it writes the programs")


@pytest.fixture(scope="module")
def programs() -> Path:
    return program_folder()


def test_a_block_with_ternary_four_bit_and_float_layers(programs: Path) -> None:
    program = Program((programs / "edge_block.pte").read_bytes())
    found = [(layer.name, layer.kind, layer.bits, layer.shape, layer.bytes) for layer in program_layers(program)]
    assert found == [
        ("0 edge::add_quantized", "constant", 8.0, (4, 12), 48),
        ("2 edge::ternary_linear", "linear", 1.58, (36, 12), 36 * 3),
        ("4 edge::int_linear", "linear", 4.0, (12, 12), 12 * 6),
        ("5 edge::ternary_linear", "linear", 1.58, (20, 12), 20 * 3),
        ("6 edge::linear", "linear", 32.0, (12, 20), 4 * 12 * 20),
        ("7 edge::sequence_pool", "sequence_pool", 32.0, (12,), 48),
        ("8 edge::linear", "linear", 32.0, (5, 12), 240),
    ]
    assert [layer.macs for layer in program_layers(program) if "ternary" in layer.name] == [4 * 36 * 12, 4 * 20 * 12]


def test_convolutions(programs: Path) -> None:
    program = Program((programs / "edge_convolutions.pte").read_bytes())
    found = [(layer.kind, layer.bits, layer.shape) for layer in program_layers(program)]
    assert found == [
        ("conv2d", 32.0, (4, 2, 3, 3)),
        ("conv1x1", 1.58, (4, 4)),
        ("conv2d", 8.0, (4, 1, 3, 3)),
        ("conv1x1", 2.0, (4, 4)),
    ]


def test_zeros_are_counted_without_the_padding(programs: Path) -> None:
    ops = pytest.importorskip("edge.export.ops")
    torch = pytest.importorskip("torch")
    program = Program((programs / "edge_block.pte").read_bytes())
    trace = program.trace([np.zeros(shape, dtype=dtype) for dtype, shape in program.inputs])
    for layer in program_layers(program):
        if "ternary" in layer.name or "int_linear" in layer.name:
            packed = torch.from_numpy(trace[int(layer.name.split()[0])][1][1])
            codes = ops.unpack_codes(packed, layer.shape[1], layer.bits)
            assert layer.zero_fraction == pytest.approx(float((codes == 0).float().mean()))
