"""ExecuTorch's own runtime: runs any `.pte`, delegates included; needs the executorch and torch wheels."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edge.runtime.backends.engine_log import logged_to
from edge.runtime.backends.session import Buffer, OpProfile, whole_model
from edge.runtime.errors import BadFile, EdgeError, MissingDependency, Unsupported
from edge.runtime.fields import reason
from edge.runtime.manifest import TensorSpec

# ScalarType in ExecuTorch's schema.
_DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 6: "float32", 7: "float64", 11: "bool"}

_lock = threading.Lock()
_op_library: ctypes.CDLL | None = None


class ExecutorchSession:
    """A loaded method; holds the program and its bytes, which ExecuTorch reads in place."""

    def __init__(self, program: Any, method: Any) -> None:
        self._program = program
        self._method = method
        meta = method.metadata
        self.inputs = [_spec(meta.input_tensor_meta(i), f"input_{i}") for i in range(meta.num_inputs())]
        self.outputs = [_spec(meta.output_tensor_meta(i), f"output_{i}") for i in range(meta.num_outputs())]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        import torch

        with warnings.catch_warnings():
            # A read-only array is fine: inputs are copied into the program's memory.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensors = [torch.from_numpy(array) for array in arrays]
        try:
            outputs = self._method.execute(tensors)
        except RuntimeError as error:
            raise Unsupported(f"executorch failed to run the program: {reason(error)}") from None
        # ExecuTorch clones outputs out of its arena, so the arrays are the caller's.
        return [output.numpy() for output in outputs]

    def profile(self, arrays: Sequence[NDArray[Any]]) -> list[OpProfile]:
        """One figure for the whole model: the wheel is built without ExecuTorch's event tracer."""
        return whole_model(lambda: self.run(arrays))

    def close(self) -> None:
        del self._method, self._program


def available() -> str | None:
    if importlib.util.find_spec("executorch") is None or importlib.util.find_spec("torch") is None:
        return "the executorch backend needs the packages executorch and torch: pip install 'edge-deploy[executorch]'"
    return None


def open(data: Buffer, threads: int) -> ExecutorchSession:
    """Opens a program. `threads` sets ExecuTorch's thread pool, which all its programs in a process share."""
    missing = available()
    if missing:
        raise MissingDependency(missing)
    content = bytes(data)
    if content[4:6] != b"ET":
        raise BadFile("not a .pte program: its identifier is missing")
    runtime = _runtime()
    if b"edge::" in content:
        _load_op_library()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            with logged_to(log):
                program = runtime.load_program(content)
                _set_threads(threads)
                methods = ", ".join(sorted(program.method_names))
                if "forward" not in program.method_names:
                    raise Unsupported(f"the program has no method 'forward', only {methods}")
                method = program.load_method("forward")
        except RuntimeError as error:
            log.seek(0)
            raise _load_error(log.read(), error) from None
    return ExecutorchSession(program, method)


def _runtime() -> Any:
    """ExecuTorch's runtime singleton.

    `executorch.runtime` imports executorch.exir, the exporter (10 s and 370 MB), for the class of one warning. Unless
    exir is there already, an empty module stands in for it while the runtime is imported.
    """
    with _lock:
        lean = "executorch.exir" not in sys.modules and "executorch.runtime" not in sys.modules
        if lean:
            exir = types.ModuleType("executorch.exir")
            exir.__path__ = []
            inner = types.ModuleType("executorch.exir._warnings")
            inner.ExperimentalWarning = type("ExperimentalWarning", (Warning,), {})  # type: ignore[attr-defined]
            exir._warnings = inner  # type: ignore[attr-defined]
            sys.modules |= {"executorch.exir": exir, "executorch.exir._warnings": inner}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from executorch.runtime import Runtime
        except ImportError as error:
            raise MissingDependency(
                f"executorch cannot be imported ({error}): pip install 'edge-deploy[executorch]'"
            ) from None
        finally:
            if lean:
                # An exporter in the same process must get the real module.
                del sys.modules["executorch.exir"], sys.modules["executorch.exir._warnings"]
        return Runtime.get()


def _load_op_library() -> None:
    """Registers the `edge::` operators with ExecuTorch, once a process."""
    global _op_library
    from edge.runtime.backends.op_library import library_path

    with _lock:
        if _op_library is None:
            _op_library = ctypes.CDLL(str(library_path()))


def _load_error(log: str, error: RuntimeError) -> EdgeError:
    """Exceptions carry a number only; what is missing is named in the log."""
    operators = sorted(set(re.findall(r"Missing operator: \[[0-9]+\] (\S+)", log)))
    if operators:
        return Unsupported(f"executorch has no operator {', '.join(operators[:5])}")
    delegate = re.search(r"Backend (\S+) is not registered", log)
    if delegate:
        return Unsupported(f"this executorch has no delegate {delegate[1]}")
    return BadFile(f"executorch refuses the program, it may be truncated: {reason(error)}")


def _set_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)


def _spec(info: Any, name: str) -> TensorSpec:
    dtype = _DTYPES.get(info.dtype())
    if dtype is None:
        raise Unsupported(f"{name} has ExecuTorch's scalar type {info.dtype()}, which is not supported")
    return TensorSpec(name, dtype, tuple(info.sizes()))
