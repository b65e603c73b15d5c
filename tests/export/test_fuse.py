"""Fusion: what is left of a module, and that it still computes the same."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("executorch", reason="executorch is not installed")

from edge.export.lower.constants import compact_rows
from edge.export.lower.freeze import freeze, trace
from edge.export.lower.fuse import fuse
from edge.export.lower.int8_attention import Int8Attention


def fused(module: nn.Module, *example: Tensor, compact: bool = False) -> tuple[Counter[str], float]:
    """Operators after fusion, and the largest difference to the module itself."""
    module.eval()
    expected = module(*example)
    program = torch.export.export(module, example, strict=False).run_decompositions({})
    fuse(program, compact_constants=compact)
    names = Counter(str(n.target).removesuffix(".default") for n in program.graph.nodes if n.op == "call_function")
    with torch.no_grad():
        error = float((program.module()(*example) - expected).abs().max())
    return names, error


class Block(nn.Module):
    """A pre-norm transformer block in the style of timm: packed qkv, SDPA or its pieces."""

    def __init__(self, dim: int = 32, heads: int = 4, style: str = "sdpa", causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.drop = nn.Dropout(0.1)
        self.heads, self.style, self.causal = heads, style, causal

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = (qkv[0], qkv[1], qkv[2]) if self.style != "unbind" else qkv.unbind(0)
        if self.style == "explicit":
            scores = (q @ k.transpose(-2, -1)) * (dim // self.heads) ** -0.5
            y = scores.softmax(dim=-1) @ v
        elif self.style == "scaled-q":
            y = ((q / (dim // self.heads) ** 0.5) @ k.transpose(2, 3)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attend(self.norm1(x)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


@pytest.mark.parametrize("style", ["sdpa", "unbind", "explicit", "scaled-q"])
def test_block_is_seven_instructions(style: str) -> None:
    names, error = fused(Block(style=style), torch.randn(2, 9, 32))
    assert names == {"edge.layer_norm": 2, "edge.linear": 4, "edge.attention_qkv": 1}
    assert error < 1e-5


def test_causal_attention() -> None:
    names, error = fused(Block(causal=True), torch.randn(1, 7, 32))
    assert names["edge.attention_qkv"] == 1
    assert error < 1e-5


class Cross(nn.Module):
    """Attention whose keys come from elsewhere, with a float mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (f(t).unflatten(-1, (2, 8)).transpose(1, 2) for f, t in ((self.q, x), (self.k, y), (self.v, y)))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)


def test_cross_attention_with_mask() -> None:
    mask = torch.zeros(1, 1, 5, 9)
    mask[..., 4:] = -torch.inf
    names, error = fused(Cross(), torch.randn(1, 5, 16), torch.randn(1, 9, 16), mask)
    assert names["edge.attention"] == 1
    assert not any("scaled_dot" in n for n in names)
    assert error < 1e-5


def test_multihead_attention_of_torch() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return out

    _, error = fused(Wrapper(), torch.randn(1, 6, 16))
    assert error < 1e-5


def test_convolution_pooling_and_activation() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 1)
    )
    names, error = fused(module, torch.randn(1, 3, 16, 16))
    assert names == {"edge.conv2d": 1, "edge.conv2d_max_pool2d": 1}
    assert error < 1e-5


class TwoUses(nn.Module):
    """The linear's result is used twice, so nothing may be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return F.relu(y) + y


def test_a_result_used_twice_stays_whole() -> None:
    names, error = fused(TwoUses(), torch.randn(3, 8))
    assert names["aten.relu"] == 1
    assert error < 1e-6


class Broadcast(nn.Module):
    """An addition that broadcasts is not a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(x) + y


def test_a_broadcast_is_no_residual() -> None:
    names, error = fused(Broadcast(), torch.randn(1, 8), torch.randn(5, 8))
    assert names["aten.add.Tensor"] == 1
    assert error < 1e-6


class Positional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 64, 32))
        self.linear = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.position)


def test_positional_embedding_becomes_int8() -> None:
    names, error = fused(Positional(), torch.randn(1, 64, 32), compact=True)
    assert names == {"edge.add_quantized": 1, "edge.linear": 1}
    assert 0 < error < 0.05


def test_row_codes_are_within_half_a_step_and_stay() -> None:
    value = torch.randn(64, 33)
    codes, scales = compact_rows(value.numpy())  # type: ignore[misc]
    assert (abs(codes * scales[:, None] - value.numpy()) <= scales[:, None] * 0.5001).all()
    # Rounding again what was rounded changes nothing: freezing and lowering agree.
    again, _ = compact_rows(codes * scales[:, None])  # type: ignore[misc]
    assert (again == codes).all()


def test_a_mask_is_not_compacted() -> None:
    mask = torch.zeros(1, 64, 128)
    mask[..., 0] = -1e9
    assert compact_rows(mask.numpy()) is None


def test_frozen_embedding_is_what_the_file_holds() -> None:
    x = torch.randn(1, 64, 32)
    _, error = fused(freeze(Positional(), (x,)), x, compact=True)
    assert error < 1e-6


class Pool(nn.Module):
    """CCT's sequence pooling as SHI-Labs wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(self.score(x), dim=1).transpose(-1, -2)
        return self.head(torch.matmul(weights, x).squeeze(-2))


def test_sequence_pooling() -> None:
    names, error = fused(Pool(), torch.randn(2, 11, 16))
    assert names == {"edge.sequence_pool": 1, "edge.linear": 1}
    assert error < 1e-6


def test_integer_attention_is_for_what_the_model_leaves_to_pytorch() -> None:
    """The one of two attentions that is spelled out stays in float, in the program and in the eager reference."""

    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scores = (x @ x.transpose(-2, -1)) * 0.5
            return F.scaled_dot_product_attention(x, x, x) + scores.softmax(-1) @ x

    torch.manual_seed(0)
    x = torch.randn(1, 2, 7, 4)
    program = fuse(trace(Two(), (x,)).run_decompositions({}), int8_attention=True)
    calls = [n.target._schema.name for n in program.graph.nodes if n.op == "call_function" and "edge" in str(n.target)]
    assert sorted(calls) == ["edge::attention", "edge::attention_int8"]
    with Int8Attention():
        reference = Two()(x)
    assert torch.equal(program.module()(x), reference)
    assert not torch.equal(reference, Two()(x))
    assert (reference - Two()(x)).abs().max() < 0.05
