"""Programs put together by hand with ExecuTorch's schema: `python pte_handmade.py OUTPUT_FOLDER`.

Run as a script in its own process, because ExecuTorch is slow to import. "edge_*" are small valid programs of `edge`
operators (there is nothing to train or lower in them); "wrong_*" are well-formed files that no exporter writes and
that must be refused, because running them would write to constants, over other tensors, or outside planned memory.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import (
    AllocationDetails,
    Bool,
    Buffer,
    Chain,
    ContainerMetadata,
    Double,
    EValue,
    ExecutionPlan,
    ExtraTensorInfo,
    FreeCall,
    Instruction,
    Int,
    IntList,
    KernelCall,
    Null,
    Operator,
    OptionalTensorList,
    Program,
    SubsegmentOffsets,
    Tensor,
    TensorDataLocation,
    TensorList,
    TensorShapeDynamism,
)
from numpy.typing import NDArray

DTYPES = {"uint8": ScalarType.BYTE, "int8": ScalarType.CHAR, "int64": ScalarType.LONG, "float32": ScalarType.FLOAT}
VIEW = "executorch_prim::et_view.default"


class Handmade:
    """Collects values and instructions; every method that adds a value returns its index."""

    def __init__(self) -> None:
        self.values: list[EValue] = []
        self.constants = [Buffer(b"")]
        self.operators: list[str] = []
        self.instructions: list[Instruction] = []
        self.memory = 0
        self.random = np.random.default_rng(7)

    def value(self, value: Any) -> int:
        """Any value of the schema."""
        self.values.append(EValue(value))
        return len(self.values) - 1

    def tensor(self, *sizes: int, dtype: str = "float32", at: int | None = None, **changes: Any) -> int:
        """A planned tensor, in memory of its own unless `at` gives the offset; `changes` override schema fields."""
        if at is None:
            at = self.memory
            self.memory += (int(np.prod(sizes)) * np.dtype(dtype).itemsize + 15) // 16 * 16
        fields = self.fields(sizes, dtype) | {"allocation_info": AllocationDetails(1, at, 0)} | changes
        return self.value(Tensor(**fields))

    def constant(self, array: NDArray[Any]) -> int:
        """A constant tensor."""
        self.constants.append(Buffer(array.tobytes()))
        fields = self.fields(array.shape, array.dtype.name) | {"data_buffer_idx": len(self.constants) - 1}
        return self.value(Tensor(**fields))

    def codes(self, outputs: int, inputs: int, bits: int = 2) -> int:
        """Packed random weight codes: none is a ternary 3."""
        return self.constant(
            self.random.choice([0x00, 0x05, 0x1A, 0x64], (outputs, -(-inputs * bits // 8))).astype("u1")
        )

    def floats(self, *sizes: int) -> int:
        """A constant of positive random floats."""
        return self.constant(self.random.uniform(0.1, 1.0, sizes).astype("f4"))

    def ints(self, *numbers: int) -> int:
        """An int list, whose entries are values of their own."""
        return self.value(IntList([self.value(Int(number)) for number in numbers]))

    def call(self, name: str, *args: int) -> None:
        """Adds a kernel call; `name` with its overload behind the dot."""
        if name not in self.operators:
            self.operators.append(name)
        self.instructions.append(Instruction(KernelCall(self.operators.index(name), list(args))))

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file."""
        operators = [Operator(*name.split(".")) for name in self.operators]
        plan = ExecutionPlan(
            "forward",
            ContainerMetadata("", ""),
            self.values,
            inputs,
            outputs,
            [Chain([], [], self.instructions, None)],
            operators,
            [],
            [0, self.memory],
        )
        return bytes(
            serialize_pte_binary(PTEFile(Program(0, [plan], self.constants, [], [], SubsegmentOffsets(0, []))))
        )

    @staticmethod
    def fields(sizes: tuple[int, ...], dtype: str) -> dict[str, Any]:
        """Schema fields of a contiguous tensor without memory."""
        return {
            "scalar_type": DTYPES[dtype],
            "storage_offset": 0,
            "sizes": list(sizes),
            "dim_order": list(range(len(sizes))),
            "requires_grad": False,
            "layout": 0,
            "data_buffer_idx": 0,
            "allocation_info": None,
            "shape_dynamism": TensorShapeDynamism.STATIC,
        }


