"""Models: Compact Convolutional Transformers, a keyword-spotting DS-CNN, an MLP, and the user's own."""

from edge.export.models.pretrained import load_pretrained
from edge.export.models.registry import ModelInfo, registry
from edge.export.models.spec import ModelSpec, resolve

__all__ = ["ModelInfo", "ModelSpec", "load_pretrained", "registry", "resolve"]
