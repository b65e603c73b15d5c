"""Augmentation: shapes, reproducible draws, and what may move where."""

from __future__ import annotations

import pytest
import torch

from edge.export.data.augment import AUGMENTATIONS, augmentation
from edge.runtime.errors import BadInput


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(8, 1, 16, 16), (3, 1, 9, 14), (4, 3, 12, 8), (1, 1, 2, 2)])
def test_augmentations_keep_shape_and_follow_the_seed(name: str, shape: tuple[int, ...]) -> None:
    augment = AUGMENTATIONS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    torch.manual_seed(5)
    first = augment(x)
    torch.manual_seed(5)
    assert torch.equal(first, augment(x)) and torch.equal(x, before)
    assert first.shape == x.shape and first.dtype == x.dtype and bool(torch.isfinite(first).all())
    if shape[-1] > 2:
        assert not torch.equal(first, augment(x))


def test_natural_only_moves_pixels() -> None:
    torch.manual_seed(0)
    x = torch.arange(8 * 8, dtype=torch.float32).view(1, 1, 8, 8).repeat(40, 1, 1, 1)
    y = AUGMENTATIONS["natural"](x)
    assert set(y.unique().tolist()) <= set(x.unique().tolist())
    steps = (y[:, 0, 3, 4] - y[:, 0, 3, 3]).tolist()
    assert {1.0, -1.0} <= set(steps)
    assert {float(v) for v in (y[:, 0, 4, 3] - y[:, 0, 3, 3]).abs()} == {8.0}


def test_glyphs_stay_in_place() -> None:
    torch.manual_seed(0)
    x = torch.zeros(64, 1, 32, 48)
    x[:, :, 14:18, 22:26] = 1.0
    y = AUGMENTATIONS["glyphs"](x).clamp(min=0)
    rows = (y.sum((1, 3)) * torch.arange(32)).sum(1) / y.sum((1, 2, 3))
    columns = (y.sum((1, 2)) * torch.arange(48)).sum(1) / y.sum((1, 2, 3))
    assert float((rows - 15.5).abs().max()) < 0.16 * 32 and float((columns - 23.5).abs().max()) < 0.16 * 48
    assert float(rows.std()) > 0.5


def test_unknown_augmentations_are_refused() -> None:
    with pytest.raises(BadInput, match="augment: expected one of glyphs, natural, sound, none; found 'mixup'"):
        augmentation("mixup")
    x = torch.rand(2, 1, 3, 3)
    assert augmentation(None)(x) is x and augmentation("none")(x) is x
