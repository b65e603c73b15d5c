"""Memory planning of a `.pte`: tensors that live at once never share a byte, and gaps are used."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

pytest.importorskip("executorch", reason="memory planning: executorch is not installed")

from edge.export.lower.arena import lowest_free


@dataclass(eq=False)
class Tensor:
    """What a planning algorithm reads of executorch's TensorSpec."""

    allocated_memory: int
    lifetime: list[int]
    mem_id: int | None = None
    inplace_base: object = None
    alignments: list[int] = field(default_factory=list)

    def realign(self, alignment: int) -> int:
        self.alignments.append(alignment)
        self.allocated_memory = -(-self.allocated_memory // alignment) * alignment
        return self.allocated_memory


def planned(specs: list[Tensor], graph: object = None) -> int:
    """Bytes of the plan, after a check of every pair."""
    result = lowest_free(16, set(specs), graph, None)  # type: ignore[arg-type]
    place = {spec: result.spec_dict[spec].mem_offset for spec in specs}
    assert all(result.spec_dict[spec].mem_id == 1 and place[spec] % 16 == 0 for spec in specs)
    assert all(place[spec] + spec.allocated_memory <= result.bufsizes[1] for spec in specs)
    for index, one in enumerate(specs):
        for other in specs[:index]:
            if one.lifetime[0] <= other.lifetime[1] and other.lifetime[0] <= one.lifetime[1]:
                apart = place[one] + one.allocated_memory <= place[other]
                assert apart or place[other] + other.allocated_memory <= place[one], (one, other)
    assert len(result.bufsizes) == 2 and result.bufsizes[0] == 0
    return result.bufsizes[1]


def alive_at_once(specs: list[Tensor]) -> int:
    """No plan can be smaller."""
    return max(
        sum(spec.allocated_memory for spec in specs if spec.lifetime[0] <= at <= spec.lifetime[1])
        for at in range(1 + max(spec.lifetime[1] for spec in specs))
    )


def test_a_chain_takes_what_is_alive_at_once() -> None:
    """A large image, its pooled form, and blocks with a residual: the shape of a CCT, which left gaps of 256."""
    sizes = [12, 1024, 256, 256, 256, 256, 256, 768, 256, 256, 256, 512, 256]
    lifetimes = [[i, i + 1] for i in range(len(sizes))]
    lifetimes[5] = [5, 9]  # the residual
    specs = [Tensor(size * 1024, lifetime) for size, lifetime in zip(sizes, lifetimes, strict=True)]
    assert planned(specs) == alive_at_once(specs) == 1280 * 1024


def test_any_lifetimes_are_planned_soundly() -> None:
    rng = random.Random(5)
    for _ in range(200):
        specs = []
        for _ in range(rng.randrange(1, 25)):
            first = rng.randrange(20)
            specs.append(Tensor(rng.choice((0, 1, 16, 100, 1000, 4096)), [first, first + rng.randrange(6)]))
        assert alive_at_once(specs) <= planned(specs)


def test_what_it_does_not_plan_is_left_to_executorch() -> None:
    base = Tensor(64, [0, 1])
    inner = Tensor(64, [1, 2], inplace_base=base)
    result = lowest_free(16, {base, inner}, None, None)  # type: ignore[arg-type]
    assert result.spec_dict[inner].mem_offset == result.spec_dict[base].mem_offset
