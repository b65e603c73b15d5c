"""Small models in every engine's format, for the tests of the runtime: `python engine_samples.py FORMAT OUTPUT_FOLDER`.

Run as a script in its own process, because exporters are slow to import and noisy. Writes NAME.FORMAT for each sample
(and NAME_xnnpack.pte, delegated to XNNPACK), and NAME.npz (arrays input0 …, output0 …: what eager PyTorch computes).
FORMAT "edge-op" writes ternary.pte alone, with an operator of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Colour(nn.Module):
    """Tells red, green and blue pictures apart: RGB [1, 3, 8, 12] to 3 logits, with weights set by hand."""

    example = (torch.linspace(-1, 1, 288).reshape(1, 3, 8, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d((8, 12))
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[4.0, -2, -2], [-2, 4, -2], [-2, -2, 4]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mean(x).flatten(1))


class Pitch(nn.Module):
    """Tells low from high tones by log-mel features [1, 1, 30, 16]: 2 logits."""

    example = (torch.linspace(-2, 2, 480).reshape(1, 1, 30, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(480, 2), nn.Linear(2, 2)
        with torch.no_grad():
            low = (torch.arange(480) % 16 < 8).float() / 240
            self.hidden.weight.copy_(torch.stack([low, 1 / 240 - low]))
            self.hidden.bias.fill_(14.0)
            self.head.weight.copy_(torch.tensor([[1.0, -1], [-1, 1]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Pair(nn.Module):
    """Two inputs of different shapes, used in the other order, and two outputs."""

    example = (torch.linspace(-1, 1, 6).reshape(2, 3), torch.linspace(0, 1, 4).reshape(1, 4))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return y * 2.0 + 1.0, x.sum(1, keepdim=True) * y.sum()


class Ternary(nn.Module):
    """One `edge::` operator: a ternary linear layer of 21 inputs and 5 outputs, with norm, bias and ReLU."""

    example = (torch.linspace(-2, 3, 42).reshape(2, 21),)

    def __init__(self) -> None:
        super().__init__()
        codes = torch.arange(5 * 24).reshape(5, 6, 4) * 7 % 3  # the last 3 of a row are padding: code 1
        codes[:, 5, 1:] = 1
        self.register_buffer("packed", (codes << torch.tensor([0, 2, 4, 6])).sum(-1).to(torch.uint8))
        self.register_buffer("scales", torch.tensor([0.25]))
        self.register_buffer("bias", torch.linspace(-1, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.edge.ternary_linear(x, self.packed, self.scales, self.bias, None, 1e-5, 1, False)


SAMPLES = {"colour": Colour, "pitch": Pitch, "pair": Pair}


def write(model: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    if path.suffix == ".pte":
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        for name, partitioners in ((path.name, []), (f"{path.stem}_xnnpack.pte", [XnnpackPartitioner()])):
            program = to_edge_transform_and_lower(torch.export.export(model, example), partitioner=partitioners)
            path.with_name(name).write_bytes(bytes(program.to_executorch().buffer))
    elif path.suffix == ".tflite":
        import litert_torch

        litert_torch.convert(model, example).export(str(path))
    else:
        torch.onnx.export(model, example, str(path), dynamo=True, external_data=False)


def write_sample(name: str, model: nn.Module, suffix: str, folder: Path) -> None:
    inputs: tuple[Tensor, ...] = model.example
    write(model, inputs, folder / f"{name}.{suffix}")
    with torch.no_grad():
        result = model(*inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    arrays = {f"input{i}": x.numpy() for i, x in enumerate(inputs)}
    arrays |= {f"output{i}": y.numpy() for i, y in enumerate(outputs)}
    np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    if sys.argv[1] == "edge-op":
        import edge.export.ops  # noqa: F401 - registers the operators

        write_sample("ternary", Ternary().eval(), "pte", Path(sys.argv[2]))
    else:
        for name, build in SAMPLES.items():
            write_sample(name, build().eval(), sys.argv[1], Path(sys.argv[2]))
