"""Freezing: codes never change, BatchNorm folds away, and the frozen module computes what the trained one did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.export import ops
from edge.export.lower.freeze import FrozenConv1x1, FrozenConv2d, FrozenLayer, FrozenLinear, freeze, frozen_layers
from edge.export.lower.layers import describe_layers
from edge.export.lower.pte import to_pte
from edge.export.lower.verify import check_core_operators
from edge.export.quantize import BitConv1x1, QuantConfig, quantized_layers, ternarize
from edge.runtime import load


def randomized(model: nn.Module) -> nn.Module:
    """Gives BatchNorms statistics worth folding, negative gains among them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
def test_frozen_computes_what_was_trained(bits: float) -> None:
    torch.manual_seed(0)
    model = ternarize(randomized(small_cnn()), config=QuantConfig(bits=bits))
    x = torch.randn(1, 1, 12, 12)
    frozen = freeze(model, (x,))
    with torch.no_grad():
        expected, answer = model(x), frozen(x)
    # Float noise may flip an int8 rounding: a step of 1/127 of a layer's range, not more.
    assert float((expected - answer).abs().max()) < 0.05 * float(expected.abs().max())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


def test_codes_survive_folding() -> None:
    torch.manual_seed(1)
    model = ternarize(randomized(small_cnn()))
    trained = dict(quantized_layers(model))
    for name, layer in frozen_layers(freeze(model, (torch.randn(1, 1, 12, 12),))):
        codes, _ = trained[name].codes_and_scales()
        assert torch.equal(layer.codes.flatten(), codes.flatten())


def test_kinds_and_descriptions() -> None:
    model = ternarize(randomized(small_cnn()))
    example = (torch.randn(1, 1, 12, 12),)
    frozen = freeze(model, example)
    kinds = [type(layer) for _, layer in frozen_layers(frozen)]
    assert kinds == [FrozenConv2d, FrozenConv2d, FrozenConv1x1, FrozenLinear]
    records = describe_layers(frozen, example)
    assert [r.bits for r in records] == [8, 8, 1.58, 1.58]
    assert [r.macs for r in records] == [144 * 8 * 9, 144 * 8 * 9, 144 * 16 * 8, 5 * 16]
    assert records[2].bytes == 16 * 2 + 4 * (16 + 16)
    assert 0.1 < records[2].zero_fraction < 0.5


