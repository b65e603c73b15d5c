"""What every lowering needs around its converter: silence while it works, and its refusal in one line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edge.export.lower.freeze import module_path
from edge.export.reason import first_line, in_user_code
from edge.runtime.errors import Unsupported


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallows everything the block prints, Python's streams and file descriptors 1 and 2 alike.

    The converters log from C++ and MLIR, which no `sys.stdout` redirection reaches. The descriptors belong to the
    whole process: other threads are silenced too while the block runs.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as sink, open(os.devnull, "w", encoding="utf-8") as null:
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            with (
                contextlib.redirect_stdout(null),
                contextlib.redirect_stderr(null),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


# Both converters quote the graph node they stopped at.
_STOPPED_AT = re.compile(r"(?:While executing|translating node) %\S+ : .*?target=torch\.ops\.([\w.]+)\]")


def refusal(error: Exception, module: nn.Module, example: tuple[Tensor, ...], converter: str) -> Unsupported:
    """Turns what a converter raised about `module` into one line that names the operator and its module.

    Args:
        error: what the converter raised.
        module: what was converted.
        example: the inputs it was converted with.
        converter: its name, for the message.
    """
    try:
        program = torch.export.export(module, example, strict=False)
    except Exception as trace_error:
        return Unsupported(
            f"{converter}: torch.export cannot trace the model{in_user_code(trace_error)}: {first_line(trace_error)}; "
            "it needs static shapes, and neither NumPy nor control flow that depends on data"
        )
    stopped = next((found for e in _causes(error) if (found := _STOPPED_AT.search(str(e)))), None)
    if stopped is None:
        return Unsupported(f"{converter} refuses the model: {first_line(error)}; leave this format out")
    operator = stopped.group(1)
    for stage in (program, program.run_decompositions()):
        for node in stage.graph.nodes:
            if node.op == "call_function" and _stem(str(node.target)) == _stem(operator):
                where = module_path(node) or "the top-level module"
                return Unsupported(f"{converter} cannot lower {operator} in {where}: {_REMEDY}")
    return Unsupported(f"{converter} cannot lower {operator}: {_REMEDY}")


_REMEDY = "rewrite that module with other operators, or leave this format out"


def _stem(operator: str) -> str:
    """`aten.erfinv.default` and the `prims.erf_inv.default` that it decomposes to have the same one."""
    return operator.split(".")[1].replace("_", "") if "." in operator else operator


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
