"""Quantization: what the integers are, that gradients pass, and which layers of a module become which."""

from __future__ import annotations

from collections import OrderedDict

import bitlinear
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge.export.quantize import (
    BitConv1d,
    BitConv1x1,
    BitConv2d,
    BitLinear,
    Int8Conv2d,
    QuantConfig,
    SplitAttention,
    quantize_weight,
    quantized_layers,
    set_lambda,
    ternarize,
)
from edge.runtime.errors import BadInput, Unsupported

RANGES = {1.58: (-1, 1), 2: (-2, 1), 4: (-7, 7), 8: (-127, 127)}
shapes = st.tuples(st.integers(1, 40), st.integers(1, 70))


@given(shapes, st.sampled_from([1.58, 2, 4, 8]), st.integers(0, 2**31), st.floats(-6, 6))
@settings(max_examples=80, deadline=None)
def test_codes_lie_in_range_and_scales_are_positive(
    shape: tuple[int, int], bits: float, seed: int, magnitude: float
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10**magnitude
    codes, scales = quantize_weight(weight, bits)
    low, high = RANGES[bits]
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    assert int(codes.min()) >= low and int(codes.max()) <= high
    assert scales.dtype == torch.float32 and scales.shape == ((1,) if bits == 1.58 else (shape[0],))
    assert bool((scales > 0).all()) and bool(torch.isfinite(scales).all())


@given(shapes, st.integers(0, 2**31), st.sampled_from([(2, 1), (4, 7), (8, 127)]))
@settings(max_examples=50, deadline=None)
def test_steps_are_no_worse_than_the_largest_weight_over_the_largest_code(
    shape: tuple[int, int], seed: int, case: tuple[int, int]
) -> None:
    bits, high = case
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    codes, scales = quantize_weight(weight, bits)
    error = (codes * scales[:, None] - weight).square().sum(1)
    step = weight.abs().amax(1, keepdim=True) / high
    plain = ((weight / step).round().clamp(RANGES[bits][0], high) * step - weight).square().sum(1)
    assert bool((error <= plain * 1.001 + 1e-12).all())


def test_more_bits_approximate_better() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    errors = []
    for bits in (1.58, 2, 4, 8):
        codes, scales = quantize_weight(weight, bits)
        errors.append(float((codes * scales.view(-1, 1) - weight).square().mean()))
    assert errors == sorted(errors, reverse=True)
    # The best uniform four-level quantizer of a Gaussian has an error of 0.119 (Max 1960), eight bits almost none.
    assert errors[1] < 0.16 and errors[3] < 1e-4


@given(shapes, st.integers(0, 2**31), st.sampled_from([1.58, 2, 4, 8]))
@settings(max_examples=50, deadline=None)
def test_scaling_the_weight_scales_the_scales(shape: tuple[int, int], seed: int, bits: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.01
    codes, scales = quantize_weight(weight, bits)
    again, larger = quantize_weight(weight * 4, bits)
    # Steps at their lower bound do not scale.
    free = larger > 1e-3
    assert torch.equal(larger[free], scales[free] * 4)
    assert bool((codes == again)[free.expand(shape[0])].all())


@pytest.mark.parametrize(("measure", "zeros"), [("median", 0.264), ("mean", 0.310)])
def test_share_of_zeros_of_gaussian_weights(measure: str, zeros: float) -> None:
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    codes, _ = quantize_weight(weight, 1.58, measure)
    assert abs(float((codes == 0).float().mean()) - zeros) < 0.005


def test_median_is_the_lower_middle_value() -> None:
    codes, scales = quantize_weight(torch.tensor([[1.0, -2.0, 3.0, -4.0]]), 1.58)
    assert scales.item() == 2.0
    # 1 / 2 rounds to even: 0.
    assert codes.tolist() == [[0, -1, 1, -1]]


def test_zero_weights_stay_finite() -> None:
    for bits in RANGES:
        codes, scales = quantize_weight(torch.zeros(3, 5), bits)
        assert not codes.any() and bool((scales > 0).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(value: float) -> None:
    with pytest.raises(BadInput, match="NaN or infinity"):
        quantize_weight(torch.tensor([[1.0, value]]), 1.58)


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"--bits: expected one of 1\.58, 2, 4, 8, 32, found 3"):
        QuantConfig(bits=3)
    with pytest.raises(BadInput, match="measure"):
        QuantConfig(measure="max")
    with pytest.raises(BadInput, match="conv"):
        QuantConfig(conv="int4")
    with pytest.raises(BadInput, match="--bitlinear-compat"):
        QuantConfig(bits=4, bitlinear_compat=True)
    with pytest.raises(BadInput, match="unknown field 'bit'"):
        QuantConfig.from_dict({"bit": 2})


def test_config_survives_json() -> None:
    config = QuantConfig(bits=2, keep=("a.*",), conv="float", norm=False)
    assert QuantConfig.from_dict(config.to_dict()) == config


def reference_linear(layer: BitLinear, x: Tensor) -> Tensor:
    """The contract of DESIGN.md, in float64 and integers."""
    codes, scales = layer.codes_and_scales()
    if layer.norm:
        x = F.layer_norm(x, x.shape[-1:], eps=layer.eps)
    s_x = torch.reciprocal(x.abs().amax(-1, keepdim=True).clamp(min=1e-5)) * 127
    q = (x * s_x).round().clamp(-127, 127).to(torch.int64)
    acc = (q[..., None, :] * codes.to(torch.int64)).sum(-1)
    y = acc.double() * (scales / s_x).double()
    return y if layer.bias is None else y + layer.bias.double()


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
@pytest.mark.parametrize("norm", [True, False])
def test_linear_in_evaluation_is_the_integer_product(bits: float, norm: bool) -> None:
    torch.manual_seed(0)
    layer = BitLinear(77, 33, bits=bits, norm=norm).eval()
    x = torch.randn(2, 5, 77) * 3
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), reference_linear(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
def test_products_too_long_for_float32_are_exact(bits: float) -> None:
    layer = BitLinear(40_000, 2, bias=False, bits=bits, norm=False).eval()
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.weight[1] = -0.25
        x = torch.ones(1, 40_000)
        x[0, ::3] = -0.37
        torch.testing.assert_close(layer(x).double(), reference_linear(layer, x), rtol=2e-7, atol=0)


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
def test_training_and_evaluation_agree(bits: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 24, 6, 5)
    for layer, value in (
        (BitLinear(24, 16, bits=bits), x.movedim(1, -1)),
        (BitConv1x1(24, 16, bits=bits), x),
        (BitConv1x1(24, 16, bits=bits, norm=True), x),
        (BitConv1x1(24, 16, bits=bits, stride=(2, 3)), x),
        (BitConv1d(24, 16, bits=bits), x[..., 0]),
        (Int8Conv2d(24, 16, 3, padding=1, stride=2, groups=4), x),
    ):
        with torch.no_grad():
            torch.testing.assert_close(layer.train()(value), layer.eval()(value), rtol=1e-4, atol=1e-5)


def test_conv1x1_is_a_linear_over_the_channels() -> None:
    torch.manual_seed(0)
    conv = BitConv1x1(20, 12, norm=True).eval()
    linear = BitLinear(20, 12).eval()
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)  # type: ignore[arg-type]
        x = torch.randn(3, 20, 4, 7)
        expected = linear(x.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_a_stride_picks_pixels(norm: bool, lambda_: float) -> None:
    torch.manual_seed(0)
    strided, dense = BitConv1x1(20, 12, stride=(2, 3), norm=norm), BitConv1x1(20, 12, norm=norm)
    dense.load_state_dict(strided.state_dict())
    strided.lambda_ = dense.lambda_ = lambda_
    x = torch.randn(3, 20, 5, 7)
    for mode in (True, False):
        with torch.no_grad():
            y, expected = strided.train(mode)(x), dense.train(mode)(x)[:, :, ::2, ::3]
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    if lambda_ == 0 and not norm:
        torch.testing.assert_close(y, F.conv2d(x, strided.weight, strided.bias, (2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [True, False])
def test_conv1d_of_kernel_1_is_a_linear_over_the_channels(norm: bool) -> None:
    torch.manual_seed(0)
    conv, linear = BitConv1d(20, 12, norm=norm), BitLinear(20, 12, norm=norm).eval()
    linear.load_state_dict({"weight": conv.weight.squeeze(-1), "bias": conv.bias})
    x = torch.randn(3, 20, 7)
    with torch.no_grad():
        for mode in (True, False):
            torch.testing.assert_close(conv.train(mode)(x), linear(x.mT).mT, rtol=1e-5, atol=1e-6)
    conv.train()(x).sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.shape == (12, 20, 1)


def test_int8_convolution_is_the_integer_convolution() -> None:
    torch.manual_seed(0)
    conv = Int8Conv2d(6, 9, (3, 5), stride=2, padding=(1, 2), groups=3).eval()
    x = torch.randn(4, 6, 11, 13)
    codes, scales = conv.codes_and_scales()
    s_x = torch.reciprocal(x.abs().amax((1, 2, 3), keepdim=True)) * 127
    q = (x * s_x).round()
    acc = F.conv2d(q.double(), codes.double(), None, 2, (1, 2), 1, 3)
    expected = acc.float() * (scales.view(-1, 1, 1) / s_x) + conv.bias.view(-1, 1, 1)  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(conv(x), expected)
    # Fewer than 1 % of the range is lost.
    with torch.no_grad():
        assert float((F.conv2d(x, conv.weight, conv.bias, 2, (1, 2), 1, 3) - expected).abs().max()) < 0.02


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
def test_lambda_zero_is_float(bits: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8, 5, 5)
    linear, conv = BitLinear(5, 7, bits=bits, norm=False), BitConv1x1(8, 4, bits=bits)
    int8 = Int8Conv2d(8, 4, 3)
    for layer in (linear, conv, int8):
        layer.lambda_ = 0.0
        for mode in (True, False):
            plain = (
                F.linear(x, linear.weight, linear.bias) if layer is linear else F.conv2d(x, layer.weight, layer.bias)
            )
            assert torch.equal(layer.train(mode)(x), plain)


def test_lambda_moves_from_float_to_quantized() -> None:
    torch.manual_seed(0)
    layer, x = BitLinear(32, 16), torch.randn(4, 32)
    outputs = []
    for value in (0.0, 0.5, 1.0):
        layer.lambda_ = value
        outputs.append(layer(x))
    distance = [(outputs[i] - outputs[2]).norm() for i in range(3)]
    assert distance[0] > distance[1] > distance[2] == 0


def test_gradients_pass_straight_through() -> None:
    torch.manual_seed(0)
    layer, x = BitLinear(12, 5, norm=False), torch.randn(7, 12, requires_grad=True)
    upstream = torch.randn(7, 5)
    layer(x).backward(upstream)
    codes, scales = layer.codes_and_scales()
    s_x = torch.reciprocal(x.detach().abs().amax(-1, keepdim=True)) * 127
    rounded = (x.detach() * s_x).round() / s_x
    torch.testing.assert_close(x.grad, upstream @ (codes * scales))
    torch.testing.assert_close(layer.weight.grad, upstream.T @ rounded)
    torch.testing.assert_close(layer.bias.grad, upstream.sum(0))  # type: ignore[union-attr]


def test_gradients_reach_every_quantized_layer() -> None:
    torch.manual_seed(0)
    model = ternarize(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.Flatten(), nn.Linear(24, 3)
        )
    )
    model(torch.randn(2, 1, 4, 4)).square().sum().backward()
    for _, layer in quantized_layers(model):
        assert layer.weight.grad is not None and float(layer.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("measure", "theirs"), [("median", "AbsMedian"), ("mean", "AbsMean")])
def test_compatibility_mode_reproduces_bitlinear(bias: bool, measure: str, theirs: str) -> None:
    torch.manual_seed(0)
    for inputs, outputs in ((16, 8), (61, 33), (128, 256)):
        package = bitlinear.BitLinear(inputs, outputs, bias=bias, weight_measure=theirs)
        ours = BitLinear(inputs, outputs, bias, measure=measure, bitlinear_compat=True)
        ours.load_state_dict(package.state_dict())
        x = torch.randn(4, 9, inputs) * 2
        for lambda_ in (0.0, 0.3, 1.0):
            package.lambda_ = ours.lambda_ = lambda_
            for mode in (True, False):
                torch.testing.assert_close(ours.train(mode)(x), package.train(mode)(x), rtol=1e-5, atol=1e-5)


def test_compatibility_mode_layer_by_layer_in_a_network() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 40), nn.GELU(), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 10))
    package = bitlinear.bitlinearize(
        nn.Sequential(nn.Linear(20, 40), nn.GELU(), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 10))
    )
    package.load_state_dict(plain.state_dict())
    ours = ternarize(plain, config=QuantConfig(bitlinear_compat=True)).eval()
    x = torch.randn(32, 20)
    with torch.no_grad():
        for mine, their in zip(ours, package, strict=True):
            # Each layer gets the same input: float noise may flip a rounding, and would add up.
            torch.testing.assert_close(mine(x), their(x), rtol=1e-5, atol=1e-5)
            x = their(x)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(16, 16, 3, padding_mode="reflect", padding=1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def test_each_layer_becomes_its_own_kind() -> None:
    model = ternarize(network())
    kinds = [type(m) for m in model]
    assert kinds == [Int8Conv2d, Int8Conv2d, BitConv1x1, BitConv1x1, nn.Conv2d, nn.Flatten, BitLinear]
    assert [name for name, _ in quantized_layers(model)] == ["0", "1", "2", "3", "6"]
    assert model.eval()(torch.randn(1, 1, 4, 4)).shape == (1, 10)


def test_ternary_convolution_is_the_integer_convolution() -> None:
    torch.manual_seed(0)
    conv = BitConv2d(6, 9, (3, 5), stride=2, padding=(1, 2)).eval()
    x = torch.randn(2, 6, 11, 9)
    codes, scales = conv.codes_and_scales()
    assert codes.shape == conv.weight.shape and set(codes.unique().tolist()) == {-1, 0, 1} and scales.shape == (1,)
    s_x = 127 / x.abs().amax((1, 2, 3), keepdim=True)
    q = (x * s_x).round()
    acc = F.conv2d(q.double(), codes.double(), None, 2, (1, 2)).float()
    expected = acc * (scales.view(-1, 1, 1) / s_x) + conv.bias.view(-1, 1, 1)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected, rtol=1e-6, atol=1e-6)
        conv.lambda_ = 0.0
        assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, 2, (1, 2)))
    conv.lambda_ = 0.5
    conv.train()(x).sum().backward()
    assert conv.weight.grad is not None and float(conv.weight.grad.abs().max()) > 0


