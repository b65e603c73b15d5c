"""Does a model learn on its device as well as the same SGD in numpy? `python benchmarks/learning.py`

A frozen ternary body, the head of ten classes set to zero; then the digits (scikit-learn) or spoken digits are
streamed, each sample once: predicted, then learned. The same is done in numpy (edge.export.learning_reference), from
the features of the body. Both accuracies are told: over the stream ("test, then train"), and on samples that were held
out.

With --board NAME, the device is that board, emulated, with firmware built for the body (`[firmware]`); with --connect,
whatever has that program at this address. Without either, it is this machine.

Exits with 1 where the device's accuracy is more than two points below numpy's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
DATA = Path(os.environ.get("EDGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def digits(seed: int) -> tuple[list[F32], list[int]]:
    """[1, 8, 8] in 0 … 1, in a random order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    return [(found.images[i][None] / 16).astype(np.float32) for i in order], [int(found.target[i]) for i in order]


def spoken(seed: int, place: Path) -> tuple[list[F32], list[int]]:
    """Log-mel features [1, 16, 16] of the Free Spoken Digit Dataset, in a random order."""
    import io
    import tarfile
    import wave

    from edge.runtime.preprocess import AudioPreprocess

    prepare = AudioPreprocess(8000, 8012, 512, 500, 16, 60.0, 4000.0, -5.0, 4.0)
    x, y = [], []
    with tarfile.open(place) as archive:
        for member in sorted(archive.getmembers(), key=lambda one: one.name):
            if not member.name.endswith(".wav"):
                continue
            content = archive.extractfile(member)
            assert content is not None
            with wave.open(io.BytesIO(content.read())) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
            x.append(prepare((8000, samples))[0])
            y.append(int(Path(member.name).name[0]))
    order = np.random.default_rng(seed).permutation(len(y))[:1800]
    return [x[i] for i in order], [y[i] for i in order]


def body_trained_on(x: Sequence[F32], y: Sequence[int], classes: Sequence[int], hidden: int) -> bytes:
    """A ternary MLP as a .pte, trained on some of the classes alone: what the head then learns is new to the body."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from edge.export.lower.freeze import freeze
    from edge.export.lower.pte import to_pte
    from edge.export.quantize import QuantConfig, ternarize

    torch.manual_seed(0)
    size = x[0].size
    model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    model = ternarize(model, config=QuantConfig(bits=1.58))
    known = [i for i, label in enumerate(y) if label in classes]
    inputs, targets = torch.tensor(np.stack([x[i] for i in known])), torch.tensor([y[i] for i in known])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(60):
        for batch in torch.randperm(len(known)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    example = (inputs[:1],)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.eval()
        to_pte(freeze(model, example), example, Path(folder) / "body.pte")
        return (Path(folder) / "body.pte").read_bytes()


def stream_on(model: Any, x: Sequence[F32], y: Sequence[int], rate: float, train: int) -> dict[str, float]:
    """Through the Model interface alone."""
    learner = model.learner(layers=1, learning_rate=rate)
    learner.weights = np.zeros_like(learner.weights)
    correct = sum(model.learn(x[i][None], y[i]).correct for i in range(train))
    held = [int(np.argmax(model(x[i][None]))) == y[i] for i in range(train, len(x))]
    return {"online": correct / train, "held_out": float(np.mean(held)), "bytes": learner.budget.total_bytes}


def stream_in_numpy(program: bytes, x: Sequence[F32], y: Sequence[int], rate: float, train: int) -> dict[str, float]:
    """The oracle, on the features that the body gives it."""
    from edge.export.learning_reference import Dense, LearningReference, tail_of
    from edge.runtime._core import Program

    body = Program(program)
    tail, first = tail_of(body.trace([x[0][None]]), 1)
    head = tail[-1]
    assert isinstance(head, Dense)
    head.weight[:], head.bias[:] = 0, 0
    oracle = LearningReference(tail, rate)

    def features(sample: F32) -> F32:
        return np.asarray(body.trace([sample[None]])[first][1][0]).reshape(-1)

    correct = sum(oracle.learn(features(x[i]), y[i])[0] == y[i] for i in range(train))
    held = [int(np.argmax(oracle.forward(features(x[i]))[-1])) == y[i] for i in range(train, len(x))]
    return {"online": correct / train, "held_out": float(np.mean(held))}


def opened(program: bytes, arguments: argparse.Namespace, folder: Path) -> Any:
    """The body where it is to learn, as a Model."""
    place = folder / "body.pte"
    place.write_bytes(program)
    if arguments.board:
        from edge.firmware_bridge import connect
        from edge.firmware_bridge.board import find_board
        from edge.firmware_bridge.build import build_firmware, read_model
        from edge.firmware_bridge.signature import FirmwareKey

        key = FirmwareKey.generate()
        made = build_firmware(read_model(place), find_board(arguments.board), folder / "body.elf", key)
        return connect(f"emulate:{arguments.board}:{made.elf}", key)
    if arguments.connect:
        from edge.firmware_bridge import connect

        return connect(arguments.connect, arguments.key)
    from edge.runtime import load

    return load(place, learned=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "spoken"], default="digits")
    parser.add_argument(
        "--spoken", type=Path, default=DATA / "fsdd" / "fsdd_recordings.tar.gz", help="archive of the WAVs"
    )
    parser.add_argument("--samples", type=int, default=1797, help="of the stream and held out, in all")
    parser.add_argument("--hidden", type=int, default=64, help="width of the body")
    parser.add_argument("--known", type=int, default=5, help="classes that the body was trained on")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", type=Path, help="write the program here, for a firmware that is to run it")
    parser.add_argument("--board", help="an emulated board that learns, as lm3s6965evb")
    parser.add_argument("--connect", help="the device that learns; it must run the same program")
    parser.add_argument("--key", type=Path, help="of the owner of the device of --connect")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    arguments = parser.parse_args()
    x, y = digits(arguments.seed) if arguments.data == "digits" else spoken(arguments.seed, arguments.spoken)
    x, y = x[: arguments.samples], y[: arguments.samples]
    train = round(0.8 * len(x))
    program = body_trained_on(x[:train], y[:train], range(arguments.known), arguments.hidden)
    if arguments.program:
        arguments.program.write_bytes(program)
    with tempfile.TemporaryDirectory() as folder, opened(program, arguments, Path(folder)) as model:
        device = stream_on(model, x, y, arguments.rate, train)
    wanted = stream_in_numpy(program, x, y, arguments.rate, train)
    print(f"{len(x)} samples of {arguments.data}; body {x[0].size}->{arguments.hidden} knows {arguments.known} classes")
    print(f"{'':8}{'online':>9}{'held out':>10}")
    for name, found in (("device", device), ("numpy", wanted)):
        print(f"{name:8}{found['online']:9.2%}{found['held_out']:10.2%}")
    print(f"learning takes {device['bytes']:,.0f} bytes")
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = {
        "data": arguments.data,
        "where": arguments.board or arguments.connect,
        "device": device,
        "numpy": wanted,
    }
    (arguments.out / f"learning-{arguments.data}.json").write_text(json.dumps(document, indent=1) + "\n")
    behind = max(wanted[part] - device[part] for part in ("online", "held_out"))
    return int(behind > 0.02)


if __name__ == "__main__":
    sys.exit(main())
