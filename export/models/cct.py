"""Compact Convolutional Transformers (Hassani et al., "Escaping the Big Data Paradigm", arXiv 2104.05704).

A small convolutional tokenizer, transformer blocks, and a learned pooling over the sequence in place of a class token.
Names and shapes in the state dict are those of SHI-Labs' published checkpoints, so these load unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.runtime.errors import BadInput


class Tokenizer(nn.Module):
    """Convolution, ReLU and max pooling, `n_conv_layers` times; then one token a pixel.

    Args:
        in_channels: of the image.
        dim: embedding dimension of a token; all but the last convolution have 64 filters.
        n_conv_layers, kernel_size: of the convolutions; stride max(1, k // 2 - 1), padding max(1, k // 2).
    """

    def __init__(self, in_channels: int, dim: int, n_conv_layers: int, kernel_size: int) -> None:
        super().__init__()
        filters = [in_channels, *[64] * (n_conv_layers - 1), dim]
        stride, padding = max(1, kernel_size // 2 - 1), max(1, kernel_size // 2)
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(filters[i], filters[i + 1], kernel_size, stride, padding, bias=False),
                    nn.ReLU(),
                    nn.MaxPool2d(3, 2, 1),
                )
                for i in range(n_conv_layers)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, C, H, W] to [B, tokens, dim]."""
        y: Tensor = self.conv_layers(x)
        return y.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one qkv projection, ordered (q, k, v), heads, channels."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, dim * 3, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, T, dim] to [B, T, dim]."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))
        return out


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training drops a residual branch of a sample with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class Block(nn.Module):
    """A pre-norm encoder block; the feed-forward branch adds to the *normalized* sum, as published."""

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, dropout: float, attention_dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, num_heads, attention_dropout)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.norm1 = nn.LayerNorm(dim)
        self.linear2 = nn.Linear(mlp_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, T, dim] to [B, T, dim]."""
        x = x + self.drop_path(self.dropout(self.self_attn(self.pre_norm(x))))
        x = self.norm1(x)
        hidden = self.dropout(F.gelu(self.linear1(x)))
        out: Tensor = x + self.drop_path(self.dropout(self.linear2(hidden)))
        return out


class Classifier(nn.Module):
    """Positional embedding, blocks, sequence pooling and the linear head."""

    positional_emb: Tensor | None

    def __init__(
        self,
        sequence_length: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float,
        num_classes: int,
        dropout: float,
        attention_dropout: float,
        stochastic_depth: float,
        positional_embedding: str,
    ) -> None:
        super().__init__()
        self.attention_pool = nn.Linear(dim, 1)
        if positional_embedding == "learnable":
            self.positional_emb = nn.Parameter(torch.empty(1, sequence_length, dim))
            nn.init.trunc_normal_(self.positional_emb, std=0.2)
        elif positional_embedding == "sine":
            self.positional_emb = nn.Parameter(sine_embedding(sequence_length, dim), requires_grad=False)
        elif positional_embedding == "none":
            self.positional_emb = None
        else:
            raise BadInput(f"positional_embedding: expected learnable, sine or none, found {positional_embedding!r}")
        self.dropout = nn.Dropout(dropout)
        rates = [stochastic_depth * i / max(1, num_layers - 1) for i in range(num_layers)]
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, int(dim * mlp_ratio), dropout, attention_dropout, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, T, dim] to logits [B, classes]."""
        if self.positional_emb is not None:
            x = x + self.positional_emb
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        # Softmax over the last dimension: over another, TFLite's converter emits a DIV that int8 engines refuse.
        weights = self.attention_pool(x).squeeze(-1).softmax(-1)
        pooled = (weights.unsqueeze(1) @ x).squeeze(1)
        y: Tensor = self.fc(pooled)
        return y


