"""Lowering to ExecuTorch's `.pte`: fuse, edge dialect, memory planning, and a check that the core can run it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from executorch.exir.operator.convert import to_out_variant
from torch import Tensor, nn

import edge.export.ops  # noqa: F401  (registers the operators that the program calls)
from edge.export.lower.arena import planning
from edge.export.lower.freeze import in_layout, module_path, trace
from edge.export.lower.fuse import fuse
from edge.runtime import _core
from edge.runtime.errors import Unsupported
from edge.runtime.whole_file import whole_file

# Prim operators that the planner itself resolves; they never reach an operator table.
_PLANNED = frozenset({"executorch_prim::et_view.default"})


def to_pte(
    frozen: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    compact_constants: bool = True,
    int8_attention: bool = False,
    portable: bool = False,
    layout: str = "rows",
) -> dict[str, Any]:
    """Writes `frozen` as an ExecuTorch program that the core runs.

    Args:
        frozen: from `edge.export.lower.freeze.freeze`.
        example: inputs, float32; their shapes become the program's.
        path: where to write; whole or not at all.
        compact_constants, int8_attention: see `edge.export.lower.fuse.fuse`.
        layout: how ternary weights lie in the file (`edge.runtime.target.Target.layout`); any core runs all of them.
        portable: skip fusion and leave plain ATen operators (for comparison; any ExecuTorch runtime can run it).

    Returns:
        {"bytes": size of the file, "ops": {operator: count}}.

    Raises:
        Unsupported: an operator is left that the core does not run; names it and the module it came from.
    """
    exported = trace(in_layout(frozen, layout) if layout != "rows" else frozen, example)
    if not portable:
        # Functionalizes in-place calls (`relu_`, `+=`) and decomposes nothing.
        exported = fuse(
            exported.run_decompositions({}), compact_constants=compact_constants, int8_attention=int8_attention
        )
    edge = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False))
    _refuse_unsupported(edge.exported_program())
    config = ExecutorchBackendConfig(extract_delegate_segments=True, memory_planning_pass=planning())
    program = edge.to_executorch(config)
    data = program.buffer
    with whole_file(path) as file:
        file.write(data)
    return {"bytes": len(data), "ops": dict(operators_of(program))}


def operators_of(program: Any) -> Counter[str]:
    """How often each operator occurs in an `ExecutorchProgramManager`, by its name in the file."""
    counts: Counter[str] = Counter()
    for plan in program.executorch_program.execution_plan:
        names = [f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators]
        for chain in plan.chains:
            for instruction in chain.instructions:
                index = getattr(instruction.instr_args, "op_index", None)
                if index is not None:
                    counts[names[index]] += 1
    return counts


def _refuse_unsupported(program: Any) -> None:
    supported = set(_core.operators())
    missing: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or (not hasattr(node.target, "_schema") and not hasattr(node.target, "_op")):
            continue
        name = _out_name(node.target)
        if name not in supported and name not in _PLANNED:
            missing.setdefault(name, f"module {path!r}" if (path := module_path(node)) else "the top-level module")
    if missing:
        listed = "; ".join(f"{name} in {where}" for name, where in list(missing.items())[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise Unsupported(
            f"the core has no operator for {listed}{more}: "
            "rewrite that with supported operators (docs/operators.md), or leave .pte out with --formats"
        )


def _out_name(target: Any) -> str:
    """The name under which a functional edge-dialect operator appears in the file: its out variant's."""
    try:
        out = target.to_out_variant() if hasattr(target, "to_out_variant") else to_out_variant(target)[0]
    except RuntimeError:
        out = getattr(target, "_op", target)  # it has none; the message shows the functional name
    schema = out._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)