class Shortcut(nn.Module):
    """A residual block that halves the resolution, as in ResNet, and a pointwise `nn.Conv1d` behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.downsample = nn.Sequential(nn.Conv2d(6, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        self.line, self.norm, self.head = nn.Conv1d(16, 12, 1), nn.BatchNorm1d(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        y = torch.relu(y + self.downsample(x)).flatten(2)
        out: Tensor = self.head(self.norm(self.line(y)).mean(2))
        return out


@pytest.mark.parametrize(("bits", "norm"), [(1.58, False), (1.58, True), (4, False)])
def test_a_strided_shortcut_runs_on_the_core(bits: float, norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ternarize(randomized(Shortcut()), config=QuantConfig(bits=bits))
    for _, layer in quantized_layers(model):
        if isinstance(layer, BitConv1x1):
            layer.norm = norm
    x = torch.randn(1, 6, 9, 12)
    frozen = freeze(model, (x,))
    kinds = {name: type(layer).__name__ for name, layer in frozen_layers(frozen)}
    assert (kinds["downsample.0"], kinds["line"]) == ("FrozenConv1x1", "FrozenConv1d")
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in frozen.modules())
    assert {r.name: r.macs for r in describe_layers(frozen, (x,))}["downsample.0"] == 5 * 6 * 16 * 6
    path = tmp_path / "m.pte"
    report = to_pte(frozen, (x,), path)
    # One slice a dimension; the sum of the two branches is the shortcut's epilogue.
    assert report["ops"]["aten::slice_copy.Tensor_out"] == 2 and "aten::add.out" not in report["ops"]
    assert check_core_operators(path, [x.numpy()]) >= 5
    with torch.no_grad(), load(path, backend="core") as core:
        trained, expected, answer = model(x), frozen(x), np.asarray(core(x.numpy()))
    assert np.abs(answer - expected.numpy()).max() <= 1e-6 * float(expected.abs().max())
    assert float((expected - trained).abs().max()) < 0.05 * float(trained.abs().max())


class Holders(nn.Module):
    """Every way in which a model owns a float table, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 40)
        self.position = nn.Parameter(torch.randn(1, 30, 40))
        self.token = nn.Parameter(torch.randn(1, 40))
        self.gain = nn.Parameter(torch.ones(40))
        self.mix = nn.MultiheadAttention(40, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(40, 6, 3, stride=2)
        self.unused = nn.Linear(9, 9)
        self.head = nn.Linear(6, 3)

    def forward(self, index: Tensor) -> Tensor:
        x = self.embed(index) + self.position
        x = (x + self.token) * self.gain
        x = self.up(self.mix(x, x, x)[0].mT)
        out: Tensor = self.head(x.mean(2))
        return out


def test_what_stays_float_is_described() -> None:
    torch.manual_seed(0)
    example = (torch.randint(0, 7, (1, 30)),)
    frozen = freeze(ternarize(Holders(), ("mix", "unused")), example)
    found = [(r.name, r.kind, r.bits, r.shape, r.bytes, r.macs) for r in describe_layers(frozen, example)]
    assert found == [
        ("embed", "embedding", 32, (7, 40), 4 * 280, 0),
        # Stored as int8 with one scale a row; a small one is not.
        ("position", "constant", 8, (1, 30, 40), 1200 + 4 * 30, 0),
        ("token", "constant", 32, (1, 40), 160, 0),
        ("mix.in_proj_weight", "multiheadattention", 32, (120, 40), 4 * 4800, 0),
        # Not called as a module: its weight is read by nn.MultiheadAttention.
        ("mix.out_proj", "linear", 32, (40, 40), 4 * 1640, 0),
        ("up", "convtranspose1d", 32, (40, 6, 3), 4 * 726, 30 * 40 * 18),
        ("head", "linear", 1.58, (3, 6), 3 * 2 + 4 * (1 + 3), 18),
    ]
    lstm = describe_layers(nn.LSTM(6, 4), (torch.randn(5, 1, 6),))
    assert [(r.name, r.kind, r.shape) for r in lstm] == [
        ("weight_ih_l0", "lstm", (16, 6)),
        ("weight_hh_l0", "lstm", (16, 4)),
    ]


class SharedNorm(nn.Module):
    """One BatchNorm behind two layers cannot be folded into either."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.b(self.norm(self.a(x))))
        return y


class ResidualNorm(nn.Module):
    """ResNet's order, by attribute and not by Sequential; one convolution feeds two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.conv2, self.bn2 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        z = self.conv2(y)
        out: Tensor = self.bn2(z) + z
        return out


@pytest.mark.parametrize(
    ("module", "x", "left"), [(SharedNorm(), torch.randn(3, 4), 1), (ResidualNorm(), torch.randn(1, 2, 6, 6), 1)]
)
def test_only_a_norm_of_its_own_is_folded(module: nn.Module, x: Tensor, left: int) -> None:
    randomized(module)
    frozen = freeze(module, (x,))
    norms = [m for m in frozen.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == left
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), module(x), rtol=1e-4, atol=1e-4)


def test_a_bare_layer_freezes() -> None:
    frozen = freeze(ternarize(nn.Linear(7, 3)), (torch.randn(1, 7),))
    assert isinstance(frozen, FrozenLayer)
    assert frozen(torch.randn(2, 7)).shape == (2, 3)


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
@pytest.mark.parametrize("columns", [1, 3, 4, 5, 64])
def test_packing_round_trip(bits: float, columns: int) -> None:
    low, high = {1.58: (-1, 2), 2: (-2, 2), 4: (-8, 8), 8: (-128, 128)}[bits]
    codes = torch.randint(low, high, (6, columns)).to(torch.int8)
    packed = ops.pack_codes(codes, bits)
    assert packed.shape == (6, -(-columns * (8 if bits == 8 else 4 if bits == 4 else 2) // 8))
    assert torch.equal(ops.unpack_codes(packed, columns, bits), codes)
