"""A chain of distinct linear layers, so that weights stream through the caches: what layers.py measures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def build(widths: Sequence[int]) -> nn.Module:
    """float32 [rows, widths[0]] to [rows, widths[-1]], with biases and without activation functions."""
    return nn.Sequential(*(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)))
