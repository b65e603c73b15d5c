"""The oracle of on-device learning against torch's autograd."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edge.export.learning_reference import (
    RELU,
    RELU6,
    SIGMOID,
    TANH,
    Convolution,
    Dense,
    Layer,
    LearningReference,
    Norm,
    Pool,
    Window,
)

_ACTIVATIONS = {0: lambda y: y, RELU: F.relu, RELU6: F.relu6, SIGMOID: torch.sigmoid, TANH: torch.tanh}


def run_in_torch(
    layers: list[Layer], x: torch.Tensor, parameters: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    left = iter(parameters)
    for layer in layers:
        if isinstance(layer, Dense):
            weight, bias = next(left)
            x = _ACTIVATIONS[layer.activation](F.linear(x.flatten(), weight, bias))
        elif isinstance(layer, Norm):
            x = F.layer_norm(x.flatten(), (x.numel(),), eps=layer.eps)
        elif isinstance(layer, Convolution):
            weight, bias = next(left)
            at = layer.window
            y = F.conv2d(x[None], weight, bias, at.stride, at.padding, at.dilation, layer.groups)[0]
            x = _ACTIVATIONS[layer.activation](y)
        elif layer.mean:
            x = F.avg_pool2d(x[None], layer.window.kernel, layer.window.stride)[0]
        else:
            at = layer.window
            x = F.max_pool2d(x[None], at.kernel, at.stride, at.padding, at.dilation)[0]
    return x.flatten()


@st.composite
def tails(draw: st.DrawFn) -> tuple[list[Layer], tuple[int, ...]]:
    """Layers of random kinds and sizes, and the shape of what they take."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    activations = st.sampled_from(list(_ACTIVATIONS))

    def values(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return (rng.normal(size=shape) * 0.7).astype(np.float32)

    layers: list[Layer] = []
    shape: tuple[int, ...] = (draw(st.integers(1, 12)),)
    if draw(st.booleans()):
        shape = (2, draw(st.integers(5, 8)), draw(st.integers(5, 8)))
        entry = shape
        for _ in range(draw(st.integers(1, 2))):
            groups = draw(st.sampled_from([1, 2]))
            kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
            window = Window(
                kernel, (draw(st.integers(1, 2)), 1), (draw(st.integers(0, 1)), 1), (1, draw(st.integers(1, 2)))
            )
            window.out = window.counts(shape[1:])
            if min(window.out) < 3:
                continue
            outputs = 2 * draw(st.integers(1, 2))
            weight = values(outputs, shape[0] // groups, *kernel)
            layers.append(Convolution(weight, values(outputs), window, groups, draw(activations)))
            shape = (outputs, *window.out)
        if layers and draw(st.booleans()):
            mean = draw(st.booleans())
            pool = Window((2, 2), (draw(st.integers(1, 2)), 2), (0, 0) if mean else (1, 1))
            pool.out = pool.counts(shape[1:])
            layers.append(Pool(pool, mean))
            shape = (shape[0], *pool.out)
    else:
        entry = shape
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            layers.append(Norm(1e-5))
        width, inputs = draw(st.integers(2, 9)), int(np.prod(shape))
        layers.append(Dense(values(width, inputs), values(width), draw(activations)))
        shape = (width,)
    layers.append(Dense(values(4, int(np.prod(shape))), values(4)))
    return layers, entry


@settings(max_examples=150, deadline=None)
@given(tail=tails(), seed=st.integers(0, 1 << 30), squared=st.booleans())
def test_a_step_is_torchs(tail: tuple[list[Layer], tuple[int, ...]], seed: int, squared: bool) -> None:
    layers, shape = tail
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype(np.float32)
    rate = 0.05
    weighted = [layer for layer in layers if isinstance(layer, (Dense, Convolution))]
    parameters = [
        (
            torch.tensor(layer.weight.copy(), dtype=torch.float64, requires_grad=True),
            torch.tensor(layer.bias.copy(), dtype=torch.float64, requires_grad=True),
        )
        for layer in weighted
    ]
    output = run_in_torch(layers, torch.tensor(x, dtype=torch.float64), parameters)
    target = rng.normal(size=4).astype(np.float32) if squared else int(rng.integers(4))
    if squared:
        loss = 0.5 * ((output - torch.tensor(target)) ** 2).sum()
    else:
        loss = F.cross_entropy(output[None], torch.tensor([target]))
    loss.backward()  # type: ignore[no-untyped-call]
    predicted, fit = LearningReference(layers, rate, squared).learn(x, target)
    assert fit == np.float32(fit)
    expected = float(loss.detach()) if squared else float(torch.exp(-loss.detach()))
    np.testing.assert_allclose(fit, expected, rtol=2e-4, atol=1e-5)
    values = output.detach().numpy()
    assert values[predicted] >= values.max() - 1e-4
    for layer, pair in zip(weighted, parameters, strict=True):
        for mine, theirs in zip((layer.weight, layer.bias), pair, strict=True):
            assert theirs.grad is not None
            wanted = (theirs - rate * theirs.grad).detach().numpy()
            np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=3e-5)
