"""From what a user types ("cct_2_3x2", "my_model.py:build") to a module."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edge.export.models.registry import ModelInfo, find, registry
from edge.export.reason import USER_MODULE, first_line, in_user_code
from edge.runtime.errors import BadFile, BadInput

# What a data set knows about a model. A factory gets those it names; others reach it only if they were asked for.
_OFFERED = ("num_classes", "input_shape", "img_size", "n_input_channels", "in_channels", "in_chans")


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be built again: what a bundle's manifest records and a child process receives.

    Attributes:
        source: a registry name or "path/to/file.py:factory".
        kwargs: arguments of the factory. "num_classes" and "input_shape" (channels first, without the batch axis) come
            from the data set and go to a factory only if it names them, also as "img_size" (height, or
            (height, width) if they differ), "n_input_channels", "in_channels" or "in_chans".
    """

    source: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> ModelInfo:
        """What is known about the model; see `resolve` for the errors."""
        return resolve(self.source)

    @property
    def name(self) -> str:
        """The registry name, or the name of the user's file."""
        path, colon, _ = self.source.rpartition(":")
        return Path(path).stem if colon else self.source

    @property
    def keep(self) -> tuple[str, ...]:
        """Patterns of modules that stay in float when the model is quantized."""
        return self.info.keep

    def build(self) -> nn.Module:
        """Builds the module, in evaluation mode; its weights are drawn from torch's global generator.

        Raises:
            BadFile: the user's file is missing or cannot be run.
            BadInput: no such model, an argument it does not take, or a factory that fails or returns no module.
        """
        info = self.info
        kwargs = {**info.kwargs, **_fitting(info.factory, self.kwargs, self.source)}
        try:
            model = info.factory(**kwargs)
        except (BadInput, BadFile):
            raise
        except Exception as error:
            shown = ", ".join(f"{k}={v!r}" for k, v in kwargs.items())
            raise BadInput(
                f"{self.source}: {_last_name(self.source)}({shown}) failed{in_user_code(error)}: "
                f"{first_line(error, named=True)} (--debug shows the traceback)"
            ) from error
        if not isinstance(model, nn.Module):
            raise BadInput(f"{self.source}: returned {type(model).__name__}: expected a torch.nn.Module")
        return model.eval()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {"source": self.source, "kwargs": {k: _listed(v) for k, v in self.kwargs.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        return cls(values["source"], {k: tuple(v) if isinstance(v, list) else v for k, v in values["kwargs"].items()})


def resolve(source: str) -> ModelInfo:
    """The model behind a registry name (SHI-Labs' longer forms included) or "path/to/file.py:factory".

    The user's file is run as his own code, once for each content of the file; it may import its neighbours.

    Raises:
        BadFile: the file is missing or raises while it is run.
        BadInput: no such model, or the file has no such callable.
    """
    info = find(source)
    if info is not None:
        return info
    path, colon, name = source.rpartition(":")
    if not colon or not path.endswith(".py"):
        if source.endswith(".py"):
            raise BadInput(f"{source}: say which function makes the model, as in {source}:build")
        close = difflib.get_close_matches(source, registry(), 1, 0.5)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise BadInput(f"{source!r}: no such model.{hint} Known: {', '.join(registry())}, or path/to/file.py:factory")
    module = _run_file(Path(path).expanduser())
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and not key.startswith("_")
        ]
        raise BadInput(f"{path}: has no function {name!r}; it has {', '.join(own[:6]) or 'none'}")
    description = f"{name} of {Path(path).name}"
    return ModelInfo(source, "user", description, "", (), 0, factory)


def _run_file(path: Path) -> Any:
    if not path.is_file():
        raise BadFile(f"{path}: no such file")
    data = path.read_bytes()
    # Named by content, so that two files called model.py do not meet and an edited one is run again.
    name = f"{USER_MODULE}{path.stem}_{hashlib.sha256(str(path.resolve()).encode() + data).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and the like look their module up while it is being run.
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadFile(
            f"{path}: cannot be run: {first_line(error, named=True)}{in_user_code(error)} (--debug shows the traceback)"
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return module


def _fitting(factory: Callable[..., nn.Module], kwargs: dict[str, Any], source: str) -> dict[str, Any]:
    """The arguments a factory takes: all that were asked for, and of the data set's those that it names."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {key: value for key, value in kwargs.items() if key not in _OFFERED}
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [key for key in kwargs if key not in named and key not in _OFFERED and not takes_any]
    if unknown:
        raise BadInput(
            f"{source}: {_last_name(source)} takes no {unknown[0]!r}; it takes {', '.join(sorted(named)) or 'nothing'}"
        )
    fitting = {key: value for key, value in kwargs.items() if key in named or key not in _OFFERED}
    shape = kwargs.get("input_shape")
    if shape is not None and "input_shape" not in named and len(shape) == 3:
        channels, height, width = shape
        derived = {"img_size": height if height == width else (height, width)}
        derived |= dict.fromkeys(("n_input_channels", "in_channels", "in_chans"), channels)
        fitting = {key: value for key, value in derived.items() if key in named} | fitting
    absent = [
        name
        for name, parameter in parameters.items()
        if name in named and parameter.default is parameter.empty and name not in fitting
    ]
    if absent:
        raise BadInput(
            f"{source}: {_last_name(source)} needs {absent[0]!r}, but edge supplies num_classes and input_shape: "
            f"give {absent[0]!r} a default"
        )
    return fitting


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _last_name(source: str) -> str:
    return source.rpartition(":")[2]
