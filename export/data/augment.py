"""Augmentation of training batches, on tensors: every draw comes from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edge.runtime.errors import BadInput


def glyphs(x: Tensor, degrees: float = 15.0, shift: float = 0.1, zoom: float = 0.12) -> Tensor:
    """Small rotations, shifts and zooms, for characters and gray pictures whose orientation has a meaning.

    Args:
        x: float32 [B, C, H, W].
        degrees: largest rotation to either side.
        shift: largest shift, as a share of the side.
        zoom: largest change of size, as a share.

    Returns:
        float32 [B, C, H, W]; what comes in from outside repeats the border.
    """
    count = x.shape[0]
    u = torch.rand(4, count, device=x.device).mul_(2).sub_(1)
    angle = u[0] * (degrees * torch.pi / 180)
    size = 1 + u[1] * zoom
    cos, sin = angle.cos() * size, angle.sin() * size
    # Coordinates run from -1 to 1 on both axes, so a rotation of a picture that is not square is scaled back.
    ratio = x.shape[-2] / x.shape[-1]
    theta = torch.stack([cos, -sin * ratio, u[2] * (2 * shift), sin / ratio, cos, u[3] * (2 * shift)], -1)
    grid = F.affine_grid(theta.view(count, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def natural(x: Tensor, margin: float = 0.125) -> Tensor:
    """Mirrors half of the pictures and crops each at a random place out of its reflected border.

    Args:
        x: float32 [B, C, H, W].
        margin: width of the added border, as a share of the side.
    """
    count, _, height, width = x.shape
    mirrored = torch.rand(count, device=x.device) < 0.5
    x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
    rows, columns = min(max(1, int(height * margin)), height - 1), min(max(1, int(width * margin)), width - 1)
    padded = F.pad(x, (columns, columns, rows, rows), mode="reflect")
    top = torch.randint(0, 2 * rows + 1, (count, 1), device=x.device)
    left = torch.randint(0, 2 * columns + 1, (count, 1), device=x.device)
    row = top + torch.arange(height, device=x.device)
    column = left + torch.arange(width, device=x.device)
    sample = torch.arange(count, device=x.device).view(-1, 1, 1)
    return padded.movedim(1, -1)[sample, row[:, :, None], column[:, None, :]].movedim(-1, 1).contiguous()


def sound(x: Tensor, shift: float = 0.12, noise: float = 0.15, gain: float = 0.2, mask: float = 0.12) -> Tensor:
    """Shifts log-mel features in time, changes their loudness, adds noise and hides one band (arXiv 1904.08779).

    Args:
        x: float32 [B, 1, frames, bands], normalised.
        shift: largest shift in time, as a share of the frames; the border repeats.
        noise: largest standard deviation of the noise.
        gain: standard deviation of the change of level.
        mask: widest hidden run of bands, as a share of the bands.
    """
    count, _, frames, bands = x.shape
    reach = int(frames * shift)
    moved = torch.randint(-reach, reach + 1, (count, 1), device=x.device)
    index = (torch.arange(frames, device=x.device) + moved).clamp_(0, frames - 1)
    x = x.gather(2, index.view(count, 1, frames, 1).expand_as(x))
    level = torch.randn(count, 1, 1, 1, device=x.device) * gain
    strength = torch.rand(count, 1, 1, 1, device=x.device) * noise
    x = x + level + torch.randn_like(x) * strength
    length = torch.randint(0, int(bands * mask) + 1, (count, 1), device=x.device)
    first = (torch.rand(count, 1, device=x.device) * (bands - length + 1)).long()
    band = torch.arange(bands, device=x.device)
    hidden = (band >= first) & (band < first + length)
    return x.masked_fill(hidden.view(count, 1, 1, bands), 0.0)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {"glyphs": glyphs, "natural": natural, "sound": sound}


def augmentation(name: str | None) -> Callable[[Tensor], Tensor]:
    """The function behind a name; None and "none" are the identity."""
    if name is None or name == "none":
        return lambda x: x
    if name not in AUGMENTATIONS:
        raise BadInput(f"augment: expected one of {', '.join(AUGMENTATIONS)}, none; found {name!r}")
    return AUGMENTATIONS[name]
