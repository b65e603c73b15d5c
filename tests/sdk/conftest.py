"""A folder with the files that the documented commands speak of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def workspace(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits.edge, digit.png (a 7), and samples/ with one image and one array."""
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
    return folder
