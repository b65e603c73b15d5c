"""Memory planning: where in the arena each intermediate tensor lies.

ExecuTorch's own planner stacks tensors in buckets and leaves gaps; on a CCT-7/3x1 it takes 1.5 MiB where 1.25 are alive
at once. This one puts each tensor, in several orders, at the lowest place that is free while it lives.

Where an `edge::` operator reads an input before it writes over it (`_core.covered_arguments`), and nothing needs that
input afterwards, the output lies on it. Other operators, which ExecuTorch runs with kernels of its own, get an output
that shares no byte with an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from executorch.exir.memory_planning import (
    MemoryAlgoResult,
    MemoryPlanningAlgorithmSuite,
    SpecAllocResult,
    greedy,
)
from executorch.exir.passes import MemoryPlanningPass

from edge.runtime import _core

# A program that is planned has some 100 tensors; the search takes time that grows with the square of it.
_MAX_TENSORS = 4096


@dataclass(frozen=True)
class _Block:
    """Tensors in one place: one, or a chain of which each is written over the one before it."""

    specs: tuple[Any, ...]
    bytes: int
    first: int
    last: int


# Which block is placed first. Several, because none is the best for every network.
_ORDERS: tuple[Callable[[_Block], Any], ...] = (
    lambda block: (-block.bytes, block.first, block.last),
    lambda block: (-block.bytes, -block.first, block.last),
    lambda block: (-block.bytes, block.first - block.last, block.first),
    lambda block: (block.first - block.last, -block.bytes, block.first),
    lambda block: (block.first, block.last, -block.bytes),
)


def planning() -> MemoryPlanningPass:
    """The pass for `ExecutorchBackendConfig`: takes the smaller of ExecuTorch's plan and ours."""
    return MemoryPlanningPass(
        memory_planning_algo=MemoryPlanningAlgorithmSuite([greedy, lowest_free]),
        # An output that lies on an input lives, for one instruction, as long as it.
        allow_lifetime_and_storage_overlap=True,
    )


def lowest_free(
    alignment: int, specs: set[Any], graph_module: Any, graph_signature: Any, extra_padding: int = 0
) -> MemoryAlgoResult:
    """A planning algorithm of ExecuTorch's suite; for what it does not plan (see below), it answers as `greedy` does.

    Args:
        alignment: of every tensor, in bytes.
        specs: the tensors, with the first and last instruction that needs each.
        graph_module: the program, with an out variant for every operator.
        extra_padding: bytes behind the last tensor.
    """
    plain = greedy(alignment, specs, graph_module, graph_signature, extra_padding)
    # Memory of submodules (control flow), several memories, and tensors that are written in place.
    if (
        getattr(graph_module, "input_mem_buffer_sizes", None)
        or len(plain.bufsizes) != 2
        or len(specs) > _MAX_TENSORS
        or any(spec.inplace_base is not None for spec in specs)
    ):
        return plain
    apart = [_Block((spec,), spec.allocated_memory, *spec.lifetime) for spec in specs]
    plans = [apart, _chained(specs, covering_pairs(graph_module, specs))]
    placed = min(
        (_place(sorted(blocks, key=order)) for blocks in plans for order in _ORDERS), key=lambda found: found[1]
    )
    offsets, total = placed
    return MemoryAlgoResult(
        {spec: SpecAllocResult(1, 0, offset) for block, offset in offsets for spec in block.specs},
        [0, total + extra_padding],
    )


def covering_pairs(graph_module: Any, specs: set[Any]) -> list[tuple[Any, Any]]:
    """(input, output) of every operator whose output may lie on an input that nothing needs behind it.

    Each tensor is the input of one pair at most, and the output of one. Inputs of the program are left as they are.
    """
    nodes = list(getattr(getattr(graph_module, "graph", None), "nodes", ()))
    # A view has its own spec, but the very lifetime of the tensor behind it.
    planned = {id(spec.lifetime): spec for spec in specs}
    inputs = {
        id(n.meta["spec"].lifetime) for n in nodes if n.op == "placeholder" and hasattr(n.meta.get("spec"), "lifetime")
    }
    pairs: list[tuple[Any, Any]] = []
    taken: set[int] = set()
    for index, node in enumerate(nodes):
        output = _planned(node.kwargs.get("out"), planned)
        if node.op != "call_function" or output is None:
            continue
        for argument in _covered(node):
            source = _planned(node.args[argument], planned) if argument < len(node.args) else None
            if (
                source is not None
                and source is not output
                and id(source) not in taken
                and id(source.lifetime) not in inputs
                and source.lifetime[1] == index
                and source.lifetime[0] < output.lifetime[0]
                and source.allocated_memory == output.allocated_memory
                and source.dtype == output.dtype
                and source.nbytes() == output.nbytes()
            ):
                pairs.append((source, output))
                taken.add(id(source))
                break
    return pairs


def _planned(node: Any, planned: dict[int, Any]) -> Any:
    """The tensor that is planned for a node's value, or None."""
    spec = node.meta.get("spec") if hasattr(node, "meta") else None
    return planned.get(id(spec.lifetime)) if hasattr(spec, "lifetime") else None


def _covered(node: Any) -> tuple[int, ...]:
    """Arguments on which the core says that the output of this call may lie."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.name.startswith("edge::"):
        return ()
    return _core.covered_arguments(f"{schema.name}.{schema.overload_name}")


def _chained(specs: set[Any], pairs: list[tuple[Any, Any]]) -> list[_Block]:
    """Blocks of the tensors that lie on each other, one by one, and of those that are alone."""
    after = {id(source): output for source, output in pairs}
    covering = {id(output) for _, output in pairs}
    blocks = []
    for spec in specs:
        if id(spec) in covering:
            continue
        chain = [spec]
        while id(chain[-1]) in after:
            chain.append(after[id(chain[-1])])
        blocks.append(_Block(tuple(chain), spec.allocated_memory, chain[0].lifetime[0], chain[-1].lifetime[1]))
    return blocks


def _place(blocks: list[_Block]) -> tuple[list[tuple[_Block, int]], int]:
    """(block, offset) of each, placed in the order given, and the bytes that they take together."""
    placed: list[tuple[_Block, int]] = []
    total = 0
    for block in blocks:
        beside = sorted(
            (offset, offset + other.bytes)
            for other, offset in placed
            if other.first <= block.last and block.first <= other.last
        )
        offset = 0
        for start, end in beside:
            if offset + block.bytes <= start:
                break
            offset = max(offset, end)
        placed.append((block, offset))
        total = max(total, offset + block.bytes)
    return placed, total
