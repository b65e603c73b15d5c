"""What the lowering tests share: small frozen models, and their files for each engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.export.lower.freeze import FrozenConv1d, FrozenConv1x1, FrozenConv2d, FrozenLayer, FrozenLinear
from tests.conftest import made_once, source_hash

_SOURCES = (
    *(f"export/lower/{name}.py" for name in ("float_form", "freeze", "onnx", "output", "tflite", "tflite_file")),
    "export/ops.py",
    "tests/export/conftest.py",
)


def linear(
    inputs: int,
    outputs: int,
    bits: float = 1.58,
    *,
    norm_eps: float = 1e-5,
    bias: bool = True,
    compat: bool = False,
    negative: bool = False,
    lowest: int | None = None,
    conv: bool = False,
) -> FrozenLinear:
    """A layer of random codes; `negative` gives it one scale an output, half of them negative (a folded BatchNorm)."""
    low, high = {1.58: (-1, 1), 2: (-2, 1), 4: (-7, 7), 8: (-127, 127)}[bits]
    codes = torch.randint(low if lowest is None else lowest, high + 1, (outputs, inputs)).to(torch.int8)
    if lowest is not None:
        codes[0, 0] = lowest
    scales = torch.rand(1 if bits == 1.58 and not negative else outputs) * 0.1 + 0.01
    if negative:
        scales *= torch.where(torch.arange(outputs) % 2 == 0, -1.0, 1.0)
    offsets = torch.randn(outputs) if bias else None
    if conv:
        return FrozenConv1x1(codes, bits, scales, offsets, norm_eps)
    return FrozenLinear(codes, bits, 1 / scales if compat else scales, offsets, norm_eps, compat)


def convolution(
    inputs: int,
    outputs: int,
    *,
    stride: int = 1,
    padding: int = 1,
    groups: int = 1,
    negative: bool = False,
    bits: float = 8,
) -> FrozenConv2d:
    """A 3 x 3 convolution of random int8 or ternary codes."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding, groups=groups)
    scales = torch.rand(outputs) * 0.01 + 0.001
    if negative:
        scales *= torch.where(torch.arange(outputs) % 2 == 0, -1.0, 1.0)
    largest = 1 if bits == 1.58 else 127
    codes = torch.randint(-largest, largest + 1, conv.weight.shape).to(torch.int8)
    if bits == 1.58 and not negative:
        scales = scales[:1]
    return FrozenConv2d(codes, bits, scales, torch.randn(outputs), conv)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, **kind: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        nn.init.normal_(self.norm1.weight)
        nn.init.normal_(self.norm1.bias)
        self.qkv, self.proj = linear(width, 3 * width, **kind), linear(width, width, **kind)
        self.up, self.down = linear(width, 2 * width, **kind), linear(2 * width, width, **kind)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A convolutional tokenizer, a positional embedding, blocks and sequence pooling, as in CCT."""

    def __init__(self, width: int = 32, depth: int = 1, size: int = 16, **kind: Any) -> None:
        super().__init__()
        self.stem = convolution(3, width)
        self.position = nn.Parameter(torch.randn(1, (size // 2) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, **kind) for _ in range(depth)))
        self.norm, self.pool, self.head = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1).flatten(2).transpose(1, 2) + self.position
        x = self.norm(self.blocks(x))
        return self.head((self.pool(x).squeeze(-1).softmax(-1).unsqueeze(1) @ x).squeeze(1))


class Twice(nn.Module):
    """What converters rearrange: folded factors and offsets, equal weights, a layer that runs twice, an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear(16, 16)
        self.twin = FrozenLinear(self.first.codes, 1.58, self.first.scales, torch.randn(16), 1e-5)
        self.again = linear(16, 16, 4, bias=False)
        self.unused = linear(8, 8)
        self.gain = nn.Parameter(torch.randn(16))
        self.pool = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twin(self.first(x) * 0.5) * self.gain + 1.5
        x = self.again(self.again(F.relu(x))) * 2.0
        x = F.relu6(self.twin(x))
        return (self.pool(x).softmax(1).transpose(1, 2) @ x).squeeze(1)


