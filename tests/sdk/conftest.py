"""A folder with the files that the documented commands speak of."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

_MY_MODEL = """\
from collections import OrderedDict

from torch import nn


def build(num_classes, input_shape):
    body = nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, num_classes))
    return nn.Sequential(OrderedDict(body=body, head=head))
"""


@pytest.fixture(scope="session")
def workspace(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits.edge, digit.png (a 7), samples/ with one image and one array, and a reader's own model and data sets.

    Those are my_model.py, photos/ and recordings/, and the archives photos.zip and recordings.tar.gz.
    """
    image = pytest.importorskip("PIL.Image")
    sklearn = pytest.importorskip("sklearn.datasets")
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copy(digits_bundle, folder / "digits.edge")
    digits = sklearn.load_digits()
    pixels = np.rint(digits.images[7] * (255 / 16)).astype(np.uint8)
    assert digits.target[7] == 7
    image.fromarray(pixels).save(folder / "digit.png")
    (folder / "samples").mkdir()
    image.fromarray(pixels).save(folder / "samples" / "seven.png")
    np.save(folder / "samples" / "seven.npy", pixels[:, :, None])
    (folder / "samples" / "notes.txt").write_text("not an input")
    (folder / "my_model.py").write_text(_MY_MODEL)
    generator = np.random.default_rng(0)
    for name, colour in (("night", 60), ("day", 190)):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            photo = np.clip(generator.normal(colour, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
            image.fromarray(photo).save(folder / "photos" / name / f"{number}.png")
    for name, hertz in (("low", 300), ("high", 1500)):
        (folder / "recordings" / name).mkdir(parents=True)
        for number in range(20):
            tone = np.sin(2 * np.pi * hertz * np.arange(4000) / 8000) + generator.normal(0, 0.1, 4000)
            _write_wav(folder / "recordings" / name / f"{number}.wav", 8000, tone / 2)
    shutil.make_archive(str(folder / "photos"), "zip", folder, "photos")
    shutil.make_archive(str(folder / "recordings"), "gztar", folder, "recordings")
    return folder


def _write_wav(path: Path, rate: int, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