def test_which_convolutions_become_ternary() -> None:
    layers = {
        "stem": nn.Conv2d(3, 8, 3),
        "dense": nn.Conv2d(8, 8, 3),
        "depthwise": nn.Conv2d(8, 8, 3, groups=8),
        "grouped": nn.Conv2d(8, 8, 3, groups=2),
        "pointwise": nn.Conv2d(8, 8, 1),
    }
    model = ternarize(nn.ModuleDict(layers), config=QuantConfig(conv="ternary", measure="mean"))
    kinds = {name: type(layer) for name, layer in model.items()}  # type: ignore[operator]
    assert kinds == {
        "stem": Int8Conv2d,
        "dense": BitConv2d,
        "depthwise": Int8Conv2d,
        "grouped": Int8Conv2d,
        "pointwise": BitConv1x1,
    }
    assert model["dense"].measure == "mean"  # type: ignore[index]
    with pytest.raises(BadInput, match="--conv ternary: exists for 1.58 bits only"):
        QuantConfig(bits=4, conv="ternary")


def test_convolutions_may_stay_float() -> None:
    model = ternarize(network(), config=QuantConfig(conv="float"))
    assert [type(m) for m in model[:4]] == [nn.Conv2d, nn.Conv2d, BitConv1x1, BitConv1x1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(4, 8, 1, stride=(1, 2)), BitConv1x1),
        (nn.Conv2d(4, 8, 1, stride=2, padding="valid", bias=False), BitConv1x1),
        (nn.Conv2d(4, 8, 1, stride=2, padding=1), Int8Conv2d),
        (nn.Conv2d(4, 8, 1, groups=2), Int8Conv2d),
        (nn.Conv2d(4, 8, 1, stride=2, groups=4), Int8Conv2d),
        (nn.Conv2d(4, 8, (1, 3)), Int8Conv2d),
        (nn.Conv1d(4, 8, 1), BitConv1d),
        (nn.Conv1d(4, 8, 1, padding="same", bias=False), BitConv1d),
        (nn.Conv1d(4, 8, 1, stride=2), nn.Conv1d),
        (nn.Conv1d(4, 8, 1, padding=1), nn.Conv1d),
        (nn.Conv1d(4, 8, 1, groups=2), nn.Conv1d),
        (nn.Conv1d(4, 8, 3), nn.Conv1d),
    ],
)
def test_which_convolutions_are_pointwise(layer: nn.Module, kind: type[nn.Module]) -> None:
    x = torch.randn(2, 4, 6, 7) if isinstance(layer, nn.Conv2d) else torch.randn(2, 4, 7)
    shape, weight = layer(x).shape, layer.weight
    converted = ternarize(nn.ModuleList([layer, nn.Linear(2, 2)]))[0]  # type: ignore[index]
    assert type(converted) is kind and converted.weight is weight
    assert converted(x).shape == shape


