"""Inputs made up for a model that is measured, not asked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.runtime.manifest import TensorSpec


def random_inputs(specs: Sequence["TensorSpec"], generator: "np.random.Generator") -> list["NDArray[Any]"]:
    """One array for each of `specs`: normal values for floats, zeros (valid indices anywhere) for the rest."""
    import numpy as np

    arrays: list[NDArray[Any]] = []
    for spec in specs:
        if spec.dtype.startswith("float"):
            arrays.append(generator.standard_normal(spec.shape).astype(spec.dtype))
        else:
            arrays.append(np.zeros(spec.shape, dtype=spec.dtype))
    return arrays
