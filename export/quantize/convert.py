"""`ternarize`: any module's linear layers and convolutions become layers that train for integers."""

from __future__ import annotations

from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor, nn

from edge.export.quantize.attention import SplitAttention
from edge.export.quantize.layers import BitConv1d, BitConv1x1, BitConv2d, BitLinear, Int8Conv2d
from edge.export.quantize.weights import QuantConfig
from edge.runtime.errors import BadInput, Unsupported

QuantizedLayer: TypeAlias = BitLinear | BitConv1x1 | Int8Conv2d  # BitConv2d is an Int8Conv2d

_STEM_CHANNELS = 4
"""A convolution of so few input channels has few weights, and what it loses nothing behind it can bring back."""


def ternarize(model: nn.Module, keep: tuple[str, ...] = (), *, config: QuantConfig | None = None) -> nn.Module:
    """Replaces the layers of `model` by quantized ones that share its parameters; works in place.

    `nn.Linear` becomes `BitLinear`; a 1x1 `nn.Conv2d` of any stride, without padding and groups, becomes `BitConv1x1`;
    an `nn.Conv1d` of kernel 1 and stride 1, without padding and groups, becomes `BitConv1d`. Every other `nn.Conv2d`
    with zero padding, grouped 1x1 ones included, becomes `Int8Conv2d` where `config.conv` is "int8"; where it is
    "ternary", `BitConv2d` if it has one group and more than four input channels, else `Int8Conv2d`. Every other
    `nn.Conv1d` stays float. `nn.MultiheadAttention` is taken apart first. Subclasses of these layers are left alone:
    their own forward would be lost.

    Args:
        model: any module; a bare layer gives its replacement.
        keep: patterns (`fnmatch`) of dotted names to leave in float, in addition to `config.keep`; a module that
            matches is kept with everything under it, and `head.*` says the same as `head`.
        config: bits and numerics; ternary with the median by default.

    Returns:
        The model (the same object unless it is itself a layer). With 32 bits nothing changes.

    Raises:
        BadInput: a pattern matches no module, or no layer is left to quantize.
        Unsupported: an `nn.MultiheadAttention` with add_bias_kv or add_zero_attn.
    """
    config = config or QuantConfig()
    patterns = (*config.keep, *keep)
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            closest = ", ".join(_closest(pattern, model)) or "none: it has no layers"
            raise BadInput(f"--keep {pattern!r} matches no module; the closest names are {closest}")
    if config.bits == 32:
        return model
    converter = _Converter(config, patterns)
    converted = converter.convert(model, "")
    if not converter.count:
        raise BadInput(
            "nothing to quantize: the model has no nn.Linear, nn.Conv2d or 1x1 nn.Conv1d outside those of --keep"
        )
    return converted


def set_lambda(model: nn.Module, value: float) -> None:
    """Sets how far quantization is phased in, 0 (float) to 1 (quantized), in every quantized layer."""
    if not 0 <= value <= 1:
        raise BadInput(f"lambda: expected 0 to 1, found {value!r}")
    for _, layer in quantized_layers(model):
        layer.lambda_ = value


def quantized_layers(model: nn.Module) -> list[tuple[str, QuantizedLayer]]:
    """Quantized layers with their dotted names, in the order of the module tree."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, QuantizedLayer)]


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names this module; its submodules go with it, so that "head.*" means "head" too."""
    whole = pattern.removesuffix(".*") or pattern
    return fnmatchcase(name, whole)