def test_thirty_two_bits_change_nothing() -> None:
    model = network()
    assert ternarize(model, config=QuantConfig(bits=32)) is model
    assert quantized_layers(model) == []


def test_parameters_stay_the_same_objects_and_tied_ones_tied() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(10, 6), "head": nn.Linear(6, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    shared = nn.Linear(6, 6)
    model["a"], model["b"] = shared, shared
    ternarize(model)
    assert isinstance(model["head"], BitLinear) and model["head"].weight is model["embed"].weight
    assert model["a"] is model["b"] and isinstance(model["a"], BitLinear)
    assert model["a"].weight is shared.weight


def test_subclasses_are_left_alone() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = ternarize(nn.Sequential(Scaled(4, 4), nn.Linear(4, 4)))
    assert type(model[0]) is Scaled and type(model[1]) is BitLinear


def test_keep_takes_names_patterns_and_whole_subtrees() -> None:
    def tree() -> nn.Sequential:
        return nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 2))

    def left(keep: tuple[str, ...], own: tuple[str, ...] = ()) -> list[str]:
        return [n for n, _ in quantized_layers(ternarize(tree(), keep, config=QuantConfig(keep=own)))]

    assert left(("0",)) == ["1", "2"]
    assert left(("0.1", "2")) == ["0.0", "1"]
    assert left(("0.*",), own=("2",)) == ["1"]
    assert left(("2.*",)) == left(("2",)) == ["0.0", "0.1", "1"]  # the layer itself, which has nothing under it
    assert left(("0.1.*",)) == ["0.0", "1", "2"]
    with pytest.raises(BadInput, match="nothing to quantize"):
        left(("*",))