class Pair(nn.Module):
    """Two inputs of different ranks and two outputs, in the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(16, 16), linear(7, 5, 8)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(y), self.a(x)


class Strided(nn.Module):
    """1x1 convolutions that pick pixels, and one over a line."""

    def __init__(self, norm_eps: float, lowest: int) -> None:
        super().__init__()
        bits = {-1: 1.58, -8: 4, -128: 8}[lowest]

        def codes(outputs: int, inputs: int) -> Tensor:
            made = torch.randint(-1, 2, (outputs, inputs)).to(torch.int8)
            made[0, 0] = lowest
            return made

        scales = torch.rand(10) - 0.5
        self.first = FrozenConv1x1(codes(12, 8), bits, torch.full((1,), 0.03), torch.randn(12), norm_eps, (2, 3))
        self.second = FrozenConv1x1(codes(10, 12), bits, scales, None, norm_eps, (1, 2))
        self.line = FrozenConv1d(codes(7, 10), bits, torch.full((1,), 0.03), torch.randn(7), norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.line(self.second(torch.relu(self.first(x))).flatten(2))
        return y


def _depthwise(bits: float) -> nn.Module:
    return nn.Sequential(
        convolution(1, 16, stride=2),
        nn.ReLU(),
        convolution(16, 16, groups=16, negative=True),
        nn.ReLU(),
        linear(16, 24, bits, norm_eps=-1.0, negative=True, conv=True),
        nn.ReLU(),
        convolution(24, 24, stride=2, groups=24),
        nn.ReLU(),
        linear(24, 24, bits, conv=True),
        convolution(24, 20, groups=2, padding=0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        linear(20, 5, bits, bias=False),
    )


def _ternary() -> nn.Module:
    return nn.Sequential(
        convolution(3, 12, stride=2),
        nn.ReLU(),
        convolution(12, 20, bits=1.58),
        nn.ReLU(),
        nn.MaxPool2d(2),
        convolution(20, 9, padding=0, bits=1.58, negative=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        linear(9, 5),
    )


_IMAGE = (1, 3, 16, 16)
_SPECTRUM = (1, 1, 20, 12)

# Name → (model, shapes of its inputs).
SAMPLES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "transformer": (lambda: Transformer(), (_IMAGE,)),
    "compat": (lambda: Transformer(compat=True), (_IMAGE,)),
    "int2": (lambda: Transformer(bits=2), (_IMAGE,)),
    "int4": (lambda: Transformer(bits=4), (_IMAGE,)),
    "int8": (lambda: Transformer(bits=8), (_IMAGE,)),
    "lowest4": (lambda: Transformer(bits=4, lowest=-8), (_IMAGE,)),
    "lowest8": (lambda: Transformer(bits=8, lowest=-128), (_IMAGE,)),
    "depthwise": (lambda: _depthwise(1.58), (_SPECTRUM,)),
    "depthwise2": (lambda: _depthwise(2), (_SPECTRUM,)),
    "negative4": (lambda: nn.Sequential(linear(24, 20, 4, negative=True, lowest=-8)), ((3, 24),)),
    "odd": (lambda: nn.Sequential(linear(33, 21, negative=True), nn.ReLU(), linear(21, 3)), ((5, 33),)),
    "layer": (lambda: linear(20, 7), ((3, 20),)),
    "ternary": (lambda: _ternary(), (_IMAGE,)),
    "batch": (lambda: convolution(3, 5), ((2, 3, 8, 6),)),
    "twice": (lambda: Twice(), ((1, 5, 16),)),
    "pair": (lambda: Pair(), ((1, 16), (2, 3, 7))),
    "cct7": (lambda: Transformer(width=256, depth=7, size=32), ((1, 3, 32, 32),)),
}


@dataclass(frozen=True)
class Lowered:
    """A sample with its file.

    Attributes:
        model: the frozen model.
        example: its inputs.
        expected: what it computes in PyTorch.
        path: the file.
        report: what the lowering returned.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]
    path: Path
    report: dict[str, Any]


def sample(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A sample model, always the same, and an input."""
    make, shapes = SAMPLES[name]
    torch.manual_seed(sum(name.encode()))
    return make().eval(), tuple(torch.randn(shape) for shape in shapes)


def layer_names(model: nn.Module) -> list[str]:
    """The names under which a sample's quantized layers are reported."""
    return [name or "model" for name, m in model.named_modules() if isinstance(m, FrozenLayer) and name != "unused"]


def lowered(name: str, kind: str, lower: Callable[..., dict[str, Any]], **options: Any) -> Lowered:
    """A sample lowered once for each state of the sources.

    Args:
        name: of the sample.
        kind: "tflite" or "onnx".
        lower: called as lower(model, example, path, **options).
    """
    model, example = sample(name)

    def make(folder: Path) -> None:
        report = lower(model, example, folder / f"model.{kind}", **options)
        (folder / "report.json").write_text(json.dumps(report))

    label = "-".join([kind, name, *(str(value) for value in options.values())])
    folder = made_once(label, source_hash(*_SOURCES), make)
    with torch.no_grad():
        expected = model(*example)
    expected = expected if isinstance(expected, tuple) else (expected,)
    return Lowered(model, example, expected, folder / f"model.{kind}", json.loads((folder / "report.json").read_text()))
