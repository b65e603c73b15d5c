"""A trained module made ready to lower: quantized layers become packed integers, BatchNorm folds into their scales.

`freeze` never rounds again: the codes in the file are the codes that training ended with. A BatchNorm behind a layer
multiplies its per-output scales (which may turn negative) and shifts its bias, so folding it is exact up to one
float rounding.
"""

from __future__ import annotations

import abc
import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import edge.export.ops as ops
from edge.export.lower.constants import added_constants, rounded_rows
from edge.export.quantize import BitConv1d, BitConv1x1, BitConv2d, BitLinear, Int8Conv2d
from edge.export.reason import first_line, in_user_code
from edge.runtime.errors import Unsupported
from edge.runtime.layouts import pack_layout

Kind = Literal["linear", "conv1x1", "conv2d"]


class FrozenLayer(nn.Module, abc.ABC):
    """A layer whose weights are integers: `y = (quantize(x) @ codes.T) * scales / s_x + bias`.

    Attributes:
        kind: what the layer replaces.
        bits: 1.58, 2, 4 or 8 bits a weight.
        norm_eps: epsilon of the affine-free LayerNorm in front of the activation quantizer; negative for none.
        bitlinear_compat: numerics of PyPI `bitlinear` (only for linear layers at 1.58 bits).
        scales: float32 [1] or [N]; what one integer step is worth.
        bias: float32 [N] or None.
    """

    kind: Kind
    scales: Tensor
    bias: Tensor | None

    def __init__(self, bits: float, scales: Tensor, bias: Tensor | None, norm_eps: float, compat: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.norm_eps = norm_eps
        self.bitlinear_compat = compat
        self.register_buffer("scales", scales.detach().float().reshape(-1).clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    @property
    @abc.abstractmethod
    def codes(self) -> Tensor:
        """The integer weights, int8: [N, K], or [O, I/groups, kh, kw] for kind "conv2d"."""

    def fold(self, gain: Tensor, shift: Tensor) -> None:
        """Folds a per-output affine map `gain * y + shift` that follows the layer into its scales and bias."""
        outputs = gain.numel()
        bias = torch.zeros(outputs) if self.bias is None else self.bias
        self.scales = self.scales.expand(outputs) * gain
        self.bias = bias * gain + shift


class FrozenLinear(FrozenLayer):
    """`nn.Linear` with packed integer weights."""

    kind: Kind = "linear"
    packed: Tensor

    def __init__(
        self,
        codes: Tensor,
        bits: float,
        scales: Tensor,
        bias: Tensor | None,
        norm_eps: float,
        compat: bool = False,
    ) -> None:
        super().__init__(bits, scales, bias, norm_eps, compat)
        self.in_features = codes.shape[1]
        self.register_buffer("packed", ops.pack_codes(codes, bits))

    @property
    def codes(self) -> Tensor:
        return ops.unpack_codes(self.packed, self.in_features, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        if self.bits == 1.58:
            y: Tensor = torch.ops.edge.ternary_linear(
                x, self.packed, self.scales, self.bias, None, self.norm_eps, ops.NONE, self.bitlinear_compat
            )
        else:
            y = torch.ops.edge.int_linear(
                x, self.packed, self.scales, self.bias, None, int(self.bits), self.norm_eps, ops.NONE
            )
        return y


class FrozenConv1x1(FrozenLinear):
    """A 1×1 convolution as a linear over each pixel's channels; NCHW in and out.

    The operator knows no stride: `stride` (down, across) picks the pixels in front of it.
    """

    kind: Kind = "conv1x1"

    def __init__(
        self,
        codes: Tensor,
        bits: float,
        scales: Tensor,
        bias: Tensor | None,
        norm_eps: float,
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(codes, bits, scales, bias, norm_eps)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        if down > 1 or across > 1:
            x = x[:, :, ::down, ::across]
        if self.bits == 1.58:
            y: Tensor = torch.ops.edge.ternary_conv1x1(
                x, self.packed, self.scales, self.bias, None, self.norm_eps, ops.NONE
            )
        else:
            y = torch.ops.edge.int_conv1x1(
                x, self.packed, self.scales, self.bias, None, int(self.bits), self.norm_eps, ops.NONE
            )
        return y


class FrozenConv1d(FrozenConv1x1):
    """A convolution of kernel 1 over [B, K, L], as a 1×1 convolution over [B, K, L, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(-1)).squeeze(-1)


class FrozenConv2d(FrozenLayer):
    """A k×k or depthwise convolution with int8 or (without groups) ternary weights, one activation scale a sample."""

    kind: Kind = "conv2d"
    weight: Tensor

    def __init__(self, codes: Tensor, bits: float, scales: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> None:
        super().__init__(bits, scales, bias, -1.0)
        ternary = bits == 1.58
        self.register_buffer("weight", ops.pack_taps(codes) if ternary else codes.to(torch.int8).contiguous())
        self.in_channels = conv.in_channels
        self.kernel = [int(k) for k in conv.kernel_size]
        self.stride = [int(s) for s in conv.stride]
        self.padding = _explicit_padding(conv)
        self.dilation = [int(d) for d in conv.dilation]
        self.groups = conv.groups

    @property
    def codes(self) -> Tensor:
        return self.weight if self.bits == 8 else ops.unpack_taps(self.weight, self.in_channels, self.kernel)

    def forward(self, x: Tensor) -> Tensor:
        layer = (x, self.weight, self.scales, self.bias, None)
        geometry = (self.stride, self.padding, self.dilation)
        if self.bits == 1.58:
            y: Tensor = torch.ops.edge.ternary_conv2d(*layer, self.kernel, *geometry, ops.NONE)
        else:
            y = torch.ops.edge.conv2d_int8(*layer, *geometry, self.groups, ops.NONE)
        return y


def _explicit_padding(conv: nn.Conv2d) -> list[int]:
    if conv.padding_mode != "zeros":
        raise Unsupported(f"convolution with padding_mode={conv.padding_mode!r}: the core pads with zeros only")
    if conv.padding == "valid":
        return [0, 0]
    if conv.padding == "same":
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(r % 2 for r in reach):
            raise Unsupported("convolution with padding='same' and an even kernel pads unevenly; use integer padding")
        return [r // 2 for r in reach]
    return [int(p) for p in conv.padding]


def freeze(model: nn.Module, example: tuple[Tensor, ...], *, compact_constants: bool = True) -> nn.Module:
    """Returns a copy of `model` in evaluation mode with its quantized layers packed and its BatchNorms folded.

    Args:
        model: a module that went through `edge.export.quantize.ternarize` (or a plain float one).
        example: inputs of the shapes the model will run with; used to see what follows what.
        compact_constants: round large added constants to what their int8 form holds (`edge.export.lower.constants`).

    Raises:
        Unsupported: a convolution pads in a way the core does not.
    """
    frozen = copy.deepcopy(model).eval()
    replaced: dict[nn.Module, FrozenLayer] = {}
    # With duplicates: a layer that hangs in two places must be replaced in both.
    for name, module in list(frozen.named_modules(remove_duplicate=False)):
        replacement = replaced.get(module) or _freeze_layer(module)
        if replacement is None:
            continue
        replaced[module] = replacement
        if not name:
            return replacement.eval()
        parent = frozen.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], replacement)
    frozen.eval()
    if compact_constants or any(isinstance(m, _BATCH_NORMS) for m in frozen.modules()):
        program = trace(frozen, example)
        _fold_batch_norms(frozen, program)
        if compact_constants:
            _round_constants(frozen, program)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return frozen


def in_layout(frozen: nn.Module, layout: str) -> nn.Module:
    """A copy of a frozen module whose ternary weights lie as a target's kernels read them in place.

    Args:
        frozen: from `freeze`.
        layout: one of `edge.runtime.layouts.LAYOUTS`.
    """
    frozen = copy.deepcopy(frozen)
    for _, layer in frozen_layers(frozen):
        if layer.bits == 1.58:
            codes = layer.codes if layer.codes.dim() == 2 else layer.codes.permute(0, 2, 3, 1).flatten(1)
            layer.packed = torch.from_numpy(pack_layout(codes.numpy(), layout))
    return frozen


def frozen_layers(frozen: nn.Module) -> list[tuple[str, FrozenLayer]]:
    """The quantized layers of a frozen module with their dotted names, in the order of the module tree."""
    return [(name, m) for name, m in frozen.named_modules() if isinstance(m, FrozenLayer)]


def _freeze_layer(module: nn.Module) -> FrozenLayer | None:
    if isinstance(module, BitLinear):
        codes, scales = module.codes_and_scales()
        eps = module.eps if module.norm else -1.0
        if module.bitlinear_compat:
            scales = 1.0 / scales
        return FrozenLinear(codes, module.bits, scales, module.bias, eps, module.bitlinear_compat)
    if isinstance(module, BitConv1x1):
        codes, scales = module.codes_and_scales()
        eps = module.eps if module.norm else -1.0
        if isinstance(module, BitConv1d):
            return FrozenConv1d(codes, module.bits, scales, module.bias, eps)
        down, across = module.stride
        return FrozenConv1x1(codes, module.bits, scales, module.bias, eps, (down, across))
    if isinstance(module, Int8Conv2d | BitConv2d):
        codes, scales = module.codes_and_scales()
        return FrozenConv2d(codes, module.bits, scales, module.bias, module)
    return None


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def trace(frozen: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """`torch.export` with what it cannot trace told in one line.

    Raises:
        Unsupported: it cannot.
    """
    try:
        return torch.export.export(frozen, example, strict=False)
    except Exception as error:  # whatever the user's forward, or torch.export itself, stumbles over
        raise Unsupported(
            f"torch.export cannot trace the model{in_user_code(error)}: {first_line(error)} "
            "(it needs static shapes, and neither NumPy nor Python control flow that depends on data)"
        ) from error


def _round_constants(frozen: nn.Module, program: ExportedProgram) -> None:
    for name in added_constants(program):
        constant = frozen.get_parameter(name) if name in program.state_dict else None
        rounded = None if constant is None else rounded_rows(constant)
        if constant is not None and rounded is not None:
            constant.data = rounded


def _fold_batch_norms(frozen: nn.Module, program: ExportedProgram) -> None:
    """Folds every BatchNorm whose input is the output of exactly one foldable layer, used nowhere else."""
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        path = module_path(node)
        if node.target is torch.ops.aten.batch_norm.default:
            calls[path] = calls.get(path, 0) + 1
            source = node.args[0]
            if isinstance(source, torch.fx.Node) and source.op == "call_function" and len(source.users) == 1:
                pairs.append((module_path(source), path))
        elif _is_foldable_call(node):
            calls[path] = calls.get(path, 0) + 1
    for layer_path, norm_path in pairs:
        if calls.get(layer_path) != 1 or calls.get(norm_path) != 1:
            continue  # a module that runs twice keeps its BatchNorm
        norm = frozen.get_submodule(norm_path)
        layer = frozen.get_submodule(layer_path)
        if isinstance(norm, _BATCH_NORMS) and _fold(layer, norm):
            parent = frozen.get_submodule(norm_path.rpartition(".")[0])
            setattr(parent, norm_path.rpartition(".")[2], nn.Identity())


def _is_foldable_call(node: torch.fx.Node) -> bool:
    return node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default) or (
        getattr(node.target, "namespace", "") == ops.NAMESPACE
    )


def _fold(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    if norm.running_mean is None or norm.running_var is None:
        return False
    mean, variance = norm.running_mean.detach(), norm.running_var.detach()
    gain = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        gain = gain * norm.weight.detach()
    shift = -mean * gain if norm.bias is None else norm.bias.detach() - mean * gain
    if isinstance(layer, FrozenLayer) and not layer.bitlinear_compat:
        layer.fold(gain, shift)
        return True
    if isinstance(layer, nn.Conv2d | nn.Linear):
        bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach()
        weight = layer.weight.detach() * gain.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias * gain + shift, requires_grad=False)
        return True
    return False


def module_path(node: torch.fx.Node) -> str:
    """The dotted name of the module whose `forward` made this node ("" for the root)."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path: str = list(stack.values())[-1][0]
    # torch.export numbers repeated calls of one module as `name@1`.
    return path.partition("@")[0].removeprefix("L['self'].").removeprefix("L['self']")
