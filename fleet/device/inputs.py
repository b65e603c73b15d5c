"""The inputs that a device has seen: a few hundred of them, kept so that a new model can be tried on them.

An application that wants its models judged on what really comes in hands them over:

    ring = InputRing("/var/lib/edge/inputs/kws")
    ring.put(x)                       # what went into the model
    ring.put(x, label="yes")          # and what it was, where somebody knows

They never leave the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.runtime.errors import EdgeError
from edge.runtime.fields import reason
from edge.runtime.whole_file import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.runtime.manifest import TensorSpec

KEEP = 256
MAX_INPUT_BYTES = 1 << 24


@dataclass(frozen=True)
class Sample:
    """An input as the model takes it, and its class's name or number where it is known."""

    array: NDArray[Any]
    label: str | None = None


class InputRing:
    """A folder of the newest inputs of one model; `keep` of them, the oldest go first."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = KEEP) -> None:
        self.folder = Path(folder)
        self.keep = keep
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EdgeError(f"{self.folder}: cannot be made: {reason(error)}") from None

    def put(self, array: NDArray[Any], label: str | None = None) -> None:
        """Keeps an input: an array of exactly the model's dtype and shape.

        Raises:
            EdgeError: the folder cannot be written.
        """
        import numpy as np

        with whole_file(self.folder / f"{time.time_ns():020d}.npz") as file:
            np.savez(file, input=np.asarray(array), label=np.array([] if label is None else [label], "U"))
        for old in sorted(self.folder.glob("*.npz"))[: -self.keep]:
            old.unlink(missing_ok=True)


def read_inputs(folder: Path, spec: TensorSpec, most: int) -> Iterator[Sample]:
    """The newest inputs that fit the model, at most `most`; others, and what cannot be read, are passed over."""
    import numpy as np

    found = 0
    for path in sorted(folder.glob("[0-9]*.npz"), reverse=True):
        if found >= most:
            return
        try:
            if path.stat().st_size > MAX_INPUT_BYTES:
                continue
            with np.load(path, allow_pickle=False) as arrays:
                array, label = arrays["input"], arrays["label"]
        except (OSError, ValueError, KeyError, EOFError):
            continue
        if array.dtype != np.dtype(spec.dtype) or array.shape != spec.shape or not np.isfinite(array).all():
            continue
        found += 1
        yield Sample(np.ascontiguousarray(array), str(label[0]) if label.size else None)
