"""edge.runtime: run models without PyTorch.

    from edge.runtime import load

    with load("digits.edge") as model:
        print(model.predict("seven.png").label)

Names are imported when they are first used (PEP 562), so that importing this package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.runtime.backends.session import OpProfile
    from edge.runtime.bundle import Bundle, file_entry, write_bundle
    from edge.runtime.errors import BadFile, BadInput, EdgeError, MissingDependency, Unsupported
    from edge.runtime.manifest import InputSpec, Manifest, TensorSpec
    from edge.runtime.model import Model, load
    from edge.runtime.prediction import Prediction
    from edge.runtime.preprocess import ArrayPreprocess, AudioPreprocess, ImagePreprocess

__all__ = [
    "ArrayPreprocess",
    "AudioPreprocess",
    "BadFile",
    "BadInput",
    "Bundle",
    "EdgeError",
    "ImagePreprocess",
    "InputSpec",
    "Manifest",
    "MissingDependency",
    "Model",
    "OpProfile",
    "Prediction",
    "TensorSpec",
    "Unsupported",
    "file_entry",
    "load",
    "write_bundle",
]

_HOMES = {
    "backends.session": ("OpProfile",),
    "bundle": ("Bundle", "file_entry", "write_bundle"),
    "errors": ("BadFile", "BadInput", "EdgeError", "MissingDependency", "Unsupported"),
    "manifest": ("InputSpec", "Manifest", "TensorSpec"),
    "model": ("Model", "load"),
    "prediction": ("Prediction",),
    "preprocess": ("ArrayPreprocess", "AudioPreprocess", "ImagePreprocess"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
