"""What `Model.predict` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one sample.

    Args:
        label: name of the best class; its index as text where the model has no labels.
        index: index of the best class.
        score: its probability, 0..1.
        scores: float32 [classes], softmax of the model's first output.
        labels: names of all classes.
    """

    label: str
    index: int
    score: float
    scores: NDArray[np.float32]
    labels: tuple[str, ...]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` best classes as (label, score), best first."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.labels[index], float(self.scores[index])) for index in best]