def _closest(pattern: str, model: nn.Module, count: int = 5) -> list[str]:
    """Names of layers, and of modules that hold some, most like a pattern that matches nothing."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
    names: dict[str, None] = {}
    for name, module in model.named_modules():
        if isinstance(module, layers):
            parts = name.split(".")
            names |= dict.fromkeys(".".join(parts[: end + 1]) for end in range(len(parts)))
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(pattern.removesuffix(".*"))

    def likeness(name: str) -> float:
        ratios = []
        for text in {name, name.rpartition(".")[2]}:  # people leave out what is in front
            matcher.set_seq1(text)
            ratios.append(matcher.ratio())
        return max(ratios)

    return sorted(filter(None, names), key=likeness, reverse=True)[:count]


class _Converter:
    """Walks a module tree once; a module that hangs in two places is replaced by one and the same layer."""

    def __init__(self, config: QuantConfig, patterns: tuple[str, ...]) -> None:
        self.config = config
        self.patterns = patterns
        self.count = 0
        self._done: dict[nn.Module, nn.Module] = {}

    def convert(self, module: nn.Module, name: str) -> nn.Module:
        if any(_matches(name, pattern) for pattern in self.patterns):
            return module
        if module in self._done:
            return self._done[module]
        replacement = self._layer(module, name)
        self._done[module] = replacement
        if isinstance(replacement, QuantizedLayer):
            self.count += 1
            return replacement
        # Not named_children(): that passes over a module which hangs here under a second name.
        for child_name, child in list(replacement._modules.items()):
            if child is not None:
                path = f"{name}.{child_name}" if name else child_name
                setattr(replacement, child_name, self.convert(child, path))
        return replacement

    def _layer(self, module: nn.Module, name: str) -> nn.Module:
        config = self.config
        if type(module) is nn.MultiheadAttention:
            try:
                return SplitAttention(module)
            except ValueError as error:
                advice = "leave it in float with --keep"
                raise Unsupported(f"{name}: nn.MultiheadAttention with {error} cannot be quantized: {advice}") from None
        if isinstance(module, nn.TransformerEncoder):
            # Nested tensors bypass the layers' forward.
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            # Tells its forward to call the layers, not a fused kernel over their raw weights.
            module.activation_relu_or_gelu = 0
        if type(module) is nn.Linear:
            linear = BitLinear(
                module.in_features,
                module.out_features,
                module.bias is not None,
                bits=config.bits,
                measure=config.measure,
                norm=config.norm,
                bitlinear_compat=config.bitlinear_compat,
            )
            return _take_over(linear, module)
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            if _is_pointwise(module):
                pointwise = BitConv1x1(
                    module.in_channels,
                    module.out_channels,
                    module.bias is not None,
                    stride=module.stride,  # type: ignore[arg-type]
                    bits=config.bits,
                    measure=config.measure,
                )
                return _take_over(pointwise, module)
            if config.conv == "ternary" and module.groups == 1 and module.in_channels > _STEM_CHANNELS:
                ternary = BitConv2d(
                    module.in_channels,
                    module.out_channels,
                    module.kernel_size,  # type: ignore[arg-type]
                    module.stride,  # type: ignore[arg-type]
                    module.padding,  # type: ignore[arg-type]
                    module.dilation,  # type: ignore[arg-type]
                    module.bias is not None,
                    measure=config.measure,
                )
                return _take_over(ternary, module)
            if config.conv != "float":
                conv = Int8Conv2d(
                    module.in_channels,
                    module.out_channels,
                    module.kernel_size,  # type: ignore[arg-type]
                    module.stride,  # type: ignore[arg-type]
                    module.padding,  # type: ignore[arg-type]
                    module.dilation,  # type: ignore[arg-type]
                    module.groups,
                    module.bias is not None,
                )
                return _take_over(conv, module)
        if type(module) is nn.Conv1d and _is_pointwise(module) and module.stride == (1,):
            line = BitConv1d(
                module.in_channels,
                module.out_channels,
                module.bias is not None,
                bits=config.bits,
                measure=config.measure,
            )
            return _take_over(line, module)
        return module


def _is_pointwise(conv: nn.Conv1d | nn.Conv2d) -> bool:
    unpadded = conv.padding in ("same", "valid") or not any(conv.padding)
    return set(conv.kernel_size) == {1} and conv.groups == 1 and unpadded


def _take_over(new: nn.Module, old: nn.Module) -> nn.Module:
    """Gives `new` the very parameters, hooks aside, and the mode of `old`, so that tied weights stay tied."""
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    assert isinstance(weight, Tensor)
    setattr(new, "weight", weight)  # noqa: B010  (a Parameter goes through nn.Module.__setattr__)
    if isinstance(bias, torch.nn.Parameter):
        setattr(new, "bias", bias)  # noqa: B010
    return new.train(old.training)