def test_keep_that_matches_nothing_is_told_the_closest_names() -> None:
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
            attention=nn.MultiheadAttention(4, 1),
            classifier=nn.Sequential(nn.Linear(4, 2)),
            drop=nn.Dropout(),
        )
    )
    with pytest.raises(BadInput, match=r"--keep 'clasifier\.\*' matches no module; the closest names are classifier, "):
        ternarize(model, ("clasifier.*",))
    with pytest.raises(BadInput, match="names are attention") as told:
        ternarize(model, ("attentoin",))
    assert "drop" not in str(told.value), "nothing in it could be kept"
    with pytest.raises(BadInput, match="out_proj"):
        ternarize(model, ("outproj",))


def test_a_bare_layer_gives_its_replacement() -> None:
    layer = nn.Linear(4, 3)
    assert isinstance(ternarize(layer), BitLinear)


def test_mode_is_taken_over() -> None:
    assert not any(m.training for m in ternarize(network().eval()).modules())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("separate", [True, False])
def test_split_attention_computes_what_torch_does(batch_first: bool, separate: bool) -> None:
    torch.manual_seed(0)
    dims = {"kdim": 12, "vdim": 20} if separate else {}
    attention = nn.MultiheadAttention(16, 4, batch_first=batch_first, **dims).eval()
    split = SplitAttention(attention)
    q, k, v = torch.randn(2, 5, 16), torch.randn(2, 7, dims.get("kdim", 16)), torch.randn(2, 7, dims.get("vdim", 16))
    if not batch_first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    mask = torch.rand(5, 7) < 0.3
    mask[:, 0] = False
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 5:] = True
    with torch.no_grad():
        for options in ({}, {"attn_mask": mask}, {"key_padding_mask": padding, "need_weights": False}):
            expected, weights = attention(q, k, v, **options)
            answer, own_weights = split(q, k, v, **options)
            torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
            if weights is not None:
                torch.testing.assert_close(own_weights, weights, rtol=1e-5, atol=1e-5)


