"""What every reader returns: a `Dataset` of two `Split`s with the preprocessing that made them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.runtime.errors import BadInput
from edge.runtime.preprocess import AudioPreprocess, ImagePreprocess, Preprocess

Shape: TypeAlias = "tuple[int | None, ...]"
"""Shape of one sample as asked for; None in the place of the channels for the data's own."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples with labels, in the smallest form that preprocessing normalises.

    Attributes:
        x: uint8 [n, H, W, C] for images, float32 [n, 1, frames, mels] (log-mel, not normalised) for sound, float32
            [n, ...] for arrays.
        y: int64 [n], index into `Dataset.labels`.
        preprocess: the data set's.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Tensor | NDArray[np.integer[Any]] | Sequence[int]) -> Tensor:
        """Normalised float32 [len(indices), ...] as the model takes it."""
        chosen = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices)
        return torch.from_numpy(np.ascontiguousarray(self.preprocess.normalize(self.x[chosen])))

    def arrays(self) -> NDArray[np.float32]:
        """All samples, normalised: float32 [n, ...]."""
        return np.ascontiguousarray(self.preprocess.normalize(self.x))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set.

    Attributes:
        name: short, for file names and tables.
        labels: class names; `Split.y` indexes them.
        train, test: the splits; they share no sample.
        preprocess: from a file or array to the model's input.
        provenance: where the samples come from (path, counts, how they were split), JSON-ready.
        augment: name of the augmentation that suits them (`edge.export.data.augment`), or None.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    test: Split
    preprocess: Preprocess
    provenance: dict[str, Any]
    augment: str | None

    @property
    def task(self) -> str:
        """ "image-classification", "audio-classification" or "classification"."""
        if isinstance(self.preprocess, ImagePreprocess):
            return "image-classification"
        return "audio-classification" if isinstance(self.preprocess, AudioPreprocess) else "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as the model takes it, without the batch axis."""
        return self.preprocess.input_shape[1:]


def stratified(y: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Splits indices into (train, test) with the same share of every class in both, rounded up for the test split.

    Args:
        y: int64 [n] class of each sample.
        fraction: share of the test split, above 0 and below 1.
        seed: of the draw.

    Raises:
        BadInput: a fraction out of range, or a class with a single sample.
    """
    if not 0 < fraction < 1:
        raise BadInput(f"test_fraction: expected above 0 and below 1, found {fraction!r}")
    rng = np.random.default_rng(seed)
    test = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) < 2:
            raise BadInput(f"class {label} has a single sample: a train and a test split need two")
        count = min(math.ceil(fraction * len(members) - 1e-9), len(members) - 1)
        test[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def evenly(y: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of at most `count` samples, drawn as evenly from all classes as there are samples, in ascending order."""
    rank = np.empty(len(y), np.int64)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        rank[rng.permutation(members)] = np.arange(len(members))
    return np.sort(np.lexsort((y, rank))[:count])
