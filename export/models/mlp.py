"""A multi-layer perceptron over the flattened input: the smallest thing worth deploying."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from edge.runtime.errors import BadInput


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        input_shape: of one sample; flattened.
        num_classes: outputs.
        hidden: widths of the hidden layers.
        dropout: after each hidden layer, in training.

    Raises:
        BadInput: an empty input or a width below 1.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (1, 16, 16),
        num_classes: int = 10,
        *,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [prod(input_shape), *hidden, num_classes]
        if min(widths) < 1:
            raise BadInput(f"mlp: every width must be at least 1, found {widths}")
        self.flatten = nn.Flatten()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, *input_shape] to logits float32 [B, classes]."""
        y: Tensor = self.fc(self.layers(self.flatten(x)))
        return y
