"""The engines behind `edge.runtime.load`. Each is a module of this package with the functions of `session.Backend`.

A backend's engine is imported when a model is opened with it, never before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edge.runtime.errors import BadInput
from edge.runtime.manifest import ENGINES

if TYPE_CHECKING:
    from edge.runtime.backends.session import Backend


def backend_module(name: str) -> Backend:
    """The backend called "core", "executorch", "litert" or "onnx".

    Raises:
        BadInput: another name.
    """
    if name == "core":
        from edge.runtime.backends import core

        return core
    if name == "executorch":
        from edge.runtime.backends import executorch

        return executorch
    if name == "litert":
        from edge.runtime.backends import litert

        return litert
    if name == "onnx":
        from edge.runtime.backends import onnx

        return onnx
    raise BadInput(f"backend {name!r}: expected auto, {', '.join(ENGINES)}")


def default_threads() -> int:
    """$EDGE_THREADS, else the cores that this process may use, at most 4: small models get no faster beyond.

    Raises:
        BadInput: $EDGE_THREADS is no number from 1 to 256.
    """
    wanted = os.environ.get("EDGE_THREADS", "")
    if wanted:
        if not wanted.isdecimal() or not 1 <= int(wanted) <= 256:
            raise BadInput(f"EDGE_THREADS is {wanted!r}: expected a number from 1 to 256")
        return int(wanted)
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        usable = os.cpu_count() or 1
    return min(4, usable)
