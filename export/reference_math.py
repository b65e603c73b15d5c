"""The functions of runtime/core/kernels/math_f32.h in numpy, operation by operation: see `edge.export.reference`."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

f32 = np.float32

#: The operators' `activation` argument.
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "relu6", "hardswish", "sigmoid", "tanh")


def _polynomial(x: F32, coefficients: tuple[float, ...]) -> F32:
    """Horner's scheme in float32, the highest coefficient first."""
    p = np.full_like(x, f32(coefficients[0]))
    for c in coefficients[1:]:
        p = p * x + f32(c)
    return p


def exp(x: F32) -> F32:
    """float32 e^x by range reduction and a polynomial; results below 2^-126 are 0. Any shape."""
    x = np.asarray(x, dtype=f32)
    inside = (x <= f32(88.72283)) & (x >= f32(-87.33654))
    r = np.where(inside, x, f32(0))
    n = cast(F32, np.rint(r * f32(1.44269504)))
    r = (r - n * f32(0.693359375)) - n * f32(-2.12194440e-4)
    p = _polynomial(r, (0.0013950492, 0.00836889, 0.041666206, 0.16666518, 0.5))
    p = p * (r * r) + r
    p = p + f32(1)
    exponent = n.astype(np.int32)
    half = exponent >> 1
    y = p * _pow2(half) * _pow2(exponent - half)
    with np.errstate(invalid="ignore"):
        outside = np.where(x > 0, f32(np.inf), f32(0))
        return np.where(inside, y, np.where(np.isnan(x), x, outside)).astype(f32)


def _pow2(n: NDArray[np.int32]) -> F32:
    """2^n as float32 for n in -126 … 127."""
    return ((n + 127).astype(np.uint32) << np.uint32(23)).view(f32)


def tanh(x: F32) -> F32:
    """float32 tanh: a polynomial below 0.625, exp beyond. Any shape."""
    x = np.asarray(x, dtype=f32)
    with np.errstate(over="ignore", invalid="ignore"):
        a = np.abs(x)
        z = x * x
        p = _polynomial(z, (-0.0057170447, 0.020650586, -0.053743497, 0.13331491, -0.33333284))
        small = p * z * x + x
        y = f32(1) - f32(2) / (exp(a + a) + f32(1))
        return np.where(a < f32(0.625), small, np.where(x < 0, -y, y)).astype(f32)


def erf(x: F32) -> F32:
    """float32 error function: a polynomial below 1, 1 - exp(polynomial) up to 4. Any shape."""
    x = np.asarray(x, dtype=f32)
    with np.errstate(over="ignore", invalid="ignore"):
        a = np.abs(x)
        near = (7.889123e-05, -0.0008020842, 0.0051895357, -0.026854444, 0.112836, -0.37612626, 0.12837917)
        small = _polynomial(x * x, near) * x + x
        log_erfc = (0.00018557407, -0.002939608, 0.02180532, -0.10303737, -0.6382257, -1.12704, -0.00035371876)
        y = f32(1) - exp(_polynomial(a, log_erfc))
        y = np.where(a > f32(4), f32(1), y)
        return np.where(a < f32(1), small, np.where(x < 0, -y, y)).astype(f32)


def gelu(x: F32) -> F32:
    """float32 GELU by one polynomial for erf(x / sqrt 2) / x up to 5.1. Any shape."""
    x = np.asarray(x, dtype=f32)
    with np.errstate(over="ignore", invalid="ignore"):
        z = x * x
        p = _polynomial(z * f32(0.0768935) - f32(1), _GELU)
        y = f32(0.5) * x * (p * x + f32(1))
        return np.where(z > f32(26.01), np.where(x < 0, f32(0), x), y).astype(f32)


_GELU = (
    -0.00070253015,
    0.0019090344,
    -0.0020443501,
    0.003265146,
    -0.008327069,
    0.015187641,
    -0.023179779,
    0.03429803,
    -0.04822144,
    0.06355303,
    -0.08042078,
    0.10155766,
    -0.1380069,
    0.27721065,
)


def activate(x: F32, activation: int) -> F32:
    """Applies an activation function elementwise; NaN stays NaN.

    Args:
        x: float32 of any shape.
        activation: An index into `ACTIVATIONS`.
    """
    one = f32(1)
    with np.errstate(over="ignore", invalid="ignore"):
        match ACTIVATIONS[activation]:
            case "relu":
                return np.where(x < 0, f32(0), x).astype(f32)
            case "gelu":
                return gelu(x)
            case "gelu_tanh":
                return f32(0.5) * x * (one + tanh(f32(0.79788456) * (x + f32(0.044715) * (x * x * x))))
            case "silu":
                return x / (one + exp(-x))
            case "relu6":
                return _clamp(x, 0, 6)
            case "hardswish":
                return x * _clamp(x + f32(3), 0, 6) / f32(6)
            case "sigmoid":
                return one / (one + exp(-x))
            case "tanh":
                return tanh(x)
            case _:
                return x


def _clamp(x: F32, low: float, high: float) -> F32:
    return np.where(x < f32(low), f32(low), np.where(x > f32(high), f32(high), x)).astype(f32)
