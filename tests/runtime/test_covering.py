"""Outputs that lie on inputs: the bits of a plan in which they do not, on every engine, instruction set and thread."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edge.runtime._core import Program, covered_arguments, isas, operators
from tests.runtime.programs import program_folder


@pytest.fixture(scope="module")
def programs() -> dict[str, bytes]:
    return {name: (program_folder() / f"{name}.pte").read_bytes() for name in ("covering", "covering_apart")}


def inputs() -> list[np.ndarray]:
    return [np.random.default_rng(3).normal(size=(2, 3, 9, 7)).astype(np.float32)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", isas())
def test_results_are_those_of_tensors_apart(
    programs: dict[str, bytes], isa: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wanted,) = Program(programs["covering_apart"]).run(inputs())
    monkeypatch.setenv("EDGE_ISA", isa)
    program, apart = (Program(programs[name], threads) for name in ("covering", "covering_apart"))
    assert program.isa == isa and program.arena_bytes < 0.6 * apart.arena_bytes
    for one in (program, apart):
        for _ in range(2):  # the second run finds what the first one left
            (got,) = one.run(inputs())
            assert np.array_equal(got.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("c++")), reason="the op library needs a compiler")
def test_executorch_gives_the_same(programs: dict[str, bytes]) -> None:
    pytest.importorskip("executorch")
    from edge.runtime.backends import executorch

    (wanted,) = Program(programs["covering_apart"]).run(inputs())
    (got,) = executorch.open(programs["covering"], 1).run(inputs())
    assert np.array_equal(got.view(np.uint32), wanted.view(np.uint32))


def test_only_operators_with_kernels_of_ours_declare_it() -> None:
    covering = {name for name in operators() if covered_arguments(name)}
    assert covering and all(name.startswith("edge::") for name in covering)
    assert covered_arguments("edge::linear.out") == covered_arguments("aten::add.out") == ()


def test_an_exported_model_uses_it(tmp_path: Path) -> None:
    """A separable block: depthwise and pointwise convolutions of one size, a residual, all in place."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("executorch")
    from torch import nn

    from edge.export.lower.freeze import freeze
    from edge.export.lower.pte import to_pte
    from edge.export.quantize import QuantConfig, ternarize

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 16, 3, padding=1)
            self.deep, self.wide = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)
            self.dense = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem(x))
            x = torch.relu(self.wide(torch.relu(self.deep(x))))
            return x + self.dense(x)

    torch.manual_seed(0)
    example = (torch.randn(1, 2, 12, 10),)
    frozen = freeze(ternarize(Block(), config=QuantConfig(conv="ternary")), example)
    to_pte(frozen, example, tmp_path / "block.pte")
    program = Program((tmp_path / "block.pte").read_bytes())
    image = 16 * 12 * 10 * 4
    assert program.arena_bytes <= 2 * image  # the sum needs what the last convolution reads; all others are in place
    (got,) = program.run([example[0].numpy()])
    with torch.no_grad():
        wanted = frozen(*example).numpy()
    assert np.abs(got - wanted).max() <= 2e-2 * np.abs(wanted).max()
