"""Small programs whose last layers learn, as .pte: `python learn_programs.py OUTPUT_FOLDER`. Weights are random.

Run as a script in its own process, because the exporters are slow to import and noisy.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

LEARNABLE = {
    "mlp_ternary": 2,
    "mlp_int2": 2,
    "mlp_int4": 2,
    "mlp_int8": 2,
    "mlp_float": 2,
    "mlp_196": 2,
    "head_256": 1,
    "cnn": 3,
    "cnn_ternary": 1,
    "ds_cnn": 4,
    "windows": 3,
    "tanh": 3,
    "portable_mlp": 3,
    "portable_cnn": 3,
    "softmax": 1,
}
"""Layers that learn, by name of the program."""

REFUSED = {
    "gelu": "edge::linear.out: this activation function",
    "residual": "edge::linear.out: a residual",
    "norm": "edge::layer_norm.out: this operator",
    "tokens": "edge::linear.out: several rows",
}
"""What more than one layer of a program stumbles over."""


LAYOUTS = ("rows", "pairs", "trits", "planes")
"""In which odd_LAYOUT.pte has the same ternary weights, of which no size is a multiple of four."""


def learn_folder() -> Path:
    """The folder of all programs, exported the first time."""
    from tests.conftest import made_once, source_hash

    def make(folder: Path) -> None:
        result = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-4000:]

    return made_once("learn-programs", source_hash("export/**/*.py", "tests/runtime/learn/learn_programs.py"), make)


def write_all(folder: Path) -> None:
    import torch
    from executorch.exir import to_edge
    from torch import Tensor, nn
    from torch.nn import functional as F

    from edge.export.lower.freeze import freeze
    from edge.export.lower.pte import to_pte
    from edge.export.quantize import QuantConfig, ternarize

    class Mlp(nn.Module):
        def __init__(self, *widths: int, activation: type[nn.Module] = nn.ReLU) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for inputs, outputs in pairwise(widths[:-1]):
                layers += [nn.Linear(inputs, outputs), activation()]
            self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(*widths[-2:]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    class Cnn(nn.Module):
        """16 x 16: 3,818 parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
            self.head = nn.Linear(256, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.first(x)), 2)
            return self.head(F.max_pool2d(F.relu(self.second(x)), 2).flatten(1))

    class Separable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.depth = nn.Conv2d(1, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1, groups=6)
            self.point, self.head = nn.Conv2d(6, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.point(F.relu(self.depth(F.relu6(self.stem(x))))))
            return self.head(x.mean((2, 3)))

    class Windows(nn.Module):
        """Overlapping windows with padding and dilation, groups, strides that differ; no biases."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(2, 4, (3, 2), (1, 2), (2, 1), (2, 1), bias=False)
            self.second, self.head = nn.Conv2d(4, 6, 3, 1, 1, groups=2), nn.Linear(36, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(torch.sigmoid(self.first(x)), 3, 2, 1)
            x = torch.tanh(self.second(x))
            return self.head(F.avg_pool2d(x, (2, 1), (2, 1)).flatten(1))

    class PortableCnn(nn.Module):
        """As people write it: pooled, then activated."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(F.max_pool2d(self.first(x), 2))
            x = F.relu(F.max_pool2d(self.second(x), 2))
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 256), nn.Linear(256, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.gelu(self.body(x)))

    class Softmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 7), nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.gelu(self.body(x))).softmax(-1)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x + self.b(x))

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x)))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).flatten(1))

    def edge(name: str, model: nn.Module, shape: tuple[int, ...], bits: float = 32, layout: str = "rows") -> None:
        example = (torch.randn(1, *shape),)
        model.eval()
        with torch.no_grad():
            if bits != 32:
                model = ternarize(model, config=QuantConfig(bits=bits))
            to_pte(freeze(model, example), example, folder / f"{name}.pte", layout=layout)

    def portable(name: str, model: nn.Module, shape: tuple[int, ...]) -> None:
        exported = torch.export.export(model.eval(), (torch.randn(1, *shape),))
        (folder / f"{name}.pte").write_bytes(to_edge(exported).to_executorch().buffer)

    torch.manual_seed(0)
    for name, bits in (("ternary", 1.58), ("int2", 2), ("int4", 4), ("int8", 8), ("float", 32)):
        edge(f"mlp_{name}", Mlp(64, 32, 10), (1, 8, 8), bits)
    for layout in LAYOUTS:
        torch.manual_seed(1)  # the same weights in each
        edge(f"odd_{layout}", Mlp(13, 11, 7), (13,), 1.58, layout)
    edge("mlp_196", Mlp(196, 64, 10), (1, 14, 14))
    edge("head_256", Head(), (8,), 1.58)
    edge("cnn", Cnn(), (1, 16, 16))
    edge("cnn_ternary", Cnn(), (1, 16, 16), 1.58)
    edge("ds_cnn", Separable(), (1, 12, 10))
    edge("windows", Windows(), (2, 7, 9))
    edge("tanh", Mlp(6, 7, 5, 4, activation=nn.Tanh), (6,))
    portable("portable_mlp", Mlp(6, 9, 8, 4), (6,))
    portable("portable_cnn", PortableCnn(), (1, 16, 18))
    portable("softmax", Softmax(), (6,))
    edge("gelu", Mlp(6, 7, 4, activation=nn.GELU), (6,))
    edge("residual", Residual(), (6,))
    edge("norm", Norm(), (6,))
    edge("tokens", Tokens(), (5, 6))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
