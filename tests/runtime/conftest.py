"""Fixtures of the runtime's tests: the sample models of engine_samples.py and bundles made of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.runtime.bundle import file_entry, write_bundle
from edge.runtime.manifest import InputSpec, Manifest, TensorSpec
from edge.runtime.preprocess import AudioPreprocess, ImagePreprocess
from tests.conftest import made_once, source_hash

ENGINES = {"pte": ("core", "executorch"), "tflite": ("litert",), "onnx": ("onnx",)}

COLOUR = ImagePreprocess(height=8, width=12, channels=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PITCH = AudioPreprocess(sample_rate=8000, samples=4064, window=256, hop=128, mels=16, fmin=20.0, fmax=4000.0)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of colour, pitch and pair as .pte, .tflite and .onnx, exported by the engines' own tools."""

    def make(folder: Path) -> None:
        for suffix in ENGINES:
            _write_samples(suffix, folder)

    return made_once("engine-samples", source_hash("tests/runtime/engine_samples.py"), make)


@pytest.fixture(scope="session")
def edge_op_sample() -> Path:
    """Folder of ternary.pte, a program of one `edge::` operator, and ternary.npz."""
    key = source_hash("tests/runtime/engine_samples.py", "export/ops.py")
    return made_once("edge-op-sample", key, lambda folder: _write_samples("edge-op", folder))


@pytest.fixture(scope="session")
def sample_arrays(samples: Path) -> Callable[[str], tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]]:
    """Function from a sample's name to its example inputs and what eager PyTorch computes from them."""

    def read(name: str) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        arrays = np.load(samples / f"{name}.npz")
        inputs = [arrays[key] for key in sorted(arrays) if key.startswith("input")]
        return inputs, [arrays[key] for key in sorted(arrays) if key.startswith("output")]

    return read


@pytest.fixture(scope="session")
def colour_manifest() -> Manifest:
    """A manifest of the colour classifier without files."""
    return Manifest(
        name="colour",
        version="1.0.0",
        task="image-classification",
        created="2026-11-23T07:00:00Z",
        license="Apache-2.0",
        inputs=(InputSpec("image", "float32", (1, 3, 8, 12), COLOUR),),
        outputs=(TensorSpec("logits", "float32", (1, 3)),),
        labels=("red", "green", "blue"),
        files={},
        generator={"edge": "0.1.0"},
        training={"epochs": 0, "seed": None, "notes": ["set by hand"]},
    )


@pytest.fixture(scope="session")
def colour_bundle(samples: Path, colour_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """colour.edge with a file for every engine."""
    return _bundle(tmp_path_factory.mktemp("bundles") / "colour.edge", colour_manifest, samples, "colour")


@pytest.fixture(scope="session")
def pitch_bundle(samples: Path, colour_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pitch.edge with a file for every engine."""
    manifest = replace(
        colour_manifest,
        name="pitch",
        task="audio-classification",
        inputs=(InputSpec("sound", "float32", (1, 1, 30, 16), PITCH),),
        outputs=(TensorSpec("logits", "float32", (1, 2)),),
        labels=("low", "high"),
    )
    return _bundle(tmp_path_factory.mktemp("bundles") / "pitch.edge", manifest, samples, "pitch")


def _write_samples(what: str, folder: Path) -> None:
    script = Path(__file__).with_name("engine_samples.py")
    subprocess.run([sys.executable, str(script), what, str(folder)], check=True, capture_output=True)


def _bundle(path: Path, manifest: Manifest, samples: Path, name: str) -> Path:
    files = {f"model.{suffix}": samples / f"{name}.{suffix}" for suffix in ENGINES}
    entries = {file: file_entry(source, ENGINES[source.suffix[1:]]) for file, source in files.items()}
    write_bundle(path, replace(manifest, files=entries), files)
    return path
