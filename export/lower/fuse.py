"""Fusion on the exported program, before ExecuTorch's edge dialect decomposes it.

At this point `aten.scaled_dot_product_attention`, `aten.layer_norm`, `aten.linear` and `aten.gelu` are still whole, so
one `edge::` operator can take the place of each in any user's module. Left to the edge dialect, attention becomes some
twenty operators a block. After the passes a pre-norm transformer block is seven instructions: norm, qkv, attention,
projection + residual, norm, linear + GELU, linear + residual.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from executorch.backends.transforms.utils import (
    create_constant_placeholder,
    delete_constant_placeholder,
    get_param_tensor,
    is_param_node,
)
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

import edge.export.ops as ops
from edge.export.lower.constants import added_constant, compact_rows

aten = torch.ops.aten

# An fx.Node. Its stubs say that an argument may be anything, which leaves nothing for a checker to check.
Node: TypeAlias = Any

_ACTIVATION_OF: dict[Any, Callable[[Node], int | None]] = {
    aten.relu.default: lambda n: ops.RELU,
    aten.gelu.default: lambda n: ops.GELU_TANH if n.kwargs.get("approximate") == "tanh" else ops.GELU,
    aten.silu.default: lambda n: ops.SILU,
    aten.relu6.default: lambda n: ops.RELU6,
    aten.hardtanh.default: lambda n: ops.RELU6 if tuple(n.args[1:]) == (0.0, 6.0) else None,
    aten.hardswish.default: lambda n: ops.HARDSWISH,
    aten.sigmoid.default: lambda n: ops.SIGMOID,
    aten.tanh.default: lambda n: ops.TANH,
}

_RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints)
_IDENTITIES = (
    aten.dropout.default,
    aten.contiguous.default,
    aten.clone.default,  # what functionalization makes of dropout in evaluation mode
    aten.alias.default,
    aten.detach.default,
)


def fuse(program: ExportedProgram, *, compact_constants: bool = True, int8_attention: bool = False) -> ExportedProgram:
    """Rewrites `program` in place with `edge::` operators and returns it.

    Args:
        program: from `torch.export.export`, not yet decomposed.
        compact_constants: store large added constants (positional embeddings) as int8 with one scale a row.
        int8_attention: attention that the model leaves to PyTorch's own function gets integer products; what it spells
            out with softmax and two matrix products stays in float.
    """
    _GraphFuser(program, compact_constants, int8_attention).run()
    return program


def shape_of(node: Node) -> tuple[int, ...]:
    """The static shape of a node's tensor; () for anything that is not one."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_edge_call(node: object, names: frozenset[str] | None = None) -> bool:
    """Whether `node` calls an `edge::` operator (one of `names`, if given)."""
    if not (isinstance(node, fx.Node) and node.op == "call_function"):
        return False
    if getattr(node.target, "namespace", "") != ops.NAMESPACE:
        return False
    return names is None or _name(node) in names


def argument(node: Node, name: str) -> Any:
    """The value of a named argument of an `edge::` call."""
    return node.args[_position(node, name)]


def _position(node: Node, name: str) -> int:
    names = [a.name for a in node.target._schema.arguments]
    return names.index(name)


def _chain(node: object, *targets: Any) -> list[Node] | None:
    """Walks back through first arguments: [node, its producer, …] if each calls its target (or one of a tuple)."""
    found: list[Node] = []
    for target in targets:
        allowed = target if isinstance(target, tuple) else (target,)
        if not (isinstance(node, fx.Node) and node.op == "call_function" and node.target in allowed):
            return None
        found.append(node)
        node = node.args[0]
    return found


def _scaled(node: Node) -> tuple[Node, float]:
    """(x, c) of a node that is x * c or x / (1 / c) with a number c; else the node itself and 1."""
    if _chain(node, (aten.mul.Tensor, aten.div.Tensor)) and isinstance(node.args[1], int | float):
        number = float(node.args[1])
        return node.args[0], number if node.target is aten.mul.Tensor else 1.0 / number
    return node, 1.0


