"""LiteRT: runs `.tflite` with ai-edge-litert, or with the older tflite-runtime; XNNPACK by default in both."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.runtime.backends.engine_log import logged_to
from edge.runtime.backends.session import Buffer, OpProfile, whole_model
from edge.runtime.errors import BadFile, MissingDependency, Unsupported
from edge.runtime.fields import reason
from edge.runtime.manifest import TensorSpec

_PACKAGES = ("ai_edge_litert", "tflite_runtime")


class LitertSession:
    """An interpreter with its tensors allocated."""

    def __init__(self, interpreter: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self._interpreter = interpreter
        self._input_indices = [detail["index"] for detail in inputs]
        self._output_indices = [detail["index"] for detail in outputs]
        self.inputs = [_spec(detail) for detail in inputs]
        self.outputs = [_spec(detail) for detail in outputs]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        for index, array in zip(self._input_indices, arrays, strict=True):
            self._interpreter.set_tensor(index, array)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise Unsupported(f"litert failed to run the model: {reason(error)}") from None
        # get_tensor copies out of the arena.
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def profile(self, arrays: Sequence[NDArray[Any]]) -> list[OpProfile]:
        """One figure for the whole model: the Python interpreter offers no times of its operators."""
        return whole_model(lambda: self.run(arrays))

    def close(self) -> None:
        del self._interpreter


def available() -> str | None:
    if not any(importlib.util.find_spec(package) for package in _PACKAGES):
        return "the litert backend needs ai-edge-litert (or tflite-runtime): pip install 'edge-deploy[litert]'"
    return None


def open(data: Buffer, threads: int) -> LitertSession:
    missing = available()
    if missing:
        raise MissingDependency(missing)
    content = bytes(data)
    # Both interpreters may crash on bytes that are no flatbuffer at all.
    if content[4:8] != b"TFL3":
        raise BadFile("not a .tflite model: its identifier is missing")
    try:
        # It announces its delegate on stderr.
        with tempfile.TemporaryFile("w+") as log, logged_to(log):
            interpreter = _interpreter_class()(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            inputs = interpreter.get_input_details()
            outputs = interpreter.get_output_details()
            if list(interpreter.get_signature_list()) == ["serving_default"]:
                # The order of a subgraph's tensors need not be that of the function's arguments; the signature's names
                # tell.
                runner = interpreter.get_signature_runner("serving_default")
                inputs = _in_order(runner.get_input_details(), inputs)
                outputs = _in_order(runner.get_output_details(), outputs)
    # A damaged file's names may be no UTF-8 (a ValueError, too), its indices point nowhere.
    except (ValueError, RuntimeError) as error:
        text = reason(error)
        if re.search(r"unsupported|unresolved|custom op|didn't find op|data type", str(error), re.IGNORECASE):
            raise Unsupported(f"litert cannot run this model: {text}") from None
        raise BadFile(f"litert refuses the model, it may be truncated: {text}") from None
    return LitertSession(interpreter, inputs, outputs)


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as error:
            raise MissingDependency(
                f"the litert backend cannot be imported ({error}): pip install 'edge-deploy[litert]'"
            ) from None
    return Interpreter


def _in_order(signature: dict[str, dict[str, Any]], details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`details` sorted by the number at the end of the signature's names ("args_0", "output_1"), if all have one."""
    numbers = {name: int(found[0]) for name in signature if (found := re.search(r"[0-9]+$", name))}
    if not len(numbers) == len(signature) == len(details):
        return details
    return [signature[name] for name in sorted(signature, key=lambda name: numbers[name])]


def _spec(detail: dict[str, Any]) -> TensorSpec:
    shape = [int(size) for size in detail.get("shape_signature", detail["shape"])]
    if min(shape, default=1) < 0:
        raise Unsupported(f"tensor {detail['name']!r} has a dynamic shape {shape}: export it with fixed sizes")
    return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, tuple(shape))
