"""Memory planning: where in the arena each intermediate tensor lies.

ExecuTorch's own planner stacks tensors in buckets and leaves gaps; on a CCT-7/3x1 it takes 1.5 MiB where 1.25 are alive
at once. This one puts each tensor, in several orders, at the lowest place that is free while it lives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from executorch.exir.memory_planning import (
    MemoryAlgoResult,
    MemoryPlanningAlgorithmSuite,
    SpecAllocResult,
    greedy,
)
from executorch.exir.passes import MemoryPlanningPass

# A program that is planned has some 100 tensors; the search takes time that grows with the square of it.
_MAX_TENSORS = 4096

# Which tensor is placed first. Several, because none is the best for every network.
_ORDERS: tuple[Callable[[Any], Any], ...] = (
    lambda spec: (-spec.allocated_memory, *spec.lifetime),
    lambda spec: (-spec.allocated_memory, -spec.lifetime[0], spec.lifetime[1]),
    lambda spec: (-spec.allocated_memory, spec.lifetime[0] - spec.lifetime[1], spec.lifetime[0]),
    lambda spec: (spec.lifetime[0] - spec.lifetime[1], -spec.allocated_memory, spec.lifetime[0]),
    lambda spec: (*spec.lifetime, -spec.allocated_memory),
)


def planning() -> MemoryPlanningPass:
    """The pass for `ExecutorchBackendConfig`: takes the smaller of ExecuTorch's plan and ours."""
    return MemoryPlanningPass(memory_planning_algo=MemoryPlanningAlgorithmSuite([greedy, lowest_free]))


def lowest_free(
    alignment: int, specs: set[Any], graph_module: Any, graph_signature: Any, extra_padding: int = 0
) -> MemoryAlgoResult:
    """A planning algorithm of ExecuTorch's suite; for what it does not plan (see below), it answers as `greedy` does.

    Args:
        alignment: of every tensor, in bytes.
        specs: the tensors, with the first and last instruction that needs each.
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
    placed = min((_place(sorted(specs, key=order)) for order in _ORDERS), key=lambda found: found[1])
    offsets, total = placed
    return MemoryAlgoResult(
        {spec: SpecAllocResult(1, 0, offset) for spec, offset in offsets}, [0, total + extra_padding]
    )


def _place(specs: list[Any]) -> tuple[list[tuple[Any, int]], int]:
    """(tensor, offset) of each, placed in the order given, and the bytes that they take together."""
    placed: list[tuple[Any, int]] = []
    total = 0
    for spec in specs:
        first, last = spec.lifetime
        beside = sorted(
            (offset, offset + other.allocated_memory)
            for other, offset in placed
            if other.lifetime[0] <= last and first <= other.lifetime[1]
        )
        offset = 0
        for start, end in beside:
            if offset + spec.allocated_memory <= start:
                break
            offset = max(offset, end)
        placed.append((spec, offset))
        total = max(total, offset + spec.allocated_memory)
    return placed, total
