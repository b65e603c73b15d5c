"""Small programs exported by plain ExecuTorch, for the tests of the core: `python pte_samples.py OUTPUT_FOLDER`.

Run as a script in its own process, because ExecuTorch is slow to import and noisy. Writes NAME.pte and NAME.npz (arrays
input0 …, output0 …: what eager PyTorch computes). Nothing here uses the `edge` operators: these are programs as
anyone's ExecuTorch would write them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """Two hidden layers with different activations, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(h + F.gelu(self.second(h))).softmax(-1)


class Cnn(nn.Module):
    """Convolution, BatchNorm, max pooling, a depthwise block, global average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pointwise = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.Hardtanh(-1.0, 1.0))
        self.head = nn.Linear(12, 4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pointwise(self.depthwise(self.stem(x))).mean((2, 3)))


class Block(nn.Module):
    """A pre-norm transformer encoder block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.linear1, self.linear2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(y)
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Cct(nn.Module):
    """A compact convolutional transformer (arXiv 2104.05704): conv tokenizer, blocks, sequence pooling."""

    def __init__(self, dim: int = 16, depth: int = 2, heads: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.tokenizer = nn.Sequential(nn.Conv2d(3, dim, 3, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.position = nn.Parameter(torch.randn(1, 64, dim) * 0.2)
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
        self.norm, self.pool, self.head = nn.LayerNorm(dim), nn.Linear(dim, 1), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.tokenizer(x).flatten(2).transpose(1, 2) + self.position))
        return self.head((self.pool(x).squeeze(-1).softmax(-1).unsqueeze(1) @ x).squeeze(1))


class Kinds(nn.Module):
    """Every kind of value: tensor lists, None, doubles, booleans; two inputs and three outputs, one twice."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = torch.cat([x * 2.0, y, x - y], 1)
        picked = torch.where(joined > 0.25, joined, joined.clamp(-0.5, 0.125))
        mean = picked.mean(1, keepdim=True)
        return picked, mean, picked.view(-1)


class Lists(nn.Module):
    """Operators whose output is a list of tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = x.split([1, 3, 2], 1)
        d, e = x.unbind(0)
        f, g = x.split(3, 1)
        return torch.cat([c, a, b], 1) + torch.cat([g, f], 1), d * e


class Zoo(nn.Module):
    """Indices, masks, windows, reductions, paddings and pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.register_buffer("limit", torch.tensor([1, 4, 6]))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        words = self.words(ids)
        mask = torch.logical_and(ids < self.limit, ids != 3)
        scores = words @ words.transpose(0, 1)
        causal = torch.arange(3).unsqueeze(1) >= torch.arange(3)
        weights = scores.masked_fill(torch.logical_not(causal & ~torch.logical_not(mask)), -1e9).log_softmax(-1)
        windows = F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, (2, 3)), F.max_pool2d(x, 2, 1, ceil_mode=True)
        edges = F.pad(x, (1, 0, 2, 1), value=0.5)[:, :, 1:-1:2]
        reduced = x.amax(-1), x.argmax(2), x.sum((0, 2)), (x.abs() + 1.0).pow(1.5).rsqrt().mean(1)
        scaled = x.div(x.exp() + 1.0).neg() - F.silu(x) * F.hardswish(x).tanh() + x.sigmoid().sqrt()
        return (weights @ words, *windows, edges, *reduced, scaled, words.expand(2, 3, 4)[1])


class Constant(nn.Module):
    """One output is a stored constant, one is the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6, dtype=torch.float32).view(2, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.table, x + self.table


class Counter(nn.Module):
    """A mutable buffer with an initial value, [0, 1, 2], to which the input is added."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.arange(3, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1.0)
        return x + self.count


class Views(nn.Module):
    """Views of an input and of an intermediate, which become et_view where nothing is planned for inputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.view(2, 6) * 3.0
        return y + 1.0, (y - 1.0).view(3, 4)


class Branch(nn.Module):
    """Control flow: jump and move instructions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t + 1.0, lambda t: t * 2.0, (x,))


class Sorting(nn.Module):
    """Two operators that the core does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(torch.sort(x)[0], 0)


class ScaledSum(nn.Module):
    """A batch of any size up to 8."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2.0).sum(1)


def image(*shape: int) -> tuple[Tensor, ...]:
    """A batch of one image of the given [C, H, W]."""
    return (torch.randn(1, *shape),)


SAMPLES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "mlp": (Mlp, lambda: (torch.randn(3, 12),)),
    "cnn": (Cnn, lambda: image(3, 16, 16)),
    "cct": (Cct, lambda: image(3, 16, 16)),
    "kinds": (Kinds, lambda: (torch.randn(2, 5), torch.randn(2, 5))),
    "lists": (Lists, lambda: (torch.randn(2, 6),)),
    "zoo": (Zoo, lambda: (torch.randn(1, 2, 6, 6), torch.tensor([0, 3, 5]))),
    "constant": (Constant, lambda: (torch.randn(2, 3),)),
    "counter": (Counter, lambda: (torch.randn(3),)),
    "unplanned": (Views, lambda: (torch.randn(12),)),
    "inline": (Mlp, lambda: (torch.randn(3, 12),)),
    "dynamic": (ScaledSum, lambda: (torch.randn(8, 3),)),
    "channels_last": (lambda: Cnn().to(memory_format=torch.channels_last), lambda: image(3, 16, 16)),
    "half": (lambda: Mlp().half(), lambda: (torch.randn(3, 12).half(),)),
    "branch": (Branch, lambda: (torch.randn(4),)),
    "sorting": (Sorting, lambda: (torch.randn(4),)),
    "delegate": (Mlp, lambda: (torch.randn(3, 12),)),
}


def lower(name: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The program of one sample, through ExecuTorch's own passes."""
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass

    shapes = {"x": {0: torch.export.Dim("batch", min=2, max=8)}} if name == "dynamic" else None
    partitioner = []
    if name == "delegate":
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        partitioner = [XnnpackPartitioner()]
    config = ExecutorchBackendConfig()
    if name == "counter":
        config = ExecutorchBackendConfig(passes=[InitializedMutableBufferPass(["count"])])
    if name == "unplanned":
        config = ExecutorchBackendConfig(
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
        )
    exported = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    data = bytes(to_edge_transform_and_lower(exported, partitioner=partitioner).to_executorch(config).buffer)
    return reserialize(name, data) if name in ("counter", "inline") else data


def reserialize(name: str, data: bytes) -> bytes:
    """Rewrites a program: without the write-back of its buffer ("counter"), or with its constants inline ("inline")."""
    from executorch.exir._serialize._flatbuffer_program import _program_to_flatbuffer
    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

    file = deserialize_pte_binary(data)
    if name == "inline":  # as ExecuTorch wrote them before September 2024: no header, no segments
        file.program.constant_segment = None
        file.program.segments = []
        return _program_to_flatbuffer(file.program).data
    file.program.execution_plan[0].chains[0].instructions.pop()
    file.program.execution_plan[0].operators.pop()
    return bytes(serialize_pte_binary(file))


def write(name: str, folder: Path) -> None:
    """Export one sample: `folder`/`name`.pte and .npz."""
    torch.manual_seed(7)
    build, make_inputs = SAMPLES[name]
    model, inputs = build().eval(), make_inputs()
    (folder / f"{name}.pte").write_bytes(lower(name, model, inputs))
    with torch.no_grad():
        expected = model(*inputs)
    outputs = expected if isinstance(expected, tuple) else (expected,)
    arrays = {f"input{i}": x.numpy() for i, x in enumerate(inputs)}
    arrays |= {f"output{i}": y.numpy() for i, y in enumerate(outputs)}
    np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    for sample in SAMPLES:
        write(sample, Path(sys.argv[1]))