class _GraphFuser:
    def __init__(self, program: ExportedProgram, compact_constants: bool, int8_attention: bool) -> None:
        self.int8_attention = int8_attention
        self.spelled_out: set[Node] = set()
        self.program = program
        self.graph = program.graph_module.graph
        self.compact_constants = compact_constants

    def run(self) -> None:
        for rewrite in (
            self._drop_identity,
            self._fuse_explicit_attention,
            self._fuse_attention,
            self._fuse_sequence_pool,
            self._fuse_layer_norm,
            self._fuse_linear,
            self._fuse_conv2d,
            self._fuse_max_pool2d,
            self._compact_constant,
            self._fold_activation,
            self._fold_residual,
            self._fold_max_pool2d,
        ):
            for node in self._calls():
                rewrite(node)
            # SDPA counts as impure (dropout draws random numbers); in inference nothing here is.
            self.graph.eliminate_dead_code(is_impure_node=lambda n: n.op in ("placeholder", "output"))
        for node in self._calls():
            # A view was legal for the strides of PyTorch's own attention; ours answers in contiguous order.
            if node.target is aten.view.default:
                node.target = aten.reshape.default
        self._drop_unused_constants()
        self.graph.lint()
        self.program.graph_module.recompile()

    def _calls(self) -> Iterator[Node]:
        for node in list(self.graph.nodes):
            if node.op == "call_function" and not node._erased:
                yield node

    def _replace(self, node: Node, name: str, arguments: tuple[Any, ...], source: Node | None = None) -> Node:
        """Puts `edge::name(*arguments)` where `node` is; module names for messages come from `source` or `node`."""
        target = getattr(torch.ops.edge, name).default
        with self.graph.inserting_before(node):
            new = self.graph.call_function(target, arguments)
        new.meta = dict((source or node).meta)
        new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        return new

    def _constant(self, name: str, data: Tensor) -> Node:
        first = next(n for n in self.graph.nodes if n.op == "placeholder")
        taken = {n.name for n in self.graph.nodes}
        unique, suffix = name, 0
        while unique in taken:
            suffix += 1
            unique = f"{name}_{suffix}"
        with self.graph.inserting_before(first):
            return create_constant_placeholder(
                self.program, self.graph, unique, InputKind.BUFFER, data.contiguous(), persistent_buffer=True
            )

    def _constant_value(self, node: object) -> Tensor | None:
        if isinstance(node, fx.Node) and node.op == "placeholder" and is_param_node(self.program, node):
            value = get_param_tensor(self.program, node)
            return None if value is None else value.detach()
        return None

    def _drop_unused_constants(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and not node.users and is_param_node(self.program, node):
                delete_constant_placeholder(self.program, node)

    def _drop_identity(self, node: Node) -> None:
        source = node.args[0] if node.args else None
        # A copy of something transposed stays: the view behind it needs the new layout.
        if node.target in _IDENTITIES and isinstance(source, fx.Node) and source.meta["val"].is_contiguous():
            node.replace_all_uses_with(source)

    # Attention

    def _fuse_explicit_attention(self, node: Node) -> None:
        """softmax(q @ k.T * scale [+ mask]) @ v, as ViT code often writes it, becomes one SDPA node."""
        if node.target is not aten.matmul.default or len(shape_of(node)) != 4:
            return
        softmax = _chain(node.args[0], aten.softmax.int)
        if softmax is None or softmax[0].args[1] not in (-1, 3) or len(softmax[0].users) != 1:
            return
        scores, mask, scale = softmax[0].args[0], None, 1.0
        if _chain(scores, aten.add.Tensor):
            scores, mask = scores.args[0], scores.args[1]
            if not isinstance(mask, fx.Node) or mask.meta["val"].dtype is not torch.float32:
                return
        scores, factor = _scaled(scores)
        scale *= factor
        if not _chain(scores, aten.matmul.default):
            return
        q, turned = scores.args
        q, factor = _scaled(q)
        scale *= factor
        k = _chain(turned, aten.transpose.int)
        if k is None or sorted(d % 4 for d in k[0].args[1:3]) != [2, 3]:
            return
        with self.graph.inserting_before(node):
            sdpa = self.graph.call_function(
                aten.scaled_dot_product_attention.default,
                (q, k[0].args[0], node.args[1], mask),
                {"scale": float(scale)},
            )
        sdpa.meta = dict(node.meta)
        self.spelled_out.add(sdpa)
        node.replace_all_uses_with(sdpa)
        self.graph.erase_node(node)

    def _fuse_attention(self, node: Node) -> None:
        if node.target is not aten.scaled_dot_product_attention.default:
            return
        named = dict(
            zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), node.args, strict=False),
            **node.kwargs,
        )
        q, k, v, mask = named["query"], named["key"], named["value"], named.get("attn_mask")
        shapes = [shape_of(t) for t in (q, k, v)]
        if any(len(s) != 4 for s in shapes) or shapes[0][:2] != shapes[1][:2] or named.get("enable_gqa"):
            return
        if shapes[2][3] != shapes[0][3] or (mask is not None and mask.meta["val"].dtype is not torch.float32):
            return
        causal = bool(named.get("is_causal", False))
        scale = named.get("scale")
        scale = 1.0 / math.sqrt(shapes[0][3]) if scale is None else float(scale)
        packed = None if mask is not None else self._packed_qkv(q, k, v)
        merged = self._merged_heads(node) if packed is not None else None
        suffix = "_int8" if self.int8_attention and node not in self.spelled_out else ""
        if packed is not None and merged is not None:
            self._replace(merged, f"attention_qkv{suffix}", (packed, shapes[0][1], scale, causal), node)
        else:
            self._replace(node, f"attention{suffix}", (q, k, v, mask, scale, causal))

    def _packed_qkv(self, q: Node, k: Node, v: Node) -> Node | None:
        """The [B, T, 3·H·d] node behind q, k, v if they are its three slices in (3, H, d) order."""
        sources = []
        for index, part in enumerate((q, k, v)):
            if _chain(part, aten.select.int) and part.args[1:3] == (0, index):
                sources.append(part.args[0])
            elif _chain(part, operator.getitem, aten.unbind.int) and part.args[1] == index:
                unbind = part.args[0]
                if len(unbind.args) > 1 and unbind.args[1] != 0:
                    return None
                sources.append(unbind.args[0])
            else:
                return None
        if sources[0] is not sources[1] or sources[0] is not sources[2]:
            return None
        chain = _chain(sources[0], aten.permute.default, (aten.reshape.default, aten.view.default, aten.unflatten.int))
        if chain is None or list(chain[0].args[1]) != [2, 0, 3, 1, 4]:
            return None
        qkv = chain[1].args[0]
        split = shape_of(chain[1])
        if len(split) != 5 or split[2] != 3 or not isinstance(qkv, fx.Node):
            return None
        return qkv if shape_of(qkv) == (split[0], split[1], 3 * split[3] * split[4]) else None

    def _merged_heads(self, attention: Node) -> Node | None:
        """The node that turns [B, H, T, d] back into [B, T, H·d], if that is the only use of `attention`."""
        if len(attention.users) != 1:
            return None
        turn = next(iter(attention.users))
        turned = turn.target is aten.transpose.int and sorted(d % 4 for d in turn.args[1:3]) == [1, 2]
        turned = turned or (turn.target is aten.permute.default and list(turn.args[1]) == [0, 2, 1, 3])
        if not turned or len(turn.users) != 1:
            return None
        merge = next(iter(turn.users))
        if merge.target in _IDENTITIES and len(merge.users) == 1:
            merge = next(iter(merge.users))
        batch, heads, tokens, width = shape_of(attention)
        return merge if merge.target in _RESHAPES and shape_of(merge) == (batch, tokens, heads * width) else None

    def _fuse_sequence_pool(self, node: Node) -> None:
        """CCT's pooling (arXiv 2104.05704): softmax over tokens of a one-output linear, then the weighted sum."""
        chain = _chain(node, (aten.squeeze.dim, aten.squeeze.dims), aten.matmul.default)
        if chain is None:
            return
        weights, x = chain[1].args
        if not isinstance(x, fx.Node) or len(shape_of(x)) != 3 or shape_of(node) != (shape_of(x)[0], shape_of(x)[2]):
            return
        turned = _chain(weights, aten.transpose.int, aten.softmax.int, aten.linear.default)
        if turned is None:
            # softmax(-1) over squeezed scores, then unsqueeze(1), which suits TFLite better
            turned = _chain(weights, aten.unsqueeze.default, aten.softmax.int, aten.squeeze.dim, aten.linear.default)
            if turned is None or turned[1].args[1] not in (-1, 1) or turned[0].args[1] != 1:
                return
        elif turned[1].args[1] not in (1, -2):
            return
        linear = turned[-1]
        weight = self._constant_value(linear.args[1])
        if linear.args[0] is not x or weight is None or weight.shape[0] != 1:
            return
        bias = linear.args[2] if len(linear.args) > 2 else None
        name = f"{linear.args[1].name}_row"
        self._replace(node, "sequence_pool", (x, self._constant(name, weight.reshape(-1)), bias), linear)

    # One for one

    def _fuse_layer_norm(self, node: Node) -> None:
        if node.target is not aten.layer_norm.default or len(node.args[1]) != 1:
            return
        weight, bias, eps = _with_defaults(node, 2, (None, None, 1e-5))[:3]
        self._replace(node, "layer_norm", (node.args[0], weight, bias, float(eps)))

    def _fuse_linear(self, node: Node) -> None:
        if node.target is aten.linear.default:
            bias = node.args[2] if len(node.args) > 2 else None
            self._replace(node, "linear", (node.args[0], node.args[1], bias, None, ops.NONE))

    def _fuse_conv2d(self, node: Node) -> None:
        if node.target is not aten.conv2d.default or len(shape_of(node)) != 4:
            return
        bias, stride, padding, dilation, groups = _with_defaults(node, 2, (None, 1, 0, 1, 1))
        pairs = [_pair(v) for v in (stride, padding, dilation)]
        self._replace(node, "conv2d", (node.args[0], node.args[1], bias, None, *pairs, groups, ops.NONE))

    def _fuse_max_pool2d(self, node: Node) -> None:
        if node.target is not aten.max_pool2d.default or len(shape_of(node)) != 4:
            return
        kernel = _pair(node.args[1])
        stride, padding, dilation, ceil_mode = _with_defaults(node, 2, ([], 0, 1, False))
        pairs = [_pair(v) for v in (stride or kernel, padding, dilation)]
        self._replace(node, "max_pool2d", (node.args[0], kernel, *pairs, bool(ceil_mode)))

    def _compact_constant(self, node: Node) -> None:
        signature = self.program.graph_signature
        pair = added_constant(node, {**signature.inputs_to_parameters, **signature.inputs_to_buffers})
        if not self.compact_constants or pair is None:
            return
        x, constant = pair
        value = get_param_tensor(self.program, constant).detach()
        compact = compact_rows(value.numpy())
        if compact is None:
            return
        codes, scales = (torch.from_numpy(part) for part in compact)
        while codes.dim() > 2:
            codes = codes[0]
        parts = (
            self._constant(f"{constant.name}_codes", codes),
            self._constant(f"{constant.name}_scales", scales),
        )
        self._replace(node, "add_quantized", (x, *parts))

    # What follows an operator moves into its epilogue

    def _fold_activation(self, node: Node) -> None:
        code_of = _ACTIVATION_OF.get(node.target)
        if code_of is None or not is_edge_call(node.args[0], ops.FUSABLE):
            return
        code, source = code_of(node), node.args[0]
        assert isinstance(source, fx.Node)
        if code is None or len(source.users) != 1:
            return
        if argument(source, "activation") != ops.NONE or argument(source, "residual") is not None:
            return
        arguments = list(source.args)
        arguments[_position(source, "activation")] = code
        self._replace(node, _name(source), tuple(arguments), source)
        self.graph.erase_node(source)

    def _fold_residual(self, node: Node) -> None:
        if node.target not in (aten.add.Tensor, aten.add_.Tensor) or node.kwargs:
            return
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        if len(operands) != 2 or any(shape_of(a) != shape_of(node) for a in operands):
            return
        for source in sorted(operands, key=lambda n: -order[n]):
            other = operands[1] if source is operands[0] else operands[0]
            if source is other or not is_edge_call(source, ops.FUSABLE) or len(source.users) != 1:
                continue
            if argument(source, "residual") is not None or other.meta["val"].dtype is not torch.float32:
                continue
            arguments = list(source.args)
            arguments[_position(source, "residual")] = other
            self._replace(node, _name(source), tuple(arguments), source)
            self.graph.erase_node(source)
            return

    def _fold_max_pool2d(self, node: Node) -> None:
        """The pool behind a convolution is taken as its rows are made: its whole output is never held."""
        if not is_edge_call(node, frozenset({"max_pool2d"})) or not is_edge_call(node.args[0], ops.CONVOLUTIONS):
            return
        source = node.args[0]
        if len(source.users) != 1 or argument(source, "residual") is not None:
            return
        arguments = list(source.args)
        del arguments[_position(source, "residual")]
        self._replace(node, f"{_name(source)}_max_pool2d", (*arguments, *node.args[1:]), source)
        self.graph.erase_node(source)


def _with_defaults(node: Node, given: int, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments behind the first `given`, those that the caller left out filled in."""
    rest = tuple(node.args[given:])
    return (*rest, *defaults[len(rest) :])


def _pair(value: Any) -> list[int]:
    values = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    return values * 2 if len(values) == 1 else values


def _name(node: Node) -> str:
    name: str = node.target._schema.name
    return name.partition("::")[2]
