"""Layouts of ternary weights in numpy and in the core, and files for microcontrollers on every engine of a host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.export import reference
from edge.runtime._core import CoreError, Program, isas, run_op
from edge.runtime.layouts import LAYOUTS, layout_of, pack_layout, row_bytes, unpack_layout
from edge.runtime.target import TARGETS

DEPTHS = (1, 2, 4, 5, 7, 8, 9, 20, 33, 40, 41, 59, 63, 64, 65, 100, 129, 200)
OUTPUTS = (1, 2, 3, 7, 8, 9, 10, 16, 33)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpacking_gives_what_was_packed(layout: str) -> None:
    rng = np.random.default_rng(1)
    for n in OUTPUTS:
        for k in DEPTHS:
            codes = rng.integers(-1, 2, size=(n, k)).astype(np.int8)
            packed = pack_layout(codes, layout)
            assert packed.shape[:2] == (n, row_bytes(layout, k)) and layout_of(packed) == layout
            assert np.array_equal(unpack_layout(packed, k), codes), (n, k)


def test_bytes_by_hand() -> None:
    """One output pair and an odd output, as docs/operators.md draws them."""
    codes = np.int8([[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0, 0], [1, -1, 0, 0, 0, 0, 0, 1]])
    word = 0
    for step, (low, high) in enumerate([(0, 2), (1, 3), (4, 6), (5, 7)]):
        lanes = 0
        for lane, column in enumerate((low, high)):
            lanes |= ((int(codes[0, column]) + 1) | (int(codes[1, column]) & 3) << 14) << 16 * lane
        word |= (lanes << 4 * step | lanes >> (32 - 4 * step)) & 0xFFFFFFFF
    assert pack_layout(codes, "pairs").tobytes() == word.to_bytes(4, "little") + bytes([0x52, 0x95])
    assert pack_layout(codes, "trits").ravel().tolist() == [182, 60, 67, 69, 69, 190]
    assert pack_layout(codes, "planes").shape == (3, 2, 1, 1, 1)
    assert pack_layout(codes, "rows").tobytes() == reference.pack_codes(codes, 1.58).tobytes()


def test_no_layout_takes_more_than_a_quarter_of_int8() -> None:
    for layout in LAYOUTS:
        assert all(4 * row_bytes(layout, k) <= k for k in (64, 256, 288, 1024) if k % 8 == 0)
    assert row_bytes("trits", 1000) == 200


def test_targets_name_layouts() -> None:
    assert {target.layout for target in TARGETS} == set(LAYOUTS)
    for target in TARGETS:
        assert target.formats == ("pte",) or target.layout == "rows"


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_instruction_set_runs_every_layout(layout: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ISA", isa)
    rng = np.random.default_rng(2)
    for n in OUTPUTS:
        for k in DEPTHS:
            x = rng.normal(size=(3, k)).astype(np.float32)
            packed = pack_layout(rng.integers(-1, 2, size=(n, k)).astype(np.int8), layout)
            out = np.empty((3, n), np.float32)
            run_op("edge::ternary_linear.out", [x, packed, np.float32([0.3]), None, None, -1.0, 0, False, out])
            wanted = reference.ternary_linear(x, packed, np.float32([0.3]), None, None, -1.0)
            assert out.tobytes() == wanted.tobytes(), (n, k)


@pytest.mark.parametrize(
    ("shape", "told"),
    [((4, 4, 1), "packed has 4 bytes a row, expected 2"), ((4, 2, 2), r"packed has shape \[4, 2, 2\]")],
)
def test_wrong_shapes_are_refused(shape: tuple[int, ...], told: str) -> None:
    arguments = [np.zeros((1, 8), np.float32), np.zeros(shape, np.uint8), np.float32([1]), None, None, -1.0, 0, False]
    with pytest.raises(CoreError, match=told):
        run_op("edge::ternary_linear.out", [*arguments, np.empty((1, 4), np.float32)])


def test_other_weights_have_no_layouts() -> None:
    arguments = [np.zeros((1, 8), np.float32), np.zeros((4, 2, 1), np.uint8), np.float32([1]), None, None, 2, -1.0, 0]
    with pytest.raises(CoreError, match="expected 2 dimensions"):
        run_op("edge::int_linear.out", [*arguments, np.empty((1, 4), np.float32)])


def test_a_model_lowered_for_a_microcontroller(tmp_path: Path) -> None:
    """The same program in each layout: the same answers; trits take a fifth less."""
    pytest.importorskip("executorch", reason="executorch is not installed: it writes the programs")
    import torch
    from torch import nn

    from edge.export.lower.freeze import freeze
    from edge.export.lower.pte import to_pte
    from edge.export.quantize import ternarize

    torch.manual_seed(0)
    model = ternarize(nn.Sequential(nn.Linear(120, 90), nn.ReLU(), nn.Linear(90, 7)))
    x = torch.randn(1, 120)
    frozen = freeze(model, (x,))
    answers, sizes = {}, {}
    for layout in LAYOUTS:
        path = tmp_path / f"{layout}.pte"
        sizes[layout] = to_pte(frozen, (x,), path, layout=layout)["bytes"]
        answers[layout] = Program(path.read_bytes()).run([x.numpy()])[0].tobytes()
    assert len(set(answers.values())) == 1
    assert sizes["trits"] < sizes["rows"] - 90 * 120 // 25
