"""ONNX Runtime: runs `.onnx` on the CPU."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge.runtime.backends.session import Buffer, OpProfile
from edge.runtime.errors import BadFile, MissingDependency, Unsupported
from edge.runtime.fields import reason
from edge.runtime.manifest import TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("int8", "uint8", "int16", "int32", "int64", "bool")},
}


class OnnxSession:
    """An inference session; keeps the model's bytes, from which a profiling session is made."""

    def __init__(self, content: bytes, threads: int) -> None:
        self._content = content
        self._threads = threads
        self._session = _session(content, threads)
        self.inputs = [_spec(node) for node in self._session.get_inputs()]
        self.outputs = [_spec(node) for node in self._session.get_outputs()]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return _run(self._session, self.inputs, arrays)

    def profile(self, arrays: Sequence[NDArray[Any]]) -> list[OpProfile]:
        """Times of onnxruntime's own profiler, node by node, of the second of two runs."""
        with tempfile.TemporaryDirectory(prefix="edge-profile-") as folder:
            session = _session(self._content, self._threads, str(Path(folder, "onnx")))
            _run(session, self.inputs, arrays)
            _run(session, self.inputs, arrays)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        # A node's later event replaces its earlier one, and keeps the place in the order of execution.
        times = {
            event["name"]: OpProfile(event["args"]["op_name"], event["dur"] * 1e-6)
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        }
        return list(times.values())

    def close(self) -> None:
        del self._session


def available() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return "the onnx backend needs onnxruntime: pip install 'edge-deploy[onnx]'"
    return None


def open(data: Buffer, threads: int) -> OnnxSession:
    missing = available()
    if missing:
        raise MissingDependency(missing)
    return OnnxSession(bytes(data), threads)


def _session(content: bytes, threads: int, profile_prefix: str | None = None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(f"onnxruntime cannot be imported ({error}): pip install 'edge-deploy[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    try:
        # There is nothing to fall back to, and it would say on stdout that it does.
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    # onnxruntime's exceptions share no base class but Exception, and their names tell them apart.
    except Exception as error:
        text = reason(error)
        if type(error).__name__ in ("NotImplemented", "InvalidGraph"):
            raise Unsupported(f"onnxruntime cannot run this model: {text}") from None
        raise BadFile(f"onnxruntime refuses the model, it may be truncated: {text}") from None


def _run(session: Any, inputs: Sequence[TensorSpec], arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    feed = {spec.name: array for spec, array in zip(inputs, arrays, strict=True)}
    try:
        outputs: list[NDArray[Any]] = session.run(None, feed)
    except Exception as error:
        raise Unsupported(f"onnxruntime failed to run the model: {reason(error)}") from None
    return outputs


def _spec(node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise Unsupported(f"tensor {node.name!r} is a {node.type}, which is not supported")
    if not all(isinstance(size, int) for size in node.shape):
        raise Unsupported(f"tensor {node.name!r} has a dynamic shape {node.shape}: export it with fixed sizes")
    return TensorSpec(node.name, dtype, tuple(node.shape))
