"""Which operators and kernels firmware has: those that its models need, and no others, because flash is small."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from edge.runtime.errors import BadInput

# The runtime's C sources are part of the package.
CORE = Path(__file__).parent.parent / "runtime" / "core"

# Kernels that not every model needs, by the beginning of their files' names, and the operators that call them.
_LINEAR = ("edge::int_linear.out", "edge::int_conv1x1.out")
_TERNARY = ("edge::ternary_linear.out", "edge::ternary_conv1x1.out")
_ATTENTION = ("edge::attention.out", "edge::attention_qkv.out")
_PRODUCTS = ("aten::addmm.out", "aten::bmm.out", "aten::linear.out", "aten::mm.out")
_POOLED = ("edge::conv2d_max_pool2d.out", "edge::conv2d_int8_max_pool2d.out", "edge::ternary_conv2d_max_pool2d.out")
_TERNARY_CONV = ("edge::ternary_conv2d.out", "edge::ternary_conv2d_max_pool2d.out")
_INT8_CONV = ("edge::conv2d_int8.out", "edge::conv2d_int8_max_pool2d.out")
KERNELS: dict[str, tuple[str, ...]] = {
    "f32_attention": _ATTENTION,
    "f32_conv2d": ("edge::conv2d.out", "edge::conv2d_max_pool2d.out", "aten::convolution.out"),
    "f32_gemm": ("edge::linear.out", "edge::sequence_pool.out", *_PRODUCTS),
    "f32_largest": ("edge::max_pool2d.out", *_POOLED),
    "f32_layer_norm": ("edge::layer_norm.out", "aten::native_layer_norm.out"),
    "f32_qd8_quantize": (*_LINEAR, *_TERNARY),
    "f32_softmax": ("edge::sequence_pool.out", "aten::_softmax.out", "aten::_log_softmax.out", *_ATTENTION),
    "qd8_attention": ("edge::attention_int8.out", "edge::attention_qkv_int8.out"),
    "qd8_conv2d": (*_INT8_CONV, *_TERNARY_CONV),
    "qd8_f32_qc2w_conv2d": _TERNARY_CONV,
    "qd8_f32_qc2w": (*_LINEAR, *_TERNARY),
    "qd8_f32_qc4w": _LINEAR,
    "qd8_f32_qc8w_conv2d": _INT8_CONV,
    "qd8_f32_qc8w": _LINEAR,
}
# What learning calls: runtime/core/learn.
_LEARNING = ("f32_gemm", "f32_layer_norm", "f32_softmax")


@cache
def operator_symbols() -> dict[str, str]:
    """Every operator of the core: its name to the C symbol without "edge_op_", in the order of ops/ops.h."""
    from edge.runtime import _core

    text = (CORE / "ops" / "ops.h").read_text(encoding="utf-8")
    lists = text[: text.index("#define EDGE_OPERATORS(X)")]
    symbols = re.findall(r"\bX\((\w+)\)", lists[lists.index("EDGE_OWN_OPERATORS(X)") + len("EDGE_OWN_OPERATORS(X)") :])
    symbols = [symbol for symbol in symbols if symbol != "X"]
    names = list(_core.operators())
    assert len(names) == len(symbols), "ops.h lists what the core has"
    return dict(zip(names, symbols, strict=True))


def choose_operators(wanted: str, model: Iterable[str]) -> tuple[str, ...]:
    """The operators that firmware is built with.

    Args:
        wanted: "model": those of the model; "all": every one of the core; or names with commas between, as
            "edge::linear,aten::add.out", which the model's are added to.
        model: The operators of the model.

    Raises:
        BadInput: The core has no operator of a name; the message has the nearest.
    """
    known = operator_symbols()
    if wanted == "all":
        return tuple(known)
    chosen = set(model)
    for word in () if wanted == "model" else (word.strip() for word in wanted.split(",")):
        name = word if word in known else f"{word}.out"
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f'"{word}" is no operator of the core{hint}')
        chosen.add(name)
    return tuple(name for name in known if name in chosen)


def operators_header(operators: Sequence[str]) -> str:
    """The header that ops/table.c and protocol/commands.c include as EDGE_OPERATORS_HEADER."""
    symbols = operator_symbols()
    told = ", ".join(f"{byte:#04x}" for byte in pack_operators(operators))
    table = " ".join(f"X({symbols[name]})" for name in operators)
    return f"#define EDGE_BUILT_OPERATORS(X) {table}\n#define EDGE_BUILT_OPERATORS_TOLD {told}\n"


def pack_operators(operators: Iterable[str]) -> bytes:
    """Which of the core's operators there are, as INFO tells it (docs/protocol.md).

    The CRC-32 of all their names, with a line end behind each, little-endian; then a bit for each name, the first in
    the lowest bit of the first byte.
    """
    known, have = _names(), set(operators)
    bits = sum(1 << place for place, name in enumerate(known) if name in have)
    return struct.pack("<I", _names_crc()) + bits.to_bytes(-(-len(known) // 8), "little")


def unpack_operators(told: bytes) -> tuple[str, ...]:
    """The inverse; () where nothing is told, or by firmware with another list of operators than this core's."""
    known = _names()
    size = 4 + -(-len(known) // 8)
    if len(told) < size or struct.unpack_from("<I", told)[0] != _names_crc():
        return ()
    bits = int.from_bytes(told[4:size], "little")
    return tuple(name for place, name in enumerate(known) if bits >> place & 1)


@cache
def _names() -> tuple[str, ...]:
    from edge.runtime import _core

    return tuple(_core.operators())


def _names_crc() -> int:
    return zlib.crc32("".join(f"{name}\n" for name in _names()).encode())


def is_needed(kernel: str, operators: Iterable[str], learning: bool) -> bool:
    """Whether a file of kernels, by its name without ".c", is needed for any of the operators."""
    have = set(operators)
    # The longest beginning: qd8_f32_qc2w_conv2d is not qd8_f32_qc2w.
    for beginning in sorted(KERNELS, key=len, reverse=True):
        if kernel.startswith(beginning):
            return bool(have.intersection(KERNELS[beginning])) or (learning and beginning in _LEARNING)
    return True
