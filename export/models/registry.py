"""What is known about a model before it is built, and the models that ship with the SDK."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from torch import nn

from edge.export.models.cct import CCT, VARIANTS
from edge.export.models.ds_cnn import DSCNN
from edge.export.models.mlp import MLP

if TYPE_CHECKING:
    from edge.export.models.spec import ModelSpec


@dataclass(frozen=True)
class ModelInfo:
    """One model: an entry of the registry, or the user's own.

    Attributes:
        name: what `edge export` takes.
        family: "cct", "ds_cnn", "mlp" or "user".
        description: one line.
        paper: where it comes from.
        input_shape: of one sample as published, (channels, height, width); empty for the user's own.
        num_classes: as published.
        factory: makes the module from keyword arguments.
        kwargs: arguments of the factory that make this variant; others override them.
        keep: patterns of modules that stay in float when the model is quantized.
        preprocess: the data it is for: "image", "audio" or "any".
        rate: peak learning rate that it bears.
    """

    name: str
    family: str
    description: str
    paper: str
    input_shape: tuple[int, ...]
    num_classes: int
    factory: Callable[..., nn.Module]
    kwargs: dict[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    preprocess: str = "any"
    rate: float = 1e-3

    def spec(self, **kwargs: Any) -> ModelSpec:
        """This model with arguments, most of all "num_classes" and "input_shape"."""
        from edge.export.models.spec import ModelSpec  # spec.py looks names up here

        return ModelSpec(self.name, kwargs)

    def shape_for(self, data: str, size: tuple[int, int] | None = None) -> tuple[int | None, int, int] | None:
        """The `input_shape` to load a data set with.

        Args:
            data: as `load_dataset` takes it.
            size: (height, width) that the user asked for.

        Returns:
            (channels, height, width), channels None for the data's own; or None for the data's own shape.
        """
        if size is not None:
            return (None, *size)
        if self.preprocess != "image" or (data == "digits" and max(self.input_shape[1:]) <= 32):
            return None
        return (None, self.input_shape[1], self.input_shape[2])


# SHI-Labs' names end in the image side, then "sine", then the data set whose number of classes the checkpoint has.
_OFFICIAL = re.compile(r"(?P<base>cct_\d+_\d+x\d+)(_(?P<size>\d+))?(?P<sine>_sine)?(?P<data>_c100|_fl)?")
_CLASSES = {"_c100": 100, "_fl": 102}
_SMALL_RATE = 3e-3


@cache
def registry() -> dict[str, ModelInfo]:
    """All models by name; `find` knows SHI-Labs' longer names too."""
    entries = [_cct(name) for name in VARIANTS]
    entries.append(
        ModelInfo(
            "ds_cnn",
            "ds_cnn",
            "Depthwise-separable CNN for keyword spotting on log-mel features",
            "Zhang et al., Hello Edge, arXiv 1711.07128; MLPerf Tiny, arXiv 2106.07597",
            (1, 49, 40),
            12,
            DSCNN,
            preprocess="audio",
            rate=_SMALL_RATE,
        )
    )
    entries.append(
        ModelInfo(
            "mlp", "mlp", "Multi-layer perceptron over the flattened input", "", (1, 16, 16), 10, MLP, rate=_SMALL_RATE
        )
    )
    return {entry.name: entry for entry in entries}


def find(name: str) -> ModelInfo | None:
    """The entry of a name, SHI-Labs' forms such as cct_7_3x1_32_sine_c100 included; None if there is none."""
    if name in registry():
        return registry()[name]
    match = _OFFICIAL.fullmatch(name)
    if match is None or match["base"] not in VARIANTS:
        return None
    size = int(match["size"]) if match["size"] else VARIANTS[match["base"]].sizes[0]
    if size not in VARIANTS[match["base"]].sizes:
        return None
    return _cct(match["base"], name, size, bool(match["sine"]), match["data"])


def _cct(base: str, name: str = "", size: int | None = None, sine: bool = False, data: str | None = None) -> ModelInfo:
    variant = VARIANTS[base]
    size = size or variant.sizes[0]
    layers, tokenizer = base.split("_")[1:]
    architecture = asdict(variant)
    for key in ("sizes", "num_classes", "drop_rate"):
        del architecture[key]
    rates = {"attention_dropout": variant.drop_rate, "stochastic_depth": variant.drop_rate}
    shape = (3, size, size)
    classes = _CLASSES.get(data or "", variant.num_classes)
    positions = "sine" if sine else "learnable"
    return ModelInfo(
        name or base,
        "cct",
        f"Compact Convolutional Transformer, {layers} layers, {tokenizer} tokenizer",
        "Hassani et al., Escaping the Big Data Paradigm, arXiv 2104.05704",
        shape,
        classes,
        partial(CCT, **architecture),
        {"input_shape": shape, "num_classes": classes, "positional_embedding": positions, **rates},
        # One row of weights that decides how the sequence is pooled: nothing to win, much to lose.
        keep=("*attention_pool*",),
        preprocess="image",
        rate=_SMALL_RATE if variant.dim <= 128 else 1e-3,
    )