def test_torch_encoder_layers_are_quantized_in_evaluation_too() -> None:
    """torch's fused path reads raw weights: it would silently compute in float."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = ternarize(nn.TransformerEncoder(layer, 2))
    x = torch.randn(2, 6, 16)
    calls: list[str] = []
    for name, quantized in quantized_layers(model):
        quantized.register_forward_hook(lambda *_, name=name: calls.append(name))
    names = {name for name, _ in quantized_layers(model)}
    assert {"layers.0.self_attn.q_proj", "layers.1.self_attn.out_proj", "layers.1.linear2"} <= names
    with torch.no_grad():
        trained, evaluated = model.train()(x), model.eval()(x)
    assert set(calls) == names and len(calls) == 2 * len(names)
    torch.testing.assert_close(trained, evaluated, rtol=1e-3, atol=0.1)
    with torch.no_grad():
        for hooked in model.modules():
            hooked._forward_hooks.clear()
        assert torch.equal(model(x), evaluated)


def test_unsupported_attention_is_named() -> None:
    model = nn.ModuleDict({"mix": nn.MultiheadAttention(8, 2, add_bias_kv=True)})
    with pytest.raises(Unsupported, match=r"mix: nn\.MultiheadAttention with add_bias_kv"):
        ternarize(model)
    assert isinstance(
        ternarize(nn.ModuleDict({**model, "fc": nn.Linear(2, 2)}), ("mix",))["mix"], nn.MultiheadAttention
    )


def test_set_lambda_reaches_all_and_checks_its_range() -> None:
    model = ternarize(network())
    set_lambda(model, 0.25)
    assert {layer.lambda_ for _, layer in quantized_layers(model)} == {0.25}
    with pytest.raises(BadInput, match="lambda"):
        set_lambda(model, 1.5)