def edge_block() -> bytes:
    """A ternary transformer block and its pooled head."""
    p = Handmade()
    none, no, norm, relu, plain = (
        p.value(Null()),
        p.value(Bool(False)),
        p.value(Double(1e-5)),
        p.value(Int(1)),
        p.value(Int(0)),
    )
    x = p.tensor(1, 4, 12)
    placed, normed, qkv, mixed = p.tensor(1, 4, 12), p.tensor(1, 4, 12), p.tensor(1, 4, 36), p.tensor(1, 4, 12)
    added, hidden, out, pooled, logits = (
        p.tensor(1, 4, 12),
        p.tensor(1, 4, 20),
        p.tensor(1, 4, 12),
        p.tensor(1, 12),
        p.tensor(1, 5),
    )
    codes = p.constant(p.random.integers(-127, 128, (4, 12)).astype("i1"))
    p.call("edge::add_quantized.out", x, codes, p.floats(4), placed)
    p.call("edge::layer_norm.out", placed, p.floats(12), p.floats(12), norm, normed)
    p.call("edge::ternary_linear.out", normed, p.codes(36, 12), p.floats(1), none, none, norm, plain, no, qkv)
    p.call("edge::attention_qkv.out", qkv, p.value(Int(2)), p.value(Double(0.4)), no, mixed)
    p.call(
        "edge::int_linear.out",
        mixed,
        p.codes(12, 12, 4),
        p.floats(12),
        p.floats(12),
        placed,
        p.value(Int(4)),
        norm,
        plain,
        added,
    )
    p.call("edge::ternary_linear.out", added, p.codes(20, 12), p.floats(1), p.floats(20), none, norm, relu, no, hidden)
    p.call("edge::linear.out", hidden, p.floats(12, 20), none, added, plain, out)
    p.call("edge::sequence_pool.out", out, p.floats(12), p.floats(1), pooled)
    p.call("edge::linear.out", pooled, p.floats(5, 12), p.floats(5), none, plain, logits)
    return p.finish([x], [logits])


def edge_convolutions() -> bytes:
    """Every kind of convolution, a pooling and an attention with a mask."""
    p = Handmade()
    none, off, relu, plain, one = (
        p.value(Null()),
        p.value(Double(-1.0)),
        p.value(Int(1)),
        p.value(Int(0)),
        p.value(Int(1)),
    )
    ones, zeros, twos, threes = p.ints(1, 1), p.ints(0, 0), p.ints(2, 2), p.ints(3, 3)
    no = p.value(Bool(False))
    x, stem, pooled = p.tensor(1, 2, 8, 6), p.tensor(1, 4, 8, 6), p.tensor(1, 4, 4, 3)
    wide, deep, out, attended = p.tensor(1, 4, 4, 3), p.tensor(1, 4, 4, 3), p.tensor(1, 4, 4, 3), p.tensor(1, 4, 4, 3)
    depthwise = p.constant(p.random.integers(-127, 128, (4, 1, 3, 3)).astype("i1"))
    p.call("edge::conv2d.out", x, p.floats(4, 2, 3, 3), p.floats(4), none, ones, ones, ones, one, relu, stem)
    p.call("edge::max_pool2d.out", stem, threes, twos, ones, ones, no, pooled)
    p.call("edge::ternary_conv1x1.out", pooled, p.codes(4, 4), p.floats(4), p.floats(4), none, off, relu, wide)
    p.call(
        "edge::conv2d_int8.out",
        wide,
        depthwise,
        p.floats(4),
        none,
        pooled,
        ones,
        ones,
        ones,
        p.value(Int(4)),
        plain,
        deep,
    )
    p.call("edge::int_conv1x1.out", deep, p.codes(4, 4, 2), p.floats(4), none, none, p.value(Int(2)), off, plain, out)
    p.call("edge::attention.out", out, deep, wide, p.floats(4, 4), p.value(Double(0.5)), p.value(Bool(True)), attended)
    p.call(
        "aten::max_pool2d_with_indices.out",
        attended,
        twos,
        twos,
        zeros,
        ones,
        no,
        indices := p.tensor(1, 4, 2, 1),
        where := p.tensor(1, 4, 2, 1, dtype="int64"),
    )
    return p.finish([x], [attended, indices, where])