class CCT(nn.Module):
    """A Compact Convolutional Transformer for images (or spectrograms) of one size.

    Args:
        num_layers, num_heads, mlp_ratio, dim: of the transformer.
        n_conv_layers, kernel_size: of the tokenizer.
        img_size: height and width, or one number for both; overrides that of `input_shape`.
        n_input_channels: channels; overrides that of `input_shape`.
        input_shape: (channels, height, width), (3, 32, 32) if nothing says otherwise.
        num_classes: outputs.
        positional_embedding: "learnable", "sine" or "none".
        dropout, attention_dropout, stochastic_depth: rates in training.

    Raises:
        BadInput: an image so small that no token is left, or an unknown positional embedding.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float,
        dim: int,
        n_conv_layers: int,
        kernel_size: int,
        img_size: int | tuple[int, int] | None = None,
        n_input_channels: int | None = None,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_classes: int = 10,
        positional_embedding: str = "learnable",
        dropout: float = 0.0,
        attention_dropout: float = 0.1,
        stochastic_depth: float = 0.1,
    ) -> None:
        super().__init__()
        channels, *size = input_shape
        channels = channels if n_input_channels is None else n_input_channels
        if img_size is not None:
            size = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
        if channels < 1 or len(size) != 2 or min(size) < 1:
            raise BadInput(f"input shape {[channels, *size]}: a CCT takes [channels, height, width], each at least 1")
        self.tokenizer = Tokenizer(channels, dim, n_conv_layers, kernel_size)
        self.grid = _grid(self.tokenizer, size)
        self.classifier = Classifier(
            self.grid[0] * self.grid[1],
            dim,
            num_layers,
            num_heads,
            mlp_ratio,
            num_classes,
            dropout,
            attention_dropout,
            stochastic_depth,
            positional_embedding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, channels, height, width] to logits float32 [B, classes]."""
        y: Tensor = self.classifier(self.tokenizer(x))
        return y


def _grid(tokenizer: Tokenizer, size: list[int]) -> tuple[int, int]:
    """Rows and columns of tokens that an image of `size` gives."""
    height, width = size
    for module in tokenizer.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            k, s, p = (
                int(v[0] if isinstance(v, tuple) else v) for v in (module.kernel_size, module.stride, module.padding)
            )
            height, width = ((n + 2 * p - k) // s + 1 for n in (height, width))
    if min(height, width) < 1:
        raise BadInput(f"input of {size[0]} x {size[1]} pixels is too small for this tokenizer: no token is left")
    return height, width


def sine_embedding(length: int, dim: int) -> Tensor:
    """Fixed positions of "Attention Is All You Need" (arXiv 1706.03762), float32 [1, length, dim]."""
    index = torch.arange(dim)
    angle = torch.arange(length)[:, None] / 10000 ** (2 * index.div(2, rounding_mode="floor") / dim)
    return torch.where(index % 2 == 0, angle.sin(), angle.cos()).float().unsqueeze(0)


@dataclass(frozen=True)
class Variant:
    """One architecture of the paper.

    Attributes:
        num_layers, num_heads, mlp_ratio, dim: of the transformer.
        kernel_size, n_conv_layers: of the tokenizer; "3x2" is kernel 3, two convolutions.
        sizes: image sides that SHI-Labs publish it for, the first is the default.
        num_classes: of the default size.
        drop_rate: attention dropout and stochastic depth. SHI-Labs take 0.1 everywhere, for 300 epochs and more; in the
            short trainings here it costs the small variants accuracy (half a point on the digits).
    """

    num_layers: int
    num_heads: int
    mlp_ratio: float
    dim: int
    kernel_size: int
    n_conv_layers: int
    sizes: tuple[int, ...] = (32,)
    num_classes: int = 10
    drop_rate: float = 0.1


VARIANTS: dict[str, Variant] = {
    "cct_2_3x2": Variant(2, 2, 1, 128, 3, 2, drop_rate=0.0),
    "cct_4_3x2": Variant(4, 2, 1, 128, 3, 2, drop_rate=0.0),
    "cct_6_3x1": Variant(6, 4, 2, 256, 3, 1),
    "cct_6_3x2": Variant(6, 4, 2, 256, 3, 2),
    "cct_7_3x1": Variant(7, 4, 2, 256, 3, 1),
    "cct_7_3x2": Variant(7, 4, 2, 256, 3, 2),
    "cct_7_7x2": Variant(7, 4, 2, 256, 7, 2, (224,), 102),
    "cct_14_7x2": Variant(14, 6, 3, 384, 7, 2, (224, 384), 1000),
}
"""SHI-Labs' variants: layers, heads, MLP ratio, dimension, kernel, convolutions, image sides, classes."""


def resize_positions(embedding: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bilinear resize of a positional embedding [1, T, dim] from one token grid to another, as SHI-Labs do."""
    grid = embedding.reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bilinear")
    return grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
