"""Random calls of edge::ternary_linear: K tails, every rank, extreme values; the same for the core and ExecuTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.export import reference
from edge.runtime.layouts import LAYOUTS, pack_layout

FLOAT_MAX = float(np.finfo(np.float32).max)

EXACT_ACTIVATIONS = (0, 0, 1, 5)
"""None (more often), ReLU, ReLU6: for the others torch has its own exp, erf and tanh, a last place beside libm's."""


def bits(array: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The float32 bit patterns, with every NaN alike (its sign and payload are no part of the contract)."""
    return np.where(np.isnan(array), np.float32(np.nan), array).astype(np.float32).view(np.uint32)


def in_torch(arguments: list[Any]) -> NDArray[np.float32]:
    """What torch's eager operator, edge.export.ops, computes."""
    import torch

    import edge.export.ops  # noqa: F401 - registers the operators

    tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]
    output: NDArray[np.float32] = torch.ops.edge.ternary_linear(*tensors).numpy()
    return output


def random_case(rng: np.random.Generator) -> list[Any]:
    """Arguments of one call, in the schema's order; the activation is one of EXACT_ACTIVATIONS."""
    k = int(rng.choice([rng.integers(1, 40), rng.integers(1, 300), rng.integers(300, 1200)], p=[0.5, 0.4, 0.1]))
    n = int(rng.integers(1, 50))
    lead = tuple(int(v) for v in rng.integers(1, 6, size=rng.integers(0, 4)))
    x = (rng.normal(size=(*lead, k)) * 10.0 ** rng.integers(-7, 8)).astype(np.float32)
    match rng.integers(0, 10):
        case 0:
            x = rng.choice([-1.0, 1.0], size=x.shape).astype(np.float32)  # every code is ±127
        case 1:
            x[...] = 0
        case 2:
            x[rng.random(x.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, FLOAT_MAX, 1e-44])
        case 3:
            x = rng.integers(-127, 128, size=x.shape).astype(np.float32) / 2  # ties of the rounding
    codes = rng.integers(-1, 2, size=(n, k)).astype(np.int8)
    if rng.random() < 0.1:
        codes[:] = rng.choice([-1, 0, 1])
    scales = rng.normal(size=n if rng.random() < 0.5 else 1).astype(np.float32)
    if rng.random() < 0.05:
        scales[...] = rng.choice(np.float32([0.0, -0.0, 1e-44, -1e-38, 1e38, FLOAT_MAX, np.inf, np.nan]))
    bias = rng.normal(size=n).astype(np.float32) if rng.random() < 0.5 else None
    residual = rng.normal(size=(*lead, n)).astype(np.float32) if rng.random() < 0.3 else None
    norm_eps = float(rng.choice([-1.0, 1e-5, 1e-6, 0.0], p=[0.4, 0.4, 0.1, 0.1]))
    layout = str(rng.choice(LAYOUTS)) if rng.random() < 0.4 else None  # of a microcontroller
    return [
        x,
        reference.pack_codes(codes, 1.58) if layout is None else pack_layout(codes, layout),
        scales,
        bias,
        residual,
        norm_eps,
        int(rng.choice(EXACT_ACTIVATIONS)),
        bool(rng.random() < 0.2),
    ]


SEEDS = range(10)


def hundred_cases(seed: int) -> Iterator[list[Any]]:
    """A tenth of the thousand."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        yield random_case(rng)