def edge_covering(apart: bool) -> bytes:
    """Outputs that lie on inputs, images that turn among them; `apart`: the same with memory for each tensor."""
    p = Handmade()
    none, off, norm, relu, plain, no = (
        p.value(Null()),
        p.value(Double(-1.0)),
        p.value(Double(1e-5)),
        p.value(Int(1)),
        p.value(Int(0)),
        p.value(Bool(False)),
    )
    ones, threes = p.ints(1, 1), p.ints(3, 3)

    def on(*sizes: int, at: int) -> int:
        return p.tensor(*sizes) if apart else p.tensor(*sizes, at=at)

    x, image = p.tensor(2, 3, 9, 7), p.memory
    stem, first = p.tensor(2, 12, 9, 7), p.codes(12, 3 * 9)
    p.call("edge::ternary_conv2d.out", x, first, p.floats(1), none, none, threes, ones, ones, ones, relu, stem)
    depthwise = p.constant(p.random.integers(-127, 128, (12, 1, 3, 3)).astype("i1"))
    deep = on(2, 12, 9, 7, at=image)
    groups = p.value(Int(12))
    p.call("edge::conv2d_int8.out", stem, depthwise, p.floats(12), none, none, ones, ones, ones, groups, relu, deep)
    wide = on(2, 12, 9, 7, at=image)
    p.call("edge::ternary_conv1x1.out", deep, p.codes(12, 12), p.floats(12), p.floats(12), none, off, relu, wide)
    keep = p.tensor(2, 12, 9, 7)  # needed twice: nothing lies on it the first time
    p.call(
        "edge::int_conv1x1.out", wide, p.codes(12, 12, 4), p.floats(1), none, none, p.value(Int(4)), off, plain, keep
    )
    dense = p.tensor(2, 12, 9, 7)
    p.call("edge::ternary_conv2d.out", keep, p.codes(12, 12 * 9), p.floats(12), none, none, threes, ones, ones, ones,
           plain, dense)  # fmt: skip
    added = on(2, 12, 9, 7, at=p.values[keep].val.allocation_info.memory_offset_low)  # on the residual
    p.call("edge::ternary_conv2d.out", dense, p.codes(12, 12 * 9), p.floats(12), none, keep, threes, ones, ones, ones,
           relu, added)  # fmt: skip
    tokens = p.tensor(18, 84)
    p.call("aten::view_copy.out", added, p.ints(18, 84), tokens, tokens)  # as ExecuTorch wants it
    place = p.values[tokens].val.allocation_info.memory_offset_low
    normed = on(18, 84, at=place)
    p.call("edge::layer_norm.out", tokens, p.floats(84), none, norm, normed)
    mixed = on(18, 84, at=place)
    p.call("edge::ternary_linear.out", normed, p.codes(84, 84), p.floats(1), none, none, norm, relu, no, mixed)
    placed = on(18, 84, at=place)
    codes = p.constant(p.random.integers(-127, 128, (18, 84)).astype("i1"))
    p.call("edge::add_quantized.out", mixed, codes, p.floats(18), placed)
    other = p.tensor(18, 84)
    p.call("edge::int_linear.out", placed, p.codes(84, 84, 8 // 4), p.floats(84), none, placed, p.value(Int(2)), norm,
           plain, other)  # fmt: skip
    last = on(18, 84, at=place)  # on the residual; x is another
    p.call("edge::ternary_linear.out", other, p.codes(84, 84), p.floats(84), none, placed, off, plain, no, last)
    return p.finish([x], [last])


def wrong(name: str) -> bytes:
    """One refused program."""
    p = Handmade()
    x, y, weight = p.tensor(2, 4), p.tensor(2, 4), p.floats(2, 4)
    inputs, outputs = [x], [y]
    if name == "constant_output":
        p.call("aten::relu.out", x, weight)
    elif name == "constant_view":  # what was planned memory becomes another name of a constant
        p.call("aten::relu.out", x, y)
        p.call(VIEW, weight, p.ints(2, 4), y)
    elif name == "constant_input":
        inputs = [weight]
        p.call("aten::relu.out", weight, y)
    elif name == "constant_input_view":
        p.call(VIEW, weight, p.ints(2, 4), x)
        p.call("aten::relu.out", x, y)
    elif name == "overlap":
        p.call("aten::relu.out", x, p.tensor(2, 4, at=16))
    elif name == "covered_in_part":
        p.tensor(2, 4)
        none, norm = p.value(Null()), p.value(Double(1e-5))
        p.call("edge::layer_norm.out", x, none, none, norm, p.tensor(2, 4, at=16))
    elif name == "covered_other_size":
        none, off = p.value(Null()), p.value(Double(-1.0))
        p.call("edge::ternary_linear.out", x, p.codes(2, 4), p.floats(1), none, none, off, p.value(Int(0)),
               p.value(Bool(False)), p.tensor(2, 2, at=0))  # fmt: skip
    elif name == "covered_weight":
        none, plain = p.value(Null()), p.value(Int(0))
        square = p.tensor(4, 4)
        p.call("edge::linear.out", p.tensor(4, 4), square, none, none, plain,
               p.tensor(4, 4, at=p.values[square].val.allocation_info.memory_offset_low))  # fmt: skip
    elif name == "list_overlap":
        p.tensor(4, 4)
        p.call("aten::cat.out", p.value(TensorList([weight, x])), p.value(Int(0)), p.tensor(4, 4, at=16))
    elif name == "output_list_overlap":
        both = p.value(TensorList([y, p.tensor(2, 4, at=48)]))
        p.tensor(2, 4)
        p.call("aten::unbind_copy.int_out", p.tensor(2, 2, 4), p.value(Int(0)), both)
    elif name == "output_list_of_constants":
        p.call("aten::unbind_copy.int_out", p.tensor(2, 2, 4), p.value(Int(0)), p.value(TensorList([y, weight])))
    elif name == "output_list_with_a_gap":
        p.call("aten::unbind_copy.int_out", p.tensor(2, 2, 4), p.value(Int(0)), p.value(OptionalTensorList([y, -1])))
    elif name == "outside":
        p.call("aten::relu.out", x, p.tensor(2, 4, at=48))
    elif name == "unaligned":
        p.call("aten::relu.out", x, p.tensor(2, 3, at=33))
    elif name == "large_arena":  # 600 bytes that ask for five gigabytes
        p.memory = 5 << 30
        p.call("aten::relu.out", x, p.tensor(2, 4, allocation_info=AllocationDetails(1, 1 << 30, 1)))
    elif name == "unplanned":
        p.call("aten::relu.out", x, p.tensor(2, 4, allocation_info=None))
    elif name == "larger_view":
        p.call(VIEW, x, p.ints(4, 4), p.tensor(4, 4, allocation_info=None))
    elif name == "short_constant":
        p.constants[1] = Buffer(b"\0" * 28)
        p.call("aten::add.out", x, weight, p.value(Int(1)), y)
    elif name == "float_in_int_list":
        p.call("aten::permute_copy.out", x, p.value(IntList([p.value(Int(1)), p.value(Double(0.0))])), p.tensor(4, 2))
    elif name == "int_in_tensor_list":
        p.call("aten::cat.out", p.value(TensorList([x, p.value(Int(0))])), p.value(Int(0)), p.tensor(4, 4))
    elif name == "negative_size":
        p.call("aten::relu.out", x, p.tensor(-2, 4, at=0))
    elif name == "huge":
        p.call("aten::relu.out", x, p.tensor(1 << 20, 1 << 20, at=0))
    elif name == "unbounded":
        p.call("aten::relu.out", x, p.tensor(2, 4, shape_dynamism=TensorShapeDynamism.DYNAMIC_UNBOUND))
    elif name == "external":
        extra = ExtraTensorInfo(0, "head.weight", TensorDataLocation.EXTERNAL)
        outside = p.tensor(2, 4, allocation_info=None, extra_tensor_info=extra)
        p.call("aten::add.out", x, outside, p.value(Int(1)), y)
    elif name == "free":
        p.instructions.append(Instruction(FreeCall(y)))
    elif name == "int_output":
        outputs = [p.value(Int(3))]
    elif name == "long_list":
        p.call("aten::cat.out", p.value(OptionalTensorList([x] * 65)), p.value(Int(0)), p.tensor(130, 4))
    elif name == "too_few_arguments":
        p.call("aten::relu.out", x)
    elif name == "wrong_kind":
        p.call("aten::relu.out", p.value(Int(1)), y)
    return p.finish(inputs, outputs)


EDGE = {"edge_block": edge_block, "edge_convolutions": edge_convolutions}
WRONG = (
    "constant_output",
    "constant_view",
    "constant_input",
    "constant_input_view",
    "overlap",
    "covered_in_part",
    "covered_other_size",
    "covered_weight",
    "list_overlap",
    "output_list_overlap",
    "output_list_of_constants",
    "output_list_with_a_gap",
    "outside",
    "unaligned",
    "large_arena",
    "unplanned",
    "larger_view",
    "short_constant",
    "float_in_int_list",
    "int_in_tensor_list",
    "negative_size",
    "huge",
    "unbounded",
    "external",
    "free",
    "int_output",
    "long_list",
    "too_few_arguments",
    "wrong_kind",
)

if __name__ == "__main__":
    target = Path(sys.argv[1])
    for key, build in EDGE.items():
        (target / f"{key}.pte").write_bytes(build())
    (target / "covering.pte").write_bytes(edge_covering(apart=False))
    (target / "covering_apart.pte").write_bytes(edge_covering(apart=True))
    for key in WRONG:
        (target / f"wrong_{key}.pte").write_bytes(wrong(key))
