"""Whole models with the edge:: operators, as .pte: `python edge_models.py OUTPUT_FOLDER`. Weights are random.

Run as a script in its own process, because the exporters are slow to import and noisy.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = ("cct_2_3x2", "ds_cnn", "cct_2_3x2_float", "ds_cnn_float")
"""At 1.58 bits, and in float what bears that in its name."""


def model_folder() -> Path:
    """The folder of NAME.pte for all names, exported the first time."""
    from tests.conftest import made_once, source_hash

    def make(folder: Path) -> None:
        result = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    key = source_hash("export/**/*.py", "tests/runtime/edge_models.py")
    return made_once("edge-models", key, make)


def write(name: str, folder: Path) -> None:
    """NAME.pte of the architecture's own input shape."""
    import torch

    from edge.export.lower.freeze import freeze
    from edge.export.lower.pte import to_pte
    from edge.export.models import ModelSpec, registry
    from edge.export.quantize import QuantConfig, ternarize

    architecture = name.removesuffix("_float")
    info = registry()[architecture]
    spec = ModelSpec(architecture, {"num_classes": info.num_classes, "input_shape": list(info.input_shape)})
    torch.manual_seed(0)
    example = (torch.randn(1, *info.input_shape),)
    with torch.no_grad():
        model = spec.build().eval()
        if architecture == name:
            model = ternarize(model, config=QuantConfig(keep=info.keep))
        to_pte(freeze(model, example), example, folder / f"{name}.pte")


if __name__ == "__main__":
    for one in NAMES:
        write(one, Path(sys.argv[1]))
